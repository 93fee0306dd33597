"""The Hessian of a mean loss as an operator on rows of length D, and its trace."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sam.core.vectors import Vector, copy_
from sam.sharpness import krylov
from sam.sharpness.dataset_loss import DatasetLoss

TOGETHER = 5  # probes of one call: they share forward and first backward, and cost a row and a product each


class Hessian:
    """H of a DatasetLoss at the weights as they are: `hessian(rows)`, (m, D) -> (m, D). Use inside `measuring()`.

    D counts the parameters that require a gradient, in their order, each flattened.
    """

    def __init__(self, loss: DatasetLoss) -> None:
        self.loss, self.points = loss, loss.points
        self.sizes = [p.numel() for p in self.points]
        self.length = sum(self.sizes)

    def __call__(self, rows: Tensor) -> Tensor:
        products = self.loss.hessian_vector_products([self.unflatten(row) for row in rows])
        result = torch.empty_like(rows)
        for row, product in zip(result, products, strict=True):
            copy_(self.unflatten(row), product)
        return result

    def flatten(self, vector: Vector) -> Tensor:
        return torch.cat([t.reshape(-1) for t in vector])

    def unflatten(self, row: Tensor) -> Vector:
        """Views of a row, (D,), shaped like the parameters."""
        return [piece.view(p.shape) for piece, p in zip(row.split(self.sizes), self.points, strict=True)]

    def draw(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """Rademacher rows, entries ±1, (count, D), from a CPU generator."""
        signs = torch.randint(0, 2, (count, self.length), generator=generator, dtype=self.points[0].dtype)
        return signs.mul_(2).sub_(1).to(self.points[0].device)


class Meter:
    """Passes units of work on, and at the end reports what was planned and not needed, so that the total is the one foretold."""

    def __init__(self, progress: Callable[[float], None], total: float) -> None:
        self.progress, self.left = progress, total

    def __call__(self, units: float) -> None:
        self.left -= units
        self.progress(units)

    def finish(self) -> None:
        if self.left > 0:
            self(self.left)


def trace(product: krylov.Product, draw: Callable[[int], Tensor], probes: int, known: Tensor, part: float) -> tuple[float, float]:
    """(estimate of Tr H, its standard error) by `probes` Rademacher probes z on the complement of the orthonormal rows `known` (m, D).

    Tr H = part + E z' P H P z, with part = the sum of v'Hv over the rows v of `known` and P the projection on their complement: the
    split of Hutch++ (Meyer et al. 2021) with the top Ritz vectors in place of its sketch. The rows do not depend on the probes, so the
    mean is unbiased and the standard error is that of `probes` independent draws. Without rows it is Hutchinson's estimator.
    """
    values: list[float] = []
    while len(values) < probes:
        rows = draw(min(TOGETHER, probes - len(values)))
        if len(known):
            krylov.project_out(rows, known)
        products = product(rows)
        values += [float(krylov.inner(z[None], h[None])) for z, h in zip(rows, products, strict=True)]
    mean = math.fsum(values) / probes if all(map(math.isfinite, values)) else math.nan
    return part + mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (probes - 1) / probes)


def trace_work(probes: int) -> float:
    """Units that `trace` costs for each image."""
    return 3 * math.ceil(probes / TOGETHER) + 4 * probes
