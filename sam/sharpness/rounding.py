"""What of a perturbation is left when a forward rounds the weights: Q(w + eps) - Q(w) against eps. Nothing is trained, and no loss read but
for the gradient's direction."""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.passes import norm_parameters
from sam.core.vectors import Vector
from sam.sharpness.context import Context, Measures, Result, Sizes, named, random_like
from sam.sharpness.dataset_loss import unit_
from sam.sharpness.settings import SharpnessConfig

VERSION = 1
A_DECADE, DECADES = 20, range(-5, 4)  # the grid of `readable`: 1e-5 to 1e3


def to_tf32(x: Tensor) -> Tensor:
    """Round float32 to ten bits of mantissa, to nearest, ties to even. A GPU does this to the factors of a product."""
    bits = x.float().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "bf16": lambda x: x.float().bfloat16().float(),
    "fp16": lambda x: x.float().half().float(),  # with its subnormal numbers: multiples of 2^-24
    "tf32": to_tf32,
}


def realized(start: Vector, direction: Vector, rho: float, *, rounded: list[bool], to: str) -> tuple[float, float]:
    """Return (length over rho, cosine to `direction`, which has norm 1) of Q(w + rho direction) - Q(w). Where `rounded` is false a tensor
    is not touched by Q. The cosine is 0 where nothing is left."""
    left = []
    for w, u, changed in zip(start, direction, rounded, strict=True):
        moved = w + rho * u
        left.append((ROUND[to](moved) - ROUND[to](w)).to(w.dtype) if changed else moved - w)
    length = vectors.norm(left).item()
    return length / rho, vectors.dot(left, direction).item() / length if length > 0 else 0.0


def readable(at: Callable[[float], tuple[float, float]], least: float) -> float | None:
    """Return the smallest rho of a logarithmic grid at which the cosine, at(rho)[1], is at least `least`, by bisection: it rises with rho,
    as steps of the format's spacing become small beside it. None if it is not at the grid's end."""
    grid = [10 ** (DECADES.start + k / A_DECADE) for k in range(A_DECADE * (len(DECADES) - 1), -1, -1)]
    fails = lambda rho: not at(rho)[1] >= least  # NaN fails too
    return None if fails(grid[0]) else grid[bisect_left(grid, True, lo=1, key=fails) - 1]


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    return 3 * sizes.images(config.rounding.subset)


def measure(context: Context) -> Result:
    """Length and cosine of the perturbation that a forward sees, along the gradient (SAM's) and in a random direction (Rand-SAM's), and the
    rho from which on it can be read. As under autocast, normalisation layers keep float32. Peak: 7 vectors of D."""
    settings, values = context.config.rounding, Measures()
    of_norms = norm_parameters(context.model)
    with context.loss(subset=settings.subset).around() as w:
        rounded = [id(p) not in of_norms for p in w.loss.parameters]
    ways = {"gradient": w.gradient, "random": random_like(w.start, context.generator("rounding"))}
    for along, direction in ways.items():
        defined = unit_(direction) is not None
        for to in settings.formats:
            at = partial(realized, w.start, direction, rounded=rounded, to=to)
            subset = settings.subset if along == "gradient" else None
            edge = readable(at, settings.cosine) if defined else None
            values |= named(context.suffix(subset, to=to, along=along), rounding_readable=edge)
            for rho in context.config.rho:
                length, cosine = at(rho) if defined else (None, None)
                values |= named(context.suffix(subset, to=to, along=along, rho=rho), rounding_length=length, rounding_cosine=cosine)
    return Result(values)
