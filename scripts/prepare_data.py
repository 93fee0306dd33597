"""Download CIFAR-10 and CIFAR-100, and check them against torchvision's MD5 sums.

    python scripts/prepare_data.py                                  # both, below ./datasets
    python scripts/prepare_data.py dataset=cifar100 root=datasets   # one of them: cifar10 | cifar100 | all

Compute nodes often have no network: run this once where there is one, and point dataset.root=... at the folder. Files that are there and
intact are not downloaded again. Images from elsewhere need no download: dataset.path=FILE.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import parse, script

from data import DataError
from data.sources import fetch_cifar

CHOICES = {"all": ("cifar10", "cifar100"), "cifar10": ("cifar10",), "cifar100": ("cifar100",)}


@script
def main(arguments: list[str]) -> int:
    """Exit status: 0; 1 if they cannot be had, 2 for wrong arguments, each after one sentence on the standard error output."""
    options, _ = parse({"dataset": tuple(CHOICES), "root": "datasets"}, arguments)
    try:
        for name in CHOICES[options["dataset"]]:
            train, test = fetch_cifar(name, options["root"], download=True)
            folder = Path(train.root).resolve() / train.base_folder
            print(f"{name}: {len(train):,} training and {len(test):,} test images in {folder} (MD5 checked)")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Train on them with dataset.root={Path(options['root']).resolve()}; or read other images with dataset.path=FILE.npz.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
