"""Published weight files, and the errors that their publishers report. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipeline.config.crop_plan import CropGroup, CropPlan, plan_of
from pipeline.ground.counting import counted

TOLERANCE_PERCENT = 0.06
"""The largest difference of a correct port: decoders, resize kernels and rounding change that many images."""

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
    """A public file's errors for a centre crop of the 50,000 validation images."""

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
    resize_px: int = 256
    """The images' shorter side before the crop."""
    crop_px: int = 224

    @property
    def plan(self) -> CropPlan:
        """The crop of the published errors."""
        crop = CropGroup(resize_px=self.resize_px, crop_px=self.crop_px)
        named = plan_of(f"center{self.crop_px}")
        if named.crops == (crop,):
            return named
        return CropPlan(name=f"{named.name}of{self.resize_px}", crops=(crop,))

    def is_measured_by(self, plan: CropPlan) -> bool:
        """Return whether a plan, whatever it is called, shows the network the crop of the published errors."""
        return plan.crops == self.plan.crops

    def other_set(self, images: int, classes: int) -> OtherSet | None:
        """Return the other set of so many images and classes that there are figures for, or None."""
        return next((each for each in self.other_sets if (each.images, each.classes) == (images, classes)), None)


_LEGACY_SETS = (
    OtherSet("ImageNet-V2, matched frequency", 10_000, 1000, 70.490, _NOT_RESTRICTED),
    OtherSet("ImageNet-A", 7_500, 200, 18.933, _RESTRICTED),
    OtherSet("ImageNet-R", 30_000, 200, 42.323, _RESTRICTED),
)
"""timm's; for ImageNet-A and -R among their 200 classes alone."""

_CADENE = (
    ("senet154-c7b49a05", "senet154", 18.696, 4.502),
    ("se_resnet50-ce0d4300", "se_resnet50", 22.364, 6.248),
    ("se_resnet101-7e38fcc6", "se_resnet101", 21.604, 5.742),
    ("se_resnet152-d17c99b7", "se_resnet152", 21.342, 5.626),
    ("se_resnext50_32x4d-a260b3a4", "se_resnext50_32x4d", 20.924, 5.566),
    ("se_resnext101_32x4d-3b2fe3d8", "se_resnext101_32x4d", 19.764, 4.972),
    ("resnext101_32x4d-29e315fa", "resnext101_32x4d", 21.812, 6.114),
    ("bn_inception-52deb4733", "bn_inception", 26.478, 8.44),
)
_TIMM = (
    ("legacy_senet154-e9eb9fe6", "legacy_senet154.in1k", "senet154", 18.680, 4.498),
    ("legacy_se_resnext50_32x4d-f3651bad", "legacy_seresnext50_32x4d.in1k", "se_resnext50_32x4d", 20.924, 5.568),
    ("legacy_se_resnext101_32x4d-37725eac", "legacy_seresnext101_32x4d.in1k", "se_resnext101_32x4d", 19.77, 4.974),
    ("gluon_senet154-70a1a3c0", "senet154.gluon_in1k", "senet154", 18.742, 4.642),
    ("gluon_seresnext50_32x4d-90cf2d6e", "seresnext50_32x4d.gluon_in1k", "se_resnext50_32x4d", 20.09, 5.176),
    ("gluon_seresnext101_32x4d-cf52900d", "seresnext101_32x4d.gluon_in1k", "se_resnext101_32x4d", 19.108, 4.704),
    ("gluon_resnet50_v1b-0ebe02e2", "resnet50.gluon_in1k", "resnet50", 22.42, 6.282),
    ("gluon_resnet101_v1b-3b017079", "resnet101.gluon_in1k", "resnet101", 20.69, 5.478),
    ("gluon_resnet152_v1b-c1edb0dd", "resnet152.gluon_in1k", "resnet152", 20.306, 5.264),
    ("gluon_resnext50_32x4d-e6a097c1", "resnext50_32x4d.gluon_in1k", "resnext50_32x4d", 20.64, 5.57),
    ("gluon_resnext101_32x4d-b253c8c4", "resnext101_32x4d.gluon_in1k", "resnext101_32x4d", 19.66, 5.07),
)
_TORCHVISION = (
    # The second files were trained for other images: 232 px instead of 256.
    ("resnet50-0676ba61", 23.87, 7.138, 256),
    ("resnet50-11ad3fa6", 19.142, 4.566, 232),
    ("resnet101-63fe2227", 22.626, 6.454, 256),
    ("resnet101-cd907fc2", 18.114, 4.22, 232),
    ("resnet152-394f9c45", 21.688, 5.954, 256),
    ("resnet152-f82ba261", 17.716, 3.998, 232),
    ("resnext50_32x4d-7cdf4587", 22.382, 6.302, 256),
    ("resnext50_32x4d-1a0047aa", 18.802, 4.66, 232),
    ("vgg16_bn-6c64b313", 26.64, 8.484, 256),
)


