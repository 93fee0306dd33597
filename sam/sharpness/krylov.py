"""Krylov spaces of a symmetric operator: extreme eigenvalues by thick-restart Lanczos, and quadrature nodes. Vectors are rows of length D
in the operator's own format; everything of the size of the space is float64 on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # rows (m, D) -> the operator times each row, (m, D)

CHUNK = 1 << 18  # columns at a time: what is copied on the way is that small
BLOCK = 1 << 10  # columns summed in the rows' own format; their sums in float64
VERIFY = 10  # products spent on a fresh direction before convergence is believed


def inner(rows: Tensor, x: Tensor) -> Tensor:
    """Return the inner products (m, n) of rows (m, D) and x (n, D), float64 on the CPU."""
    total = torch.zeros(len(rows), len(x), dtype=torch.float64, device=x.device)
    for left, right in zip(rows.split(CHUNK, dim=1), x.split(CHUNK, dim=1), strict=True):
        even = left.shape[1] // BLOCK * BLOCK
        blocks = left[:, :even].unflatten(1, (-1, BLOCK)).transpose(0, 1) @ right[:, :even].unflatten(1, (-1, BLOCK)).permute(1, 2, 0)
        total += blocks.sum(0, dtype=torch.float64) + left[:, even:] @ right[:, even:].T
    return total.cpu()


def combine(rows: Tensor, weights: Tensor, into: Tensor) -> Tensor:
    """Combine rows (m, D) with weights (m, n): weights' rows, into (n, D), which may be some of the rows."""
    weights = weights.to(rows)
    for source, target in zip(rows.split(CHUNK, dim=1), into.split(CHUNK, dim=1), strict=True):
        target.copy_(weights.T @ source)
    return into


def project_out(x: Tensor, rows: Tensor) -> Tensor:
    """Remove from each row of x, in place and twice, its part in the span of the orthonormal `rows`; returns its coefficients, float64."""
    total = torch.zeros(len(rows), len(x), dtype=torch.float64)
    for _ in range(2):  # once leaves what rounding let through
        part = inner(rows, x)
        weights = part.to(x)
        for source, target in zip(rows.split(CHUNK, dim=1), x.split(CHUNK, dim=1), strict=True):
            target.sub_(weights.T @ source)
        total += part
    return total


