"""Published weight files, and the errors that their publishers report. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipeline.config.crop_plan import CropPlan, builtin_plan
from pipeline.ground.counting import counted

TOLERANCE_PERCENT = 0.06
"""The largest difference of a correct port: decoders, resize kernels and rounding change that many images."""

PLAN = "center224"
"""The crop plan of the published errors."""
_NUM_IMAGES = 50_000

_NOT_RESTRICTED, _RESTRICTED = "top1_error_percent", "restricted_top1_error_percent"


@dataclasses.dataclass(frozen=True)
class OtherSet:
    """What a publisher reports for other images of ILSVRC 2012's classes."""

    name: str
    images: int
    classes: int
    top1_accuracy_percent: float
    figure: str
    """The result here that it is to be compared with."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A public file's errors for the centre crop of 224 px from a short side of 256 px, 50,000 validation images."""

    file: str
    publisher: str
    """Publisher with verb, as in "Cadene reports"."""
    layout: str
    sha256_prefix: str
    """First hex digits of the file's SHA-256."""
    model: str
    """Our name of the network."""
    top1_error_percent: float
    top5_error_percent: float
    other_sets: tuple[OtherSet, ...] = ()

    def other_set(self, images: int, classes: int) -> OtherSet | None:
        """Return the other set of so many images and classes that there are figures for, or None."""
        return next((each for each in self.other_sets if (each.images, each.classes) == (images, classes)), None)


_LEGACY_SETS = (
    OtherSet("ImageNet-V2, matched frequency", 10_000, 1000, 70.490, _NOT_RESTRICTED),
    OtherSet("ImageNet-A", 7_500, 200, 18.933, _RESTRICTED),
    OtherSet("ImageNet-R", 30_000, 200, 42.323, _RESTRICTED),
)
"""timm's; for ImageNet-A and -R among their 200 classes alone."""

KNOWN = (
    Published("senet154-c7b49a05.pth", "Cadene reports", "cadene", "c7b49a05", "senet154", 18.696, 4.502),
    Published(
        "legacy_senet154-e9eb9fe6.pth",
        "timm (legacy_senet154.in1k) reports",
        "cadene",
        "e9eb9fe6",
        "senet154",
        18.680,
        4.498,
        _LEGACY_SETS,
    ),
    Published(
        "gluon_senet154-70a1a3c0.pth",
        "timm (senet154.gluon_in1k) reports",
        "gluon",
        "70a1a3c0",
        "senet154",
        18.742,
        4.642,
    ),
    *(
        Published(f"{model}-{sha256}.pth", "Cadene reports", "cadene", sha256, model, top1, top5)
        for model, sha256, top1, top5 in (
            ("se_resnet50", "ce0d4300", 22.364, 6.248),
            ("se_resnet101", "7e38fcc6", 21.604, 5.742),
            ("se_resnet152", "d17c99b7", 21.342, 5.626),
            ("se_resnext50_32x4d", "a260b3a4", 20.924, 5.566),
            ("se_resnext101_32x4d", "3b2fe3d8", 19.764, 4.972),
        )
    ),
)

PORTED = frozenset(known.model for known in KNOWN)
"""Networks that there are public ports of, whose files share their names of tensors with this project's."""


def published(metadata: Mapping[str, str]) -> Published | None:
    """Return the published file these weights came from, or None, by the checksum that `import` wrote.

    The authors' own file has no public checksum, so nothing is said of it.
    """
    if metadata.get("num_classes") != "1000":
        return None
    layout, sha256 = metadata.get("source_layout"), metadata.get("source_sha256", "")
    for known in KNOWN:
        if (known.model, known.layout) == (metadata.get("model"), layout) and sha256.startswith(known.sha256_prefix):
            return known
    return None


def compare(known: Published, plan: CropPlan, num_images: int, top1_percent: float, top5_percent: float) -> str:
    """Return a sentence with the published errors and, for the same images and crops, the difference of these."""
    figures = (
        f"{known.publisher} {known.top1_error_percent:g} / {known.top5_error_percent:g} % top-1 / top-5 error "
        f"for {known.file}"
    )
    if plan != builtin_plan(PLAN) or num_images != _NUM_IMAGES:
        return (
            f"{figures}, on ILSVRC 2012's {_NUM_IMAGES:,} validation images with {PLAN}; "
            f"not comparable with {plan.name} of {counted(num_images, 'image')}"
        )
    off = (top1_percent - known.top1_error_percent, top5_percent - known.top5_error_percent)
    within = max(map(abs, off)) <= TOLERANCE_PERCENT + 1e-9
    verdict = f"within {TOLERANCE_PERCENT} of it" if within else f"MORE than {TOLERANCE_PERCENT} off"
    return f"{figures}; here {top1_percent:.3f} / {top5_percent:.3f} %: {off[0]:+.3f} / {off[1]:+.3f}, {verdict}"


def compare_accuracy(known: Published, other: OtherSet, plan: CropPlan, result: Mapping[str, float]) -> str:
    """Return a sentence with the published top-1 accuracy on another set, and this one."""
    among = "" if other.figure == _NOT_RESTRICTED else f" among its {other.classes} classes"
    told = (
        f"{known.publisher} {other.top1_accuracy_percent:.2f} % top-1 accuracy{among} for {known.file} on "
        f"{other.name}, which this is by its numbers of images and classes"
    )
    if plan != builtin_plan(PLAN):
        return f"{told}, with {PLAN}; not comparable with {plan.name}"
    here = 100 - result[other.figure]
    return f"{told}; here {here:.2f} %: {here - other.top1_accuracy_percent:+.2f}"
