"""The order of the training images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from data import DataError


def epoch_batches(n: int, batch_size: int, generator: torch.Generator, drop_last: bool = False) -> Iterator[Tensor]:
    """Index tensors (int64, on the CPU) of one epoch: each of the n images once, in an order drawn from `generator` (on the CPU, so that
    the order does not depend on the device). The last batch holds the rest, unless `drop_last`.

    The order is drawn when the function is called, whether or not the batches are consumed. Raises `DataError` if no batch would be left.
    """
    if n < (batch_size if drop_last else 1):
        raise DataError(f"batch_size={batch_size}: leaves no batch of the {n} training images (drop_last={str(drop_last).lower()}).")
    return iter(torch.randperm(n, generator=generator)[: n - n % batch_size if drop_last else n].split(batch_size))
