"""L^Avg: the mean loss at distance rho in a random direction (Tiwary & Aananth 2024, Table 1; Wen et al. 2023)."""

from collections.abc import Iterable, Sequence

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.context import Context, Measures, Result, Sizes, named, random_like
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


def pair_rises(loss: DatasetLoss, start: Vector, base: float, steps: Iterable[Vector], radii: Sequence[float]) -> list[list[float]]:
    """Return one list per radius: for every step v, the mean of L(start + radius v) and L(start - radius v), less `base`. steps: an
    iterator, so that one vector is held at a time. The mean over ±v cancels the odd terms. Cost: two forwards per radius and direction. Use
    inside `measuring()` and `no_grad()`; the weights are left at the last point."""
    rises: list[list[float]] = [[] for _ in radii]
    for direction in steps:
        for radius, found in zip(radii, rises, strict=True):
            pair = []
            for sign in (radius, -radius):
                vectors.copy_(loss.points, start)
                vectors.add_(loss.points, direction, sign)
                pair.append(loss.value().loss)
            found.append((pair[0] - base) / 2 + (pair[1] - base) / 2)
    return rises


def _on_sphere(points: Vector, generator: torch.Generator) -> Vector:
    direction = random_like(points, generator)
    vectors.normalize_(direction)
    return direction


def mean_and_stderr(sample: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent values (two at least) and its standard error; not finite if a value is not."""
    mean = sum(sample) / len(sample)
    spread = sum((x - mean) * (x - mean) for x in sample) / (len(sample) - 1)
    return mean, (spread / len(sample)) ** 0.5


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    return sizes.images(config.average.subset) * (1 + 2 * config.average.draws * len(config.rho))


def measure(context: Context) -> Result:
    """E L(w + rho z/||z||) - L(w) with z ~ N(0, I), over the training set or a subset. Peak: 4 vectors of D."""
    settings, rhos = context.config.average, context.config.rho
    loss, stream = context.loss(subset=settings.subset), context.generator("average")
    with loss.measuring(), torch.no_grad():
        start = [p.clone() for p in loss.points]
        base = loss.value().loss
        steps = (_on_sphere(start, stream) for _ in range(settings.draws))
        samples = pair_rises(loss, start, base, steps, rhos)
    values = Measures()
    for rho, sample in zip(rhos, samples, strict=True):
        mean, stderr = mean_and_stderr(sample)
        values |= named(context.suffix(settings.subset, rho=rho), average=mean, average_stderr=stderr)
    return Result(values)
