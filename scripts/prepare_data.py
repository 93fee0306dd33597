"""Download CIFAR-10 and CIFAR-100, and check them against torchvision's MD5 sums; or shrink the images of a file.

    python scripts/prepare_data.py                                  # both, below ./datasets
    python scripts/prepare_data.py dataset=cifar100 root=datasets   # one of them: cifar10 | cifar100 | all
    python scripts/prepare_data.py source=cifar10.npz size=16 out=cifar10-16.npz   # means of 2 x 2 pixels

Compute nodes often have no network: run this once where there is one, and point dataset.root=... at the folder. Files that are there and
intact are not downloaded again. Images from elsewhere need no download: dataset.path=FILE.npz.
"""

import hashlib
import sys
from pathlib import Path

from arguments import parse, script

from data import DataError
from data.downsample import downsample
from data.known import notes
from data.sources import fetch_cifar, fingerprint, read

SHRINKING = {"source": "source=FILE.npz", "size": "size=PIXELS", "out": "out=FILE.npz"}
CHOICES = {"all": ("cifar10", "cifar100"), "cifar10": ("cifar10",), "cifar100": ("cifar100",)}


@script
def main(arguments: list[str]) -> int:
    """Exit status: 0; 1 if the images cannot be had, 2 for wrong arguments, each after one sentence on the standard error output."""
    options, _ = parse({"dataset": tuple(CHOICES), "root": "datasets", "source": str, "size": int, "out": str}, arguments)
    given, missing = ([key for key in SHRINKING if (options[key] is not None) == there] for there in (True, False))
    if given and missing:
        raise DataError(f"{given[0]}={options[given[0]]}: needs {' and '.join(SHRINKING[key] for key in missing)} too.")
    try:
        if given:
            path = options["out"]
            downsample(options["source"], options["size"], path)
            raw = read("arrays", path, "", False)
            train, test, side, data = len(raw.train_labels), len(raw.test_labels), raw.train_images.shape[1], fingerprint(raw)
            sha256 = hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
            print(f"{path}: {train:,} training and {test:,} test images of {side} x {side} pixels (SHA-256 {sha256}).")
            print(f"Data fingerprint {data}: {notes(data, ['a data set without a name here'])[0]}.")
            print(f"Train on them with dataset=arrays dataset.path={path}.")
            return 0
        for name in CHOICES[options["dataset"]]:
            train, test = fetch_cifar(name, options["root"], download=True)
            folder = Path(train.root).resolve() / train.base_folder
            print(f"{name}: {len(train):,} training and {len(test):,} test images in {folder} (MD5 checked)")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Train on them with dataset.root={Path(options['root']).resolve()}; or read other images with dataset.path=FILE.npz.")
    return 0
