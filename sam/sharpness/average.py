"""L^Avg: the mean loss at distance rho in a random direction (Tiwary & Aananth 2024, Table 1; Wen et al. 2023)."""

from collections.abc import Iterable, Sequence

from sam.core.vectors import Vector
from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.dataset_loss import Around
from sam.sharpness.projected_ascent import Ball
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


def pair_rises(w: Around, steps: Iterable[Vector], radii: Sequence[float]) -> list[tuple[float, float | None]]:
    """For each radius, return the mean over the steps v, with its standard error, of the mean of L(w + radius v) and L(w - radius v), less
    L(w). steps: an iterator, so that one vector is held at a time. The mean over ±v cancels the odd terms. Cost: two forwards per radius
    and direction."""
    rises: list[list[float]] = [[] for _ in radii]
    for direction in steps:
        for radius, found in zip(radii, rises, strict=True):
            ahead, behind = (w.at((distance, direction)) - w.value.loss for distance in (radius, -radius))
            found.append(ahead / 2 + behind / 2)
    return list(map(mean_and_stderr, rises))


def mean_and_stderr(sample: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of independent values and its standard error, None of a single one; not finite if a value is not."""
    mean = sum(sample) / len(sample)
    if len(sample) == 1:
        return mean, None
    spread = sum((x - mean) * (x - mean) for x in sample) / (len(sample) - 1)
    return mean, (spread / len(sample)) ** 0.5


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    return sizes.images(config.average.subset) * (1 + 2 * config.average.draws * len(config.rho))


def measure(context: Context) -> Result:
    """E L(w + rho z/||z||) - L(w) with z ~ N(0, I), over the training set or a subset. Peak: 4 vectors of D."""
    settings, rhos = context.config.average, context.config.rho
    sphere, stream = Ball("l2", radius=1.0), context.generator("average")
    with context.loss(subset=settings.subset).around(gradient=False) as w:
        rises = pair_rises(w, (sphere.random(w.start, stream) for _ in range(settings.draws)), rhos)
    values = Measures()
    for rho, (mean, stderr) in zip(rhos, rises, strict=True):
        values |= named(context.suffix(settings.subset, rho=rho), average=mean, average_stderr=stderr)
    return Result(values)
