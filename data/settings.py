"""The keys of `dataset` and `augmentation`, and the table of data sets."""

from dataclasses import dataclass

from sam.config import ConfigError, Settings, key
from sam.registry import Registry

DATASETS = Registry("dataset", by="name")


@dataclass(frozen=True)
class Description:
    """Sizes of a data set. train_size: images that are trained on; val_size: images held out for validation; image_size: pixels a side."""

    name: str
    train_size: int
    test_size: int
    image_size: int
    channels: int
    classes: int
    val_size: int = 0


@dataclass(frozen=True)
class DatasetConfig(Settings, prefix="dataset.", rows=DATASETS):
    name: str = key("cifar10", "the images", among=DATASETS)
    path: str | None = key(None, "an .npz: train_images, train_labels, test_images, test_labels; images uint8 (n, h, w, c) or (n, h, w)")
    root: str = key("datasets", "folder in which torchvision keeps its files")
    download: bool = key(True, "fetch them if they are not there")
    val_fraction: float = key(0.0, "share of the training set held out for choosing rho", low=0, high=0.9)
    label_noise: float = key(0.0, "share of the training labels replaced by a wrong one, on purpose", low=0, high=1)
    train_size: int | None = key(None, "use only this many training images; null: all that are left", low=1)
    val_size: int | None = key(None, "images held out before train_size are taken, the same for every run", low=1, late=True)
    sample: str = key("fixed", "seed: each seed draws its own training images and wrong labels", among=("fixed", "seed"), late=True)
    mean: list[float] | None = key(None, "of images scaled to [0, 1], one a channel; null: the data set's own", late=True, low=0, high=1)
    std: list[float] | None = key(None, "as mean", above=0, late=True)

    def relate(self) -> None:
        if self.name == "arrays" and not self.path:
            raise ConfigError("dataset.path=null: dataset=arrays needs dataset.path=FILE.npz.")
        if self.name == "digits" and self.path:
            raise ConfigError(f"dataset.path={self.path}: the digits are embedded and take no path; use dataset=arrays.")

    @property
    def label(self) -> str:
        return self.named(DATASETS[self.name].label)

    def named(self, name: str) -> str:
        """`name`, and what was changed about the data set."""
        noise = f", {100 * self.label_noise:g}% wrong training labels" if self.label_noise else ""
        size = f", {self.train_size} training images" if self.train_size else ""
        drawn = ", drawn by each seed" if self.sample == "seed" else ""
        return name + size + noise + drawn


@dataclass(frozen=True)
class AugmentationConfig(Settings, prefix="augmentation."):
    """Of training images: crop after padding, flip, policy, Cutout (in this order; Cutout on normalised images)."""

    crop_padding: int = key(0, "pixels on each side before a random crop", low=0)
    padding_mode: str = key("reflect", "what they hold", among=("reflect", "zeros"))
    flip: bool = key(False, "horizontally, with probability 1/2")
    policy: str = key("none", "of further changes", among=("none", "autoaugment"))
    cutout: int = key(0, "pixels a side of the square that is cut out", low=0)
    cutout_probability: float = key(1.0, "of cutting", low=0, high=1)
    cutout_per: str = key("image", "what shares a square's place", among=("image", "batch"))


DATASETS.add("digits", "data.sources:digits", label="digits", about=Description("digits", 1000, 797, 8, 1, 10))
DATASETS.add("cifar10", "data.sources:cifar", label="CIFAR-10", about=Description("cifar10", 50_000, 10_000, 32, 3, 10))
DATASETS.add("cifar100", "data.sources:cifar", label="CIFAR-100", about=Description("cifar100", 50_000, 10_000, 32, 3, 100))
DATASETS.add("arrays", "data.sources:arrays", label="arrays")  # described by the file's headers
