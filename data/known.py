"""Recognise data sets by their bytes. Standard library only.

A downsampled set has its own name; it is read with dataset=arrays, beside which no table shows published values.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """name: the data set in a label; note: the same under a table and at the start of a run, with what must be said about it."""

    name: str
    note: str


_DECODED = "90 of 60,000 images JPEG-decoded"
_AT_16 = "at 16 x 16 (2 x 2 means)"

# By `data.sources.fingerprint`; the means are those of `data.downsample`. The exact CIFAR-10 has no row, because its fingerprint was never
# computed: in the copy that was at hand, 90 images are decoded JPEGs. Its original files are recognised by their source.
BY_FINGERPRINT = {
    "6d8a56e1b296ea82": Known("CIFAR-100", "CIFAR-100, every image exact"),
    "28a9e4d39cb9f275": Known(f"CIFAR-100 {_AT_16}", f"CIFAR-100 {_AT_16}, every image exact"),
    "b15454854329bdde": Known(f"CIFAR-10, {_DECODED}", f"CIFAR-10, {_DECODED}"),
    "f5b199186481bfec": Known(f"CIFAR-10 {_AT_16}", f"CIFAR-10 {_AT_16}, {_DECODED}"),
}

# Notes on data sets that torchvision has read, which checks the MD5 sums of the original files.
BY_SOURCE = {"cifar10": "CIFAR-10, every image exact (MD5 of the original files)", "cifar100": "CIFAR-100, every image exact"}


def is_genuine(dataset: str, path: str | None, fingerprint: str) -> bool:
    """True if images given as `dataset` are known to be its own, by fingerprint or by source (the exact CIFAR-10 from a file is not). An
    old record may have no fingerprint."""
    known = BY_FINGERPRINT.get(fingerprint)
    whole = known is not None and known.name.replace("-", "").lower().split(",")[0] == dataset
    return whole or dataset not in BY_SOURCE or (known is None and (path is None or not fingerprint))


def notes(fingerprint: str, otherwise: Sequence[str]) -> tuple[str, ...]:
    """Return the notes on the data set with this fingerprint; `otherwise` for an unknown one."""
    return (BY_FINGERPRINT[fingerprint].note,) if fingerprint in BY_FINGERPRINT else tuple(otherwise)
