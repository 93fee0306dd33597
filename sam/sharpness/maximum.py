"""L^Max: the largest loss within distance rho (Tiwary & Aananth 2024, Table 1; Wen et al. 2023), from below."""

import torch

from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.n_step import climb
from sam.sharpness.projected_ascent import Ball, Search, search_balls
from sam.sharpness.settings import MaximumConfig, SharpnessConfig

VERSION = 1


def _search(settings: MaximumConfig) -> Search:
    return Search(settings.steps, settings.momentum, settings.restarts, settings.draws)


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    chain = 1 + 3 * (config.maximum.ascent_steps - 1) + 1
    return sizes.images(config.maximum.subset) * (3 + len(config.rho) * (_search(config.maximum).cost + chain))


def measure(context: Context) -> Result:
    """A lower bound of max over ||eps|| <= rho of L(w + eps) - L(w), over a subset of the training images: the largest loss met. Where the
    gradient at w is zero, the ascents from random points go on alone. Peak: 10 vectors of D."""
    settings, values = context.config.maximum, Measures()
    loss = context.loss(subset=settings.subset)
    with loss.measuring(), torch.no_grad():
        start = [p.clone() for p in loss.points]
        value, gradient = loss.value_and_gradient()

        def others(ball: Ball) -> list[float]:
            ends = (climb(loss, start, gradient, ball.radius, steps, "project") for steps in (1, settings.ascent_steps))
            return [loss.value().loss for end in ends if end is not None]

        balls = [Ball("l2", rho) for rho in context.config.rho]
        stream = lambda name: context.generator(f"maximum {name}")
        found = search_balls(loss, balls, start, (value.loss, gradient), _search(settings), stream, others)
    for ball, one in zip(balls, found, strict=True):
        where = context.suffix(settings.subset, rho=ball.radius)
        values |= named(where, maximum=one.rise, maximum_ascent=one.ascent, maximum_spread=one.spread)
    return Result(values)
