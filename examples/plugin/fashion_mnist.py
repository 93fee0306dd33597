"""Fashion-MNIST (Xiao et al. 2017) through torchvision, which checks the MD5 sum of what it downloads.

python ../../train.py plugins=fashion_mnist dataset=fashion_mnist model=resnet20 augmentation.flip=true
"""

import contextlib
import io
from pathlib import Path

import numpy as np

from data import DataError, Description
from data.settings import DATASETS

VERSION = 1


def read(name: str, root: str, download: bool):
    """60,000 and 10,000 grey images, 28 x 28, of 10 classes, below `root`. DataError if they are missing, or damaged."""
    from data import torchvision_guard
    from data.sources import RawData, pixel_statistics

    try:
        torchvision_guard.ensure()
        from torchvision.datasets import FashionMNIST

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            parts = [FashionMNIST(Path(root).expanduser(), train=train, download=download) for train in (True, False)]
    except Exception as error:  # no torchvision, no network, no room, a download cut short, files that are missing or damaged
        why = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"dataset={name}: cannot be read below {root} ({why}; dataset.download={str(download).lower()}).") from error
    images = [part.data.numpy()[..., None] for part in parts]
    labels = [part.targets.numpy().astype(np.int64) for part in parts]
    return RawData(images[0], labels[0], images[1], labels[1], 10, *pixel_statistics(images[0]), ("Fashion-MNIST, through torchvision",))


DATASETS.add(
    "fashion_mnist",
    f"{__name__}:read",
    label="Fashion-MNIST",
    option={},
    about=Description("fashion_mnist", 60_000, 10_000, 28, 1, 10),
)
