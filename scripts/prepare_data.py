"""Download CIFAR-10 and CIFAR-100, and check them against torchvision's MD5 sums.

    python scripts/prepare_data.py                                  # both, below ./datasets
    python scripts/prepare_data.py dataset=cifar100 root=datasets   # one of them: cifar10 | cifar100 | all

Compute nodes often have no network: run this once where there is one, and point dataset.root=... at the folder. Files that are there and
intact are not downloaded again. Images from elsewhere need no download: dataset.path=FILE.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from data import DataError
from data.sources import fetch_cifar

CHOICES = {"cifar10": ("cifar10",), "cifar100": ("cifar100",), "all": ("cifar10", "cifar100")}


def parse(arguments: list[str]) -> dict[str, str]:
    """key=value arguments over the defaults. Raises `DataError`."""
    options = {"dataset": "all", "root": "datasets"}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in options or not value:
            raise DataError(f"{argument}: unknown argument; give dataset={'|'.join(CHOICES)} and root=FOLDER.")
        options[key] = value
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
        for name in CHOICES[options["dataset"]]:
            train, test = fetch_cifar(name, options["root"], download=True)
            folder = Path(train.root).resolve() / train.base_folder
            print(f"{name}: {len(train):,} training and {len(test):,} test images in {folder} (MD5 checked)")
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Train on them with dataset.root={Path(options['root']).resolve()}; or read other images with dataset.path=FILE.npz.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
