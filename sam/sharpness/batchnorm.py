"""BatchNorm's running statistics, taken anew over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam.config import ConfigError

Statistics = list[tuple[Tensor, Tensor]]


def normalizers(model: nn.Module) -> list[Any]:
    """The BatchNorm modules that keep running statistics."""
    modules = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    return [m for m in modules if m.track_running_stats and m.running_mean is not None]


@contextmanager
def refused_alone(size: int) -> Iterator[None]:
    """A forward pass with batch statistics: one sentence in place of torch's where the batch is one sample without a spatial extent."""
    try:
        yield
    except ValueError as error:
        if size != 1:
            raise
        message = "sharpness.m: leaves a last batch of one sample, which BatchNorm cannot normalise by itself; choose another m."
        raise ConfigError(message) from error


@torch.no_grad()
def averaged(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """(mean, variance) of each of `normalizers(model)`: the averages of the batches' own statistics, a batch counting by its size.

    batches: inputs of the model. Only BatchNorm runs in train mode. Use inside `measuring()`, which puts buffers and modes back; the
    momenta are put back here.
    """
    modules, seen = normalizers(model), 0
    momenta = [module.momentum for module in modules]
    try:
        for module in modules:
            module.running_mean.zero_()  # what was there has weight 0, and 0 * NaN is NaN
            module.running_var.zero_()
            module.train()
        for inputs in batches:
            seen += len(inputs)
            for module in modules:
                module.momentum = len(inputs) / seen  # running <- the average, weighted by size, of all batches so far
            with refused_alone(len(inputs)):
                model(inputs)
        for module in modules:
            module.eval()
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum
    return [(m.running_mean.clone(), m.running_var.clone()) for m in modules]


@torch.no_grad()
def install(model: nn.Module, statistics: Statistics) -> None:
    """Write `statistics` into the running buffers."""
    for module, (mean, variance) in zip(normalizers(model), statistics, strict=True):
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
