"""L^Max: the largest loss within distance rho (Tiwary & Aananth 2024, Table 1; Wen et al. 2023), from below."""

from functools import partial

from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.projected_ascent import Ball, Search, search_balls
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings = config.maximum
    chain = 1 + 3 * (settings.ascent_steps - 1) + 1
    return sizes.images(settings.subset) * (3 + len(config.rho) * (Search.of(settings, settings.draws).cost + chain))


def measure(context: Context) -> Result:
    """A lower bound of max over ||eps|| <= rho of L(w + eps) - L(w), over a subset of the training images: the largest loss met. Where the
    gradient at w is zero, the ascents from random points go on alone. Peak: 10 vectors of D."""
    settings, values = context.config.maximum, Measures()
    balls = [Ball("l2", rho) for rho in context.config.rho]
    with context.loss(subset=settings.subset).around() as w:
        # at the end of each ascent that has one, where `climb` leaves the weights
        others = lambda ball: [w.loss.value().loss for n in (1, settings.ascent_steps) if w.climb(ball.radius, n, "project") is not None]
        found = search_balls(w, balls, Search.of(settings, settings.draws), partial(context.generator, "maximum"), others)
    for ball, one in zip(balls, found, strict=True):
        where = context.suffix(settings.subset, rho=ball.radius)
        values |= named(where, maximum=one.rise, maximum_ascent=one.ascent, maximum_spread=one.spread)
    return Result(values)
