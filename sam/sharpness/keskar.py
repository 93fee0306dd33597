"""Keskar et al. 2017, Metric 2.1: the largest loss in a box around w, in percent of 1 + L(w)."""

import contextlib
import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.dataset_loss import Around
from sam.sharpness.projected_ascent import Ball, Search, highest, search_balls
from sam.sharpness.settings import KeskarConfig, SharpnessConfig

VERSION = 1

Flat = NDArray[np.float64]


class _Enough(Exception):
    """Ends the search from inside its objective."""


def lbfgsb(w: Around, box: Ball, iterations: int) -> list[float]:
    """Return L at each point that L-BFGS-B visits in the box, without w; empty if the gradient at w is zero or not finite. In the
    coordinates u = delta / (radius scale), so that every bound is -1 or 1, with the loss scaled such that its gradient at w has root mean
    square 1. At most 2 `iterations` values and gradients. Memory: some 60 float64 vectors of D on the host (measured)."""
    from scipy.optimize import Bounds, minimize  # slow to import

    slope = _flat(w.gradient, box)
    unit = float(np.sqrt(np.mean(slope**2)))
    visited: list[float] = []

    def objective(x: Flat) -> tuple[float, Flat]:
        if not x.any():
            return 0.0, -slope / unit
        if len(visited) == 2 * iterations:
            raise _Enough
        box.move(w, [u.to(p) for u, p in zip(vectors.shaped(torch.from_numpy(x), w.start), w.start, strict=True)])
        value, gradient = w.loss.value_and_gradient()
        visited.append(value.loss)
        along = _flat(gradient, box)
        if not (math.isfinite(value.loss) and np.isfinite(along).all()):
            raise _Enough
        return (w.value.loss - value.loss) / unit, -along / unit

    if math.isfinite(unit) and unit * slope.size**0.5 > vectors.TINY * box.radius:  # as a sign ascent asks
        sides, options = np.ones_like(slope), {"maxiter": iterations, "ftol": 0.0, "gtol": 0.0}
        with contextlib.suppress(_Enough):
            minimize(objective, np.zeros_like(slope), jac=True, method="L-BFGS-B", bounds=Bounds(-sides, sides), options=options)
    return visited


def _flat(gradient: Vector, box: Ball) -> Flat:
    """Return the gradient with respect to u, float64 on the host."""
    assert box.scale is not None
    pieces = [(g.double() * s.double()).flatten().cpu().numpy() for g, s in zip(gradient, box.scale, strict=True)]
    return np.concatenate(pieces) * box.radius


def _search(settings: KeskarConfig) -> Search:
    return Search(settings.iterations, settings.momentum, settings.restarts)


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings = config.keskar
    full = 6 * settings.iterations if sizes.parameters <= settings.full_space else 0
    return sizes.images(settings.subset) * (3 + len(settings.epsilon) * (_search(settings).cost + full))


def measure(context: Context) -> Result:
    """100 (max L(w + z) - L(w)) / (1 + L(w)) over |z_i| <= E (|w_i| + 1), over a subset of the training images, from below. Sign ascents
    need no float64 copies. Peak: 11 vectors of D, and L-BFGS-B's 60 in float64."""
    settings, values = context.config.keskar, Measures()
    full = sum(p.numel() for p in context.model.parameters()) <= settings.full_space
    visited: dict[float, list[float]] = {}
    with context.loss(subset=settings.subset).around() as w:
        others = lambda box: visited.setdefault(box.radius, lbfgsb(w, box, settings.iterations) if full else [])
        size = [p.abs() + 1 for p in w.start]
        boxes = [Ball("linf", epsilon, size) for epsilon in settings.epsilon]
        found = search_balls(w, boxes, _search(settings), partial(context.generator, "keskar"), others)
    for box, one in zip(boxes, found, strict=True):
        met = visited[box.radius]
        own = highest(met) - w.value.loss if met else None
        rises = {"keskar": one.rise, "keskar_lbfgsb": own, "keskar_sign": one.ascent, "keskar_spread": one.spread}
        percent = {name: None if rise is None else 100 * rise / (1 + w.value.loss) for name, rise in rises.items()}
        values |= named(context.suffix(settings.subset, epsilon=box.radius), **percent)
    return Result(values)
