"""Adaptive sharpness: balls measured in units of each weight's own size (Kwon et al. 2021; Andriushchenko et al. 2023, section 3)."""

from functools import partial

import torch
from torch.nn import functional

from sam.core.criteria import Criterion
from sam.sharpness.average import pair_rises
from sam.sharpness.context import Context, Measures, Result, Sizes, named, random_like
from sam.sharpness.projected_ascent import Ball, Search, search_balls
from sam.sharpness.settings import SharpnessConfig

VERSION = 1

FLOOR = 1e-10


def normalized(criterion: Criterion) -> Criterion:
    """Apply `criterion` to centred logits of norm 1: less their mean over the classes, over the norm that is left (FLOOR at least)."""
    centred = lambda outputs: outputs - outputs.mean(dim=1, keepdim=True)
    return lambda outputs, labels: criterion(functional.normalize(centred(outputs), eps=FLOOR), labels)


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings = config.adaptive
    worst, average = len(settings.worst_l2) + len(settings.worst_linf), len(settings.average_l2) + len(settings.average_linf)
    cost = 3 + worst * Search.of(settings, draws=1).cost + average * 2 * settings.draws
    return sizes.images(settings.subset) * len(settings.logits) * cost


def measure(context: Context) -> Result:
    """Rises of the loss under perturbations in units of |w|, over a subset of the training images. Peak: 11 vectors of D."""
    settings, values = context.config.adaptive, Measures()
    radii = {"l2": (settings.worst_l2, settings.average_l2), "linf": (settings.worst_linf, settings.average_linf)}
    search, stream = Search.of(settings, draws=1), partial(context.generator, "adaptive")
    for kind in settings.logits:
        criterion = normalized(context.criterion) if kind == "normalized" else context.criterion
        with context.loss(criterion=criterion, subset=settings.subset).around() as w:
            size = [p.abs() for p in w.start]
            for norm, (worst, average) in radii.items():
                found = search_balls(w, [Ball(norm, rho, size) for rho in worst], search, stream)
                for rho, one in zip(worst, found, strict=True):
                    at = context.suffix(settings.subset, rho=rho, norm=norm, logits=kind)
                    values |= named(at, adaptive_worst=one.rise, adaptive_worst_ascent=one.ascent, adaptive_worst_spread=one.spread)
                draws, generator = settings.draws if average else 0, stream(f"average {norm}")
                drawn = (random_like(w.start, generator, uniform=norm == "linf") for _ in range(draws))
                steps = (list(torch._foreach_mul(x, size)) for x in drawn)
                for rho, (mean, stderr) in zip(average, pair_rises(w, steps, average), strict=True):
                    at = context.suffix(settings.subset, rho=rho, norm=norm, logits=kind)
                    values |= named(at, adaptive_average=mean, adaptive_average_stderr=stderr)
    return Result(values)
