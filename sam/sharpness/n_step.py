"""N-step sharpness: the loss at the end of N gradient ascent steps (Tiwary & Aananth 2024, Eqs. 5-6; Kim et al. 2023)."""

import math

import torch

from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.vectors import Vector
from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


def climb(loss: DatasetLoss, start: Vector, gradient: Vector, rho: float, steps: int, rule: str) -> Ascent | None:
    """Take N ascent steps from `start`, where the gradient is `gradient` (not modified), each along the gradient of the whole set; leave
    the weights at the end. None if a gradient on the way is zero or not finite: the direction is undefined, and the sharpness is not zero.
    Memory: three vectors of D beside start and gradient. Use inside `measuring()`, `no_grad()`."""
    ascent = Ascent(start, [rho] * len(start), steps=steps, rule=rule)
    here = [g.clone() for g in gradient]
    for taken in range(1, steps + 1):
        norm = ascent.climb(here).item()
        vectors.copy_(loss.points, ascent.points)
        if not (math.isfinite(norm) and norm > vectors.TINY):
            return None
        if taken < steps:
            here = loss.value_and_gradient()[1]
    return ascent


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings = config.n_step
    climbs = len(config.rho) * len(settings.rules) * sum(3 * (steps - 1) + 1 for steps in settings.steps)
    return sizes.images(settings.subset) * (3 + climbs)


def measure(context: Context) -> Result:
    """Eq. 6 with gradients and losses of the whole training set, or a subset. Peak: 8 vectors of D."""
    settings, values = context.config.n_step, Measures()
    loss = context.loss(subset=settings.subset)
    with loss.measuring(), torch.no_grad():
        start = [p.clone() for p in loss.points]
        value, gradient = loss.value_and_gradient()
        for rho in context.config.rho:
            for steps in settings.steps:
                for rule in settings.rules:
                    where = context.suffix(settings.subset, rho=rho, n=steps, rule=rule)
                    ascent, rise, length, cosine = climb(loss, start, gradient, rho, steps, rule), None, None, None
                    if ascent is not None:
                        length = ascent.relative_length().item()
                        cosine = ascent.cosine(gradient).item() if length > 0 else None
                        rise = loss.value().loss - value.loss
                    values |= named(where, n_step=rise, n_step_length=length, n_step_cosine=cosine)
    return Result(values)
