"""Download CIFAR-10 and CIFAR-100, and check them against torchvision's MD5 sums; or shrink the images of a file.

    python scripts/prepare_data.py                                  # both, below ./datasets
    python scripts/prepare_data.py dataset=cifar100 root=datasets   # one of them: cifar10 | cifar100 | all
    python scripts/prepare_data.py source=cifar10.npz size=16 out=cifar10-16.npz   # means of 2 x 2 pixels

Compute nodes often have no network: run this once where there is one, and point dataset.root=... at the folder. Files that are there and
intact are not downloaded again. Images from elsewhere need no download: dataset.path=FILE.npz.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from data import DataError
from data.downsample import downsample
from data.known import notes
from data.sources import fetch_cifar, fingerprint, read

SHRINKING = {"source": "source=FILE.npz", "size": "size=PIXELS", "out": "out=FILE.npz"}
CHOICES = {"cifar10": ("cifar10",), "cifar100": ("cifar100",), "all": ("cifar10", "cifar100")}


def parse(arguments: list[str]) -> dict[str, str]:
    """key=value arguments over the defaults. Raises `DataError`."""
    options = {"dataset": "all", "root": "datasets"}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in (*options, *SHRINKING) or not value:
            raise DataError(
                f"{argument}: unknown argument; give dataset={'|'.join(CHOICES)} and root=FOLDER, or {' '.join(SHRINKING.values())}."
            )
        options[key] = value
    given, missing = ([key for key in SHRINKING if (key in options) == there] for there in (True, False))
    if given and missing:
        raise DataError(f"{given[0]}={options[given[0]]}: needs {' and '.join(SHRINKING[key] for key in missing)} too.")
    if not options.get("size", "1").isdecimal():
        raise DataError(f"size={options['size']}: must be a whole number.")
    if options["dataset"] not in CHOICES:
        raise DataError(f"dataset={options['dataset']}: must be one of {', '.join(CHOICES)}.")
    return options


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 after one sentence on the standard error output."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = parse(arguments)
        if "source" in options:
            downsample(options["source"], int(options["size"]), options["out"])
            print(_said(options["out"]))
            return 0
        for name in CHOICES[options["dataset"]]:
            train, test = fetch_cifar(name, options["root"], download=True)
            folder = Path(train.root).resolve() / train.base_folder
            print(f"{name}: {len(train):,} training and {len(test):,} test images in {folder} (MD5 checked)")
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Train on them with dataset.root={Path(options['root']).resolve()}; or read other images with dataset.path=FILE.npz.")
    return 0


def _said(path: str) -> str:
    """What was written: its sizes, the hash of the file, the fingerprint and the name of the data set, and how to train on it."""
    with open(Path(path).expanduser(), "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    raw = read("arrays", path, "", False)
    train, test, side = len(raw.train_labels), len(raw.test_labels), raw.train_images.shape[1]
    print_of_data = fingerprint(raw)
    (name,) = notes(print_of_data, ["a data set without a name here"])
    return (
        f"{path}: {train:,} training and {test:,} test images of {side} x {side} pixels (SHA-256 {sha256}).\n"
        f"Data fingerprint {print_of_data}: {name}.\nTrain on them with dataset=arrays dataset.path={path}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
