"""Data set, preprocessing and augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.section import (
    IS_PATH,
    OPERATION,
    Names,
    Natural,
    NonNegative,
    PositiveInt,
    Section,
    Triple,
    as_tuple,
)


class DataConfig(Section):
    """The data set: folders, format and expectations."""

    dataset: Literal["imagenet", "folder", "digits", "cifar10", "cifar100"]
    """imagenet: ILSVRC 2012 with its counts and labels checked. folder: any tree of one folder per class. digits: the
    handwritten digits that come with scikit-learn, written out as JPEG folders. cifar10, cifar100: the published
    archives, whose test images validate; the pixels live in memory, and nothing is decoded."""
    root: Annotated[str | None, OPERATION, IS_PATH] = None
    """Folder with the images; relative paths start at the working directory. Not for digits. The layout is
    recognised: class folders, ImageNet's downloads, Kaggle's tree, WebDataset tars, parquet, Tiny-ImageNet
    (docs/imagenet.md); CIFAR's archives or what they unpack to."""
    train: Annotated[str, OPERATION, IS_PATH] = "train"
    """Training images below root: a folder, or a tar file."""
    val: Annotated[str, OPERATION, IS_PATH] = "val"
    """Validation images below root: in one folder per class, or (imagenet) flat; or a tar file."""
    val_ground_truth: Annotated[str | None, OPERATION, IS_PATH] = None
    """Labels of a flat `val`, if they are not below root: the devkit's ILSVRC2012_validation_ground_truth.txt, the
    devkit itself (ILSVRC2012_devkit_t12.tar.gz), or Kaggle's LOC_val_solution.csv."""
    val_fraction: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Where there are no validation images: this share of each class of the training images is held out as such
    (folder only)."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Which images `val_fraction` holds out."""
    unusable: Literal["stop", "skip"] = "stop"
    """What an image that cannot be used means (damaged, of an unsupported format). stop: an error with the list of all.
    skip: they are left out and listed."""
    test: Annotated[str | None, OPERATION, IS_PATH] = None
    """Unlabelled test images below root, all in the one folder; of imagenet the contest's 100,000."""
    exclude: Names = ()
    """Images to leave out, by name as `prepare` lists them (`train/n01440764/x.JPEG`)."""
    shards: Annotated[str | None, OPERATION, IS_PATH] = None
    """Folder for the images as WebDataset tar files of 1 GB, for parallel file systems: `prepare` writes them there or
    finds them there, and training and evaluation then open nothing else."""
    resize_train_px: PositiveInt | None = None
    """Store training images in the shards with this shorter side, if theirs is longer, as JPEG of quality 90. Fewer
    bytes and cheaper decoding, but other training images than the contest's."""

    @property
    def is_cifar(self) -> bool:
        """Whether the images are CIFAR's, which live in memory."""
        return self.dataset in ("cifar10", "cifar100")

    @model_validator(mode="after")
    def _root_where_needed(self) -> Self:
        if self.dataset == "digits" and self.root is not None:
            raise ValueError("root: the digits come with scikit-learn; leave data.root out")
        if self.dataset != "digits" and self.root is None:
            raise ValueError(f"root: the folder with the images is needed for dataset '{self.dataset}'")
        if self.val_ground_truth is not None and self.dataset != "imagenet":
            raise ValueError("val_ground_truth: only dataset 'imagenet' has a ground-truth file")
        if self.test is not None and (self.dataset == "digits" or self.is_cifar):
            raise ValueError(f"test: dataset '{self.dataset}' has no unlabelled test images")
        if self.shards is not None and self.is_cifar:
            raise ValueError("shards: CIFAR's images live in memory; leave it out")
        if self.val_fraction is not None and self.dataset != "folder":
            raise ValueError(f"val_fraction: dataset '{self.dataset}' has validation images of its own; leave it out")
        if self.resize_train_px is not None and self.shards is None:
            raise ValueError("resize_train_px: only shards are written anew; name a folder in data.shards for them")
        return self


class InputConfig(Section):
    """Normalisation of the pixels."""

    mean: Triple = (123.675, 116.28, 103.53)
    """RGB mean to subtract, on the 0 to 255 scale."""
    std: Triple = (58.395, 57.12, 57.375)
    """RGB standard deviation to divide by, on the 0 to 255 scale."""

    @model_validator(mode="after")
    def _std_is_positive(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std: must be positive (given {list(self.std)})")
        return self


_OF_RESIZED = ("area", "aspect", "aspect_draw", "rotation_degrees", "rotate")
_OF_PADDED = ("padding_px", "padding")


class AugmentationConfig(Section):
    """Random augmentation of training images."""

    crop: Literal["resized", "padded"] = "resized"
    """resized: a random part of the image, as `area` and `aspect` say, resized to the network's input. padded: a square
    of the network's size at a random place of the image and `padding_px` around it; nothing is resized."""
    padding_px: Natural = 4
    """Width of the border around the image in a padded crop."""
    padding: Literal["zero", "reflect"] = "zero"
    """Fill of the border in a padded crop. zero: zeros after normalisation, which is the mean colour. reflect:
    the image, mirrored at its edges (of images in memory alone: data.dataset cifar10 and cifar100)."""
    cutout_px: Natural = 0
    """Side of a square of zeros in each normalised image (Cutout), whose centre may be any pixel; 0: none."""
    area: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (0.08, 1.0)
    """Fraction of the image that the random crop covers."""
    aspect: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (0.75, 4 / 3)
    """Aspect ratio of the random crop, width by height."""
    aspect_draw: Literal["log_uniform", "uniform_swapped"] = "log_uniform"
    """How the aspect ratio is drawn. log_uniform: as torchvision does. uniform_swapped: uniformly, and every second
    time, at random, width and height are swapped; if no crop fits, it is the largest central square (fb.resnet.torch's
    RandomSizedCrop)."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How crops are resized, antialiased; validation, and the evaluation of the weights, resize so too."""
    flip: bool = True
    """Whether every second image, at random, is mirrored."""
    rotation_degrees: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Rotation by a uniform angle in ± this many degrees; pixels from outside the image have the mean colour."""
    rotate: Literal["after_crop", "before_crop"] = "after_crop"
    """What is rotated. after_crop: the resized crop, which loses its corners. before_crop: the image, about its centre,
    so that only what is beyond the image is lost; at 10 degrees 1.5 times as many pixels are resized for it."""
    pixel_jitter: NonNegative = 0.0
    """Amplitude of uniform noise added to each pixel and channel, on the 0 to 255 scale."""

    @property
    def kernel(self) -> Literal["bilinear_antialias", "bicubic_antialias"]:
        """Return the resizing kernel, which evaluation then uses too."""
        return "bicubic_antialias" if self.interpolation == "bicubic" else "bilinear_antialias"

    @model_validator(mode="after")
    def _keys_belong_to_the_crop(self) -> Self:
        other, names = ("resized", _OF_RESIZED) if self.crop == "padded" else ("padded", _OF_PADDED)
        idle = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            raise ValueError("\n".join(f"{name}: only crop '{other}' has it (given {self.crop})" for name in idle))
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ValueError(f"area: must satisfy 0 < low <= high <= 1 (given {[low, high]})")
        low, high = self.aspect
        if not 0 < low <= high:
            raise ValueError(f"aspect: must satisfy 0 < low <= high (given {[low, high]})")
        return self