def _checksum(file: str) -> str:
    return file.rpartition("-")[2]


KNOWN = (
    *(
        Published(f"{file}.pth", "Cadene reports", "cadene", _checksum(file), model, top1, top5)
        for file, model, top1, top5 in _CADENE
    ),
    # With the default scale of its own evaluation, 0.875.
    Published(
        "inceptionresnetv2-520b38e4.pth",
        "Cadene reports",
        "cadene",
        "520b38e4",
        "inception_resnet_v2",
        19.83,
        4.766,
        resize_px=341,
        crop_px=299,
    ),
    Published("cafferesnet101-9d633cc0.pth", "Cadene reports", "cafferesnet", "9d633cc0", "resnet101", 23.8, 7.234),
    *(
        Published(
            f"{file}.pth",
            f"timm ({name}) reports",
            "cadene" if name.startswith("legacy_") else "timm",
            _checksum(file),
            model,
            top1,
            top5,
            _LEGACY_SETS if model == "senet154" and name.startswith("legacy_") else (),
        )
        for file, name, model, top1, top5 in _TIMM
    ),
    *(
        Published(
            f"{file}.pth",
            "torchvision reports",
            "torchvision",
            _checksum(file),
            file.partition("-")[0],
            top1,
            top5,
            resize_px=resize_px,
        )
        for file, top1, top5, resize_px in _TORCHVISION
    ),
)

PORTED = frozenset(known.model for known in KNOWN)
"""Networks with published files: where the names of a file's tensors are both ours and a port's, it is the port's."""


def file_of(sha256: str) -> Published | None:
    """Return the published file of that checksum, or None."""
    return next((known for known in KNOWN if sha256.startswith(known.sha256_prefix)), None)


def published(metadata: Mapping[str, str]) -> Published | None:
    """Return the published file these weights came from, or None, by the checksum that `import` wrote.

    The authors' own file has no public checksum, so nothing is said of it.
    """
    known = file_of(metadata.get("source_sha256", ""))
    is_whole = known is not None and (metadata.get("model"), metadata.get("num_classes")) == (known.model, "1000")
    return known if is_whole else None


def compare(known: Published, plan: CropPlan, num_images: int, top1_percent: float, top5_percent: float) -> str:
    """Return a sentence with the published errors and, for the same images and crops, the difference of these."""
    figures = (
        f"{known.publisher} {known.top1_error_percent:g} / {known.top5_error_percent:g} % top-1 / top-5 error "
        f"for {known.file}"
    )
    if not known.is_measured_by(plan) or num_images != _NUM_IMAGES:
        return (
            f"{figures}, on ILSVRC 2012's {_NUM_IMAGES:,} validation images with {known.plan.name}; "
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
    if not known.is_measured_by(plan):
        return f"{told}, with {known.plan.name}; not comparable with {plan.name}"
    here = 100 - result[other.figure]
    return f"{told}; here {here:.2f} %: {here - other.top1_accuracy_percent:+.2f}"
