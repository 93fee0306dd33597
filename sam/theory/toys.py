"""The toys: four dimensions in which three methods end at three places, and a quadratic on which SAM ends in a cycle of two points.

The functions F1 and F2 are recalled from the appendix of Wen et al. 2023, not read there; their optima are the paper's end points.
"""

import itertools
import math
from typing import TypeVar

import torch
from torch import Tensor

from sam.core.vectors import Vector
from sam.optimizers.sam import SAM
from sam.theory.settings import TheoryConfig
from sam.theory.walks import Record, step, trajectory, walk

Number = TypeVar("Number", float, Tensor)

START = (0.5, 0.5, 0.3, 0.3)
ENDS = {"argmin F1": (0.0, 0.0), "argmin F2": (1.0, 1.0), "argmin F1 + F2": (0.8, 1 / 7)}  # of λ1, of the smallest non-zero, of the trace
CURVATURES = (5.0, 3.0, 1.0, 0.5)


def heights(x1: Number, x2: Number) -> tuple[Number, Number]:
    """F1 >= 8 and F2 <= 6 on [0, 1]²: the non-zero eigenvalues of the Hessian where x3 = x4 = 0, which are the minimisers."""
    return x1 * x1 + 6 * x2 * x2 + 8, 4 * (1 - x1) ** 2 + (1 - x2) ** 2 + 1


def toy(weights: Vector, chosen: Tensor | None) -> Tensor:
    """(F1 x3² + F2 x4²) / 2, the mean of two samples' losses F1 x3² and F2 x4²."""
    x1, x2, x3, x4 = weights[0].unbind()
    first, second = heights(x1, x2)
    losses = first * x3 * x3, second * x4 * x4
    return (losses[0] + losses[1]) / 2 if chosen is None else losses[int(chosen)]


def toy_ascent_gradient(x: tuple[float, ...], rho: float) -> list[float]:
    """`ascent_gradient` of the toy in plain numbers, thirty times as fast; half a million steps are needed."""

    def gradient(x1: float, x2: float, x3: float, x4: float) -> list[float]:
        c, d, (first, second) = x3 * x3, x4 * x4, heights(x1, x2)
        return [x1 * c - 4 * (1 - x1) * d, 6 * x2 * c - (1 - x2) * d, first * x3, second * x4]

    x1, x2, x3, x4 = x
    g = gradient(*x)
    length = math.hypot(*g)
    h = gradient(*(a + rho * b / length for a, b in zip(x, g, strict=True)))
    along = sum(a * b for a, b in zip(g, h, strict=True)) / length**2
    p1, p2, p3, p4 = (b - along * a for a, b in zip(g, h, strict=True))
    c, d, (first, second) = x3 * x3, x4 * x4, heights(x1, x2)
    bent = (
        (c + 4 * d) * p1 + 2 * x1 * x3 * p3 - 8 * (1 - x1) * x4 * p4,
        (6 * c + d) * p2 + 12 * x2 * x3 * p3 - 2 * (1 - x2) * x4 * p4,
        2 * x1 * x3 * p1 + 12 * x2 * x3 * p2 + first * p3,
        -8 * (1 - x1) * x4 * p1 - 2 * (1 - x2) * x4 * p2 + second * p4,
    )
    return [a + rho / length * b for a, b in zip(h, bent, strict=True)]


def toy_trajectory(config: TheoryConfig, name: str) -> list[Record]:
    """Walk of an arm from START: x1 to x4, the loss, |cos| of the gradient with the directions of F1 (top) and F2 (smallest non-zero)."""
    arm, x = config.arms[name], torch.tensor(START, dtype=torch.float64, requires_grad=True)

    def measure() -> Record:
        loss = toy([x], None)
        (gradient,) = torch.autograd.grad(loss, x)
        cosines = (gradient / gradient.norm()).abs().tolist()
        at = {f"x{i}": value for i, value in enumerate(x.tolist(), 1)}
        return {**at, "loss": loss.item(), "cos_top": cosines[2], "cos_smallest": cosines[3]}

    descent = lambda weights: [torch.tensor(toy_ascent_gradient(weights[0].tolist(), arm.rho), dtype=torch.float64)]
    steps = walk(arm, [x], toy, 2, torch.Generator().manual_seed(0), descent)
    return trajectory(steps, config.steps(name), config.records, measure)


def cycle(lr: float, rho: float, n: int, mean: bool, steps: int = 1000) -> tuple[float, float]:
    """(||x|| that SAM with n ascent steps ends at on x'Ax/2, A = diag(CURVATURES); what theory says). It is lr rho λ1 / (2 - lr λ1) along
    the top direction for every n (Wen et al., Theorem 4.8, n = 1), and (n + 1)/(2n) of it with the mean of the gradients (ours)."""
    curvatures = torch.tensor(CURVATURES, dtype=torch.float64)
    x = torch.tensor([0.3, -0.2, 0.25, 0.1], dtype=torch.float64, requires_grad=True)
    optimizer = SAM(torch.optim.SGD([x], lr=lr), rho=rho, steps=n, descent_gradient="mean" if mean else "last")
    for _ in range(steps):
        step(optimizer, lambda: (curvatures * x * x).sum() / 2)
    top = max(CURVATURES)
    return x.norm().item(), lr * rho * top / (2 - lr * top) * ((n + 1) / (2 * n) if mean else 1.0)


def cycles() -> list[dict[str, float | str]]:
    """`cycle` over learning rates, radii, numbers of steps and both descent gradients."""
    rows: list[dict[str, float | str]] = []
    for (lr, rho), (n, mean) in itertools.product(((0.1, 0.05), (0.3, 0.2)), ((1, False), (2, False), (5, False), (2, True), (5, True))):
        found, predicted = cycle(lr, rho, n, mean)
        words = {"lr": lr, "rho": rho, "ascent_steps": n, "descent_gradient": "mean" if mean else "last"}
        rows.append({**words, "norm": found, "predicted": predicted, "relative_error": abs(found / predicted - 1)})
    return rows
