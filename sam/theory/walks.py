"""Walks of the product's own optimizers, and of the one that it does not have: gradient descent on L^Asc."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.settings import METHODS
from sam.theory.settings import ASCENT, ArmConfig

Loss = Callable[[Vector, Tensor | None], Tensor]  # weights, indices of the samples (None: all) -> mean loss, 0-d
Record = dict[str, float]


def ascent_gradient(loss: Callable[[Vector], Tensor], weights: Vector, rho: float) -> Vector:
    """The gradient of L^Asc(w) = L(w + rho u), u = g/||g||, g = grad L(w), through the normalisation: with h = grad L(w + rho u) it is
    h + rho/||g|| H (h - <u, h> u), H the Hessian at w. SAM descends along h alone."""
    at = [w.detach().requires_grad_() for w in weights]
    g = torch.autograd.grad(loss(at), at, create_graph=True)
    length = vectors.norm([x.detach() for x in g])
    u = [x.detach() / length for x in g]
    there = [(w + rho * x).detach().requires_grad_() for w, x in zip(weights, u, strict=True)]
    h = torch.autograd.grad(loss(there), there)
    across = [x - vectors.dot(u, list(h)) * y for x, y in zip(h, u, strict=True)]
    bent = torch.autograd.grad(g, at, across)
    return [x + rho / length * y for x, y in zip(h, bent, strict=True)]


def step(optimizer: Any, loss: Callable[[], Tensor]) -> None:
    """One step of an optimizer of the product, without its diagnostics."""

    def closure() -> Tensor:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.diagnose = False
    optimizer.step(closure)


def walk(
    arm: ArmConfig, weights: Vector, loss: Loss, samples: int, generator: torch.Generator, descent: Callable[..., Vector] | None = None
) -> Iterator[None]:
    """Move `weights` (leaves with gradients) in place, a step each time it is asked. descent: in place of `ascent_gradient`."""
    if arm.method == ASCENT:
        descent = descent or (lambda at: ascent_gradient(lambda w: loss(w, None), at, arm.rho))
        while True:
            gradient = descent(weights)
            with torch.no_grad():
                vectors.add_(weights, gradient, -arm.lr)
            yield
    optimizer = METHODS[arm.method].load()(torch.optim.SGD(weights, lr=arm.lr), rho=arm.rho)
    while True:
        chosen = None if arm.batch is None else torch.randint(samples, (arm.batch,), generator=generator)
        step(optimizer, partial(loss, weights, chosen))
        yield


def trajectory(steps: Iterator[None], count: int, records: int, measure: Callable[[], Record]) -> list[Record]:
    """Take `count` steps; what `measure` says before the first and after `records` of them, evenly spaced, with the number of the step."""
    rows: list[Record] = [{"step": 0.0, **measure()}]
    for number in range(1, count + 1):
        next(steps)
        if number * records // count > (number - 1) * records // count:
            rows.append({"step": float(number), **measure()})
    return rows
