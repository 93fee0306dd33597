"""Directions in which the loss is drawn: filter-normalised, along the top of the Hessian, and the plane that XSAM searches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.subject import like

# Below this sin(psi) two directions span no plane: what is left of the second one is rounding.
FLAT = {torch.float64: 1e-8, torch.float32: 1e-4}


@torch.no_grad()
def filter_normalize_(direction: Vector, weights: Vector) -> None:
    """Rescale each filter of `direction`, in place, to the norm of the same filter of `weights` (Li et al. 2018, section 4).

    A filter is a row of a tensor with two or more dimensions; tensors with fewer (BatchNorm, biases) are set to 0, and so is a filter
    whose weights are all 0.
    """
    for d, w in zip(direction, weights, strict=True):
        if w.ndim < 2:
            d.zero_()
            continue
        rows = tuple(range(1, w.ndim))
        wanted, length = (torch.linalg.vector_norm(t, dim=rows, keepdim=True) for t in (w, d))
        d.mul_(wanted / length.clamp(min=vectors.TINY))


def unit_(direction: Vector) -> float | None:
    """Scale `direction` to norm 1, in place, and return the norm it had; None where it has no direction (zero, or not finite)."""
    length = vectors.normalize_(direction).item()
    return length if math.isfinite(length) and length > vectors.TINY else None


class Plane:
    """The plane of the ascent displacement d and the gradient g at the ascent point, with an orthonormal basis (first, second).

    first = d/||d||; second is what of g/||g|| is orthogonal to it, at norm 1; psi (radians) is the angle from d to g. XSAM's direction
    v(alpha) (Chen & Zhou 2026, Eq. 6: the spherical interpolation from d/||d|| to g/||g||) is then cos(alpha psi) first +
    sin(alpha psi) second. d and g are used up as the basis.

    psi is None where d or g has no direction; `flat`: there is no second direction, because of that or because d and g are parallel.
    """

    def __init__(self, d: Vector, g: Vector) -> None:
        self.first, self.second, self.flat = d, g, True
        self.psi: float | None = None
        if unit_(d) is None or unit_(g) is None:
            return
        cosine = vectors.dot(d, g).item()
        vectors.add_(g, d, -cosine)
        sine = vectors.norm(g).item()
        self.psi = math.atan2(sine, cosine)
        self.flat = sine < FLAT.get(d[0].dtype, FLAT[torch.float32])
        vectors.normalize_(g)

    def on_arc(self, alpha: float, radius: float) -> tuple[float, float]:
        """Coordinates of radius v(alpha) on the two axes."""
        assert self.psi is not None
        return radius * math.cos(alpha * self.psi), radius * math.sin(alpha * self.psi)


# ----------------------------------------------------------------------------------------------------------- top of the Hessian


@dataclass(frozen=True)
class Eigenpair:
    """value, and the unit vector with ||H vector - value vector|| = residual."""

    value: float
    vector: Vector
    residual: float


def top_eigenpairs(loss: DatasetLoss, count: int, steps: int, generator: torch.Generator) -> list[Eigenpair]:
    """The `count` largest eigenvalues (algebraically) of the Hessian of `loss` at the weights as they are, the largest first, by `steps`
    steps of Lanczos with full reorthogonalisation. Empty if a product is not finite. Use inside `measuring()`.

    Cost: min(steps, D) + count Hessian-vector products. Memory: as many vectors of D.
    """
    size = min(steps, sum(p.numel() for p in loss.points))
    basis, projected = [_orthogonal(like(loss.points, generator), [])], torch.zeros(size, size, dtype=torch.float64)
    for j in range(size):
        product = _hessian_times(loss, basis[j])
        projected[j, j] = vectors.dot(product, basis[j]).item()
        before = vectors.norm(product).item()
        if not math.isfinite(before):
            return []
        if j + 1 == size:
            break
        product = _orthogonal(product, basis, normalize=False)
        beta = vectors.norm(product).item()
        if beta <= 1e-6 * before:  # an invariant subspace: go on in a fresh direction, to which H does not lead
            product, coupling = _orthogonal(like(loss.points, generator), basis, normalize=False), 0.0
        else:
            coupling = beta
        vectors.normalize_(product)
        projected[j, j + 1] = projected[j + 1, j] = coupling
        basis.append(product)
    values, small = torch.linalg.eigh(projected)
    pairs = []
    for k in range(size - 1, max(size - 1 - count, -1), -1):
        vector = [torch.zeros_like(p) for p in loss.points]
        for weight, direction in zip(small[:, k].tolist(), basis, strict=True):
            vectors.add_(vector, direction, weight)
        vectors.normalize_(vector)
        value = values[k].item()
        rest = _hessian_times(loss, vector)  # Lanczos' own estimate of the residual knows nothing of rounding
        vectors.add_(rest, vector, -value)
        pairs.append(Eigenpair(value, vector, vectors.norm(rest).item()))
    return pairs


def _orthogonal(x: Vector, basis: list[Vector], *, normalize: bool = True) -> Vector:
    """x, in place, less its components along an orthonormal basis (taken off twice, against rounding)."""
    for _ in range(2):
        for direction in basis:
            vectors.add_(x, direction, -vectors.dot(x, direction).item())
    if normalize:
        vectors.normalize_(x)
    return x


def _hessian_times(loss: DatasetLoss, v: Vector) -> Vector:
    """H v over the whole set: 7 units of progress an image."""
    product = [torch.zeros_like(p) for p in loss.points]
    for inputs, labels in loss.batches():
        with torch.enable_grad():
            total, _ = loss._forward(inputs, labels)
            gradient = torch.autograd.grad(total / len(loss.labels), loss.parameters, create_graph=True, materialize_grads=True)
            curved = [(g, direction) for g, direction in zip(gradient, v, strict=True) if g.requires_grad]
        if curved:
            outputs, directions = zip(*curved, strict=True)
            pieces: tuple[Tensor, ...] = torch.autograd.grad(outputs, loss.parameters, directions, materialize_grads=True)
            vectors.add_(product, [piece.detach() for piece in pieces])
        loss.progress(7 * len(labels))
    return product