class Krylov:
    """An orthonormal basis of `size` <= `capacity` vectors, and H's projection on it, V H V', grown by one product at a time. Each new
    vector is orthogonalised twice against the whole basis. Row `size` is the vector of the next product: a fresh random direction where the
    space is invariant (a breakdown, rest = 0). Memory: capacity + 1 rows, and three while growing."""

    def __init__(self, product: Product, start: Tensor, capacity: int, generator: torch.Generator) -> None:
        self.product, self.capacity, self.generator = product, capacity, generator
        self.length = len(start)
        self.rows = start.new_zeros(min(capacity, self.length) + 1, self.length)
        self.projection = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.size, self.rest, self.scale = 0, 0.0, 0.0
        self._set_next(start[None])

    @property
    def basis(self) -> Tensor:
        return self.rows[: self.size]

    def _set_next(self, x: Tensor) -> None:
        self.rows[self.size] = x[0] / float(inner(x, x).sqrt())

    def refresh(self) -> None:
        """Replace the next vector by a random one, orthogonal to the basis."""
        self.rest = 0.0
        x = torch.randn(1, self.length, generator=self.generator, dtype=self.rows.dtype).to(self.rows.device)
        project_out(x, self.basis)
        self._set_next(x)

    def grow(self) -> bool:
        """Add one product to the space. Return False, and change nothing, if it is not finite."""
        x = self.product(self.rows[self.size : self.size + 1]).clone()
        length = float(inner(x, x).sqrt())
        if not torch.isfinite(torch.tensor(length)):
            return False
        self.size += 1
        self.scale = max(self.scale, length)
        coefficients = project_out(x, self.basis)[:, 0]
        self.projection[: self.size, self.size - 1] = self.projection[self.size - 1, : self.size] = coefficients
        self.rest = float(inner(x, x).sqrt())
        if self.size == self.length:
            self.rest = 0.0
        elif self.rest <= 10 * torch.finfo(x.dtype).eps * self.scale:
            self.refresh()
        else:
            self._set_next(x)
        return True

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Return (values (size,), ascending; coefficients of the vectors in the basis (size, size), one a column), float64."""
        return torch.linalg.eigh(self.projection[: self.size, : self.size])  # type: ignore[no-any-return]

    def compress(self, values: Tensor, vectors: Tensor) -> None:
        """Restart (thick restart, Wu & Simon 2000): keep these Ritz vectors as the basis, and the next vector."""
        count, next_row = len(values), self.rows[self.size].clone()
        combine(self.basis, vectors, into=self.rows[:count])
        self.rows[count] = next_row
        self.size = count
        self.projection.zero_()
        self.projection[:count, :count] = torch.diag(values)


@dataclass(frozen=True)
class Extremes:
    """vectors: (m + 1, D) of norm 1: the Ritz vectors of the m largest values in descending order, then that of the smallest (the last of
    the m again where there are no more). products: how many. spectrum: all D eigenvalues, ascending float64, where known, or None."""

    vectors: Tensor
    products: int
    spectrum: Tensor | None


def extremes(
    product: Product, start: Tensor, *, count: int, steps: int, basis: int, tolerance: float, generator: torch.Generator
) -> Extremes | None:
    """Find Ritz vectors of the `count` largest ALGEBRAIC eigenvalues and of the smallest in at most `steps` products; start (D,) random.
    Ends when the residuals of the `count` largest are below tolerance * (largest |Ritz value|), and are so again VERIFY products after a
    fresh random direction was added: one start sees one copy of a multiple eigenvalue, and nothing of a space orthogonal to it. If D <=
    steps, the whole spectrum is known. None if a product is not finite. Memory: the basis' rows, the result, three more."""
    length = len(start)
    whole = length <= steps
    space = Krylov(product, start, length if whole else min(basis, steps), generator)
    verified_since: int | None = None
    taken = 0
    while taken < min(steps, length):
        if not whole and space.size == space.capacity:
            values, vectors = space.ritz()  # the smallest two survive, and the largest `count` and half of the room that is left
            top = count + max((space.capacity - count - 2) // 2, 0)
            keep = [0, 1, *range(max(len(values) - top, 2), len(values))]
            space.compress(values[keep], vectors[:, keep])
        if not space.grow():
            return None
        taken += 1
        if whole or space.size < count:
            continue
        values, vectors = space.ritz()
        residuals = space.rest * vectors[-1].abs()  # estimates of ||H y - theta y||, which lies along the next vector
        if float(residuals[-count:].max()) <= tolerance * float(values.abs().max()):
            if verified_since is None:
                verified_since = taken
                space.refresh()
            elif taken - verified_since >= VERIFY:
                break
    values, vectors = space.ritz()
    order = [*range(len(values) - 1, max(len(values) - 1 - count, -1), -1), 0]
    found = combine(space.basis, vectors[:, order], into=start.new_empty(len(order), length))
    return Extremes(found, taken, values if whole else None)


def quadrature(product: Product, start: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Gauss quadrature of start's spectral measure by Lanczos: (nodes, weights), each (at most `steps`,), float64: sum weights f(nodes) =
    u' f(H) u, u = start/||start||, for polynomials of degree below 2 steps. None if a product is not finite. Memory: steps + 4 rows."""
    space = Krylov(product, start, min(steps, len(start)), generator)
    for _ in range(space.capacity):
        if not space.grow():
            return None
        if space.rest == 0:
            break
    nodes, vectors = space.ritz()
    return nodes, vectors[0] ** 2
