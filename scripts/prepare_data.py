"""Download CIFAR-10 and CIFAR-100, and check them against torchvision's MD5 sums; or convert other images into a file, or shrink a file's.

    python scripts/prepare_data.py                                  # both, below ./datasets
    python scripts/prepare_data.py dataset=cifar100 root=datasets   # one of them: cifar10 | cifar100 | all
    python scripts/prepare_data.py source=datasets/cifar-10-batches-py out=cifar10.npz   # what was downloaded, as arrays
    python scripts/prepare_data.py source=cifar10.npz size=16 out=cifar10-16.npz   # means of 2 x 2 pixels
    python scripts/prepare_data.py source=pets out=pets-64.npz size=64     # pets/train/CLASS/IMAGE and pets/test/... (or val)
    python scripts/prepare_data.py source=svhn out=svhn.npz                # svhn/train_32x32.mat and test_32x32.mat
    python scripts/prepare_data.py source=mine out=mine.npz                # mine/x_train.npy, y_train.npy, x_test.npy, y_test.npy (uint8)
    python scripts/prepare_data.py source=hub out=hub.npz                  # Hugging Face: hub/**/train*.parquet and test*.parquet

Images of several sizes need size=PIXELS, which makes squares of them. Classes are numbered from 0, folders in the order of their names.
Compute nodes often have no network: run this once where there is one, and point dataset.root=... at the folder. Files that are there and
intact are not downloaded again. Images from elsewhere need no download: dataset.path=FILE.npz.
"""

import hashlib
import os
import sys
from pathlib import Path

from arguments import parse, script

from data import DataError
from data.convert import convert
from data.downsample import downsample
from data.known import notes
from data.sources import arrays, fetch_cifar, fingerprint
from sam.text import sentence

SHRINKING = {"source": "source=FILE.npz", "size": "size=PIXELS", "out": "out=FILE.npz"}
CHOICES = {"all": ("cifar10", "cifar100"), "cifar10": ("cifar10",), "cifar100": ("cifar100",)}


@script
def main(arguments: list[str]) -> int:
    """Exit status: 0; 1 if the images cannot be had, 2 for wrong arguments, each after one sentence."""
    options, _ = parse({"dataset": tuple(CHOICES), "root": "datasets", "source": str, "size": int, "out": str}, arguments)
    source, size, out = (options[key] for key in SHRINKING)
    folder = source is not None and os.path.isdir(os.path.expanduser(source))
    given = [key for key in SHRINKING if options[key] is not None]
    missing = [key for key in SHRINKING if key not in given and not (folder and key == "size")]
    if given and missing:
        raise DataError(f"{given[0]}={options[given[0]]}: needs {' and '.join(SHRINKING[key] for key in missing)} too.")
    try:
        if given:
            if folder:
                convert(source, out, size)
            else:
                downsample(source, size, out)
            raw = arrays("arrays", out)
            train, test, side, data = len(raw.train_labels), len(raw.test_labels), raw.train_images.shape[1], fingerprint(raw)
            sha256 = hashlib.sha256(Path(out).expanduser().read_bytes()).hexdigest()
            print(f"{out}: {train:,} training and {test:,} test images of {side} x {side} pixels (SHA-256 {sha256}).")
            print(f"Data fingerprint {data}: {notes(data, ['a data set without a name here'])[0]}.")
            print(f"Train on them with dataset=arrays dataset.path={out}.")
            return 0
        for name in CHOICES[options["dataset"]]:
            train, test = fetch_cifar(name, options["root"], download=True)
            place = Path(train.root).resolve() / train.base_folder
            print(f"{name}: {len(train):,} training and {len(test):,} test images in {place} (MD5 checked)")
    except DataError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    print(f"Train on them with dataset.root={Path(options['root']).resolve()}; or read other images with dataset.path=FILE.npz.")
    return 0
