"""Balls around w, in coordinates where each is the unit ball, so that nothing is ever divided by a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.subject import like


@dataclass(frozen=True)
class Ball:
    """All delta = radius * scale * u with ||u|| <= 1, in the norm l2 or linf; scale None: ones.

    A weight whose scale is exactly 0 cannot move, whatever its u. All methods write into their argument.
    """

    norm: str
    radius: float
    scale: Vector | None = None

    def move(self, points: Vector, start: Vector, u: Vector) -> None:
        """points <- start + delta."""
        vectors.copy_(points, start)
        if self.scale is None:
            vectors.add_(points, u, self.radius)
        else:
            torch._foreach_addcmul_(points, self.scale, u, value=self.radius)

    def steepest_(self, gradient: Vector) -> bool:
        """gradient of L -> the u of norm 1 along which a linear loss rises most; False where it is zero or not finite."""
        if self.scale is not None:
            torch._foreach_mul_(gradient, self.scale)
        length = vectors.normalize_(gradient).item()
        if self.norm == "linf":
            torch._foreach_sign_(gradient)
        return math.isfinite(length) and length > vectors.TINY

    def project_(self, u: Vector) -> None:
        """u -> the nearest point of the unit ball."""
        if self.norm == "linf":
            torch._foreach_clamp_min_(u, -1.0)
            torch._foreach_clamp_max_(u, 1.0)
        else:
            vectors.scale_(u, 1 / vectors.norm(u).clamp(min=1))

    def random(self, points: Vector, generator: torch.Generator) -> Vector:
        """u drawn uniformly: on the sphere (l2, of the weights that can move), or in the box (linf)."""
        if self.norm == "linf":
            return like(points, generator, "uniform")
        u = like(points, generator)
        if self.scale is not None:
            torch._foreach_mul_(u, [(s != 0).to(s.dtype) for s in self.scale])
        vectors.normalize_(u)
        return u
