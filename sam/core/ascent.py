"""From w to a perturbed point: the step rules of N-step gradient ascent (Tiwary & Aananth 2024, Eqs. 4-5, and its variants)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector


@dataclass(frozen=True)
class Rule:
    """split_length: a step is rho/N long instead of rho. ball: "inside" shrinks every iterate to norm <= rho; "boundary" rescales the
    last one to norm rho; None leaves it."""

    split_length: bool
    ball: str | None


RULES = {
    "split": Rule(split_length=True, ball=None),
    "project": Rule(split_length=False, ball="inside"),
    "accumulate": Rule(split_length=False, ball=None),
    "boundary": Rule(split_length=True, ball="boundary"),
}


class Ascent:
    """The perturbation eps of the weights `start`, built one step at a time: rho (or rho/N) along direction / divisor.

    The normalisation is the method's own: SAM divides the gradient g by ||g||, the default; ASAM (Kwon et al. 2021, Eq. 6) divides T² g by
    ||T g||, so that ||eps|| is not rho. Balls are Euclidean whatever the divisor: "project" and "boundary" bound ||eps|| by rho.

    start:          the perturbed tensors at w; only read.
    radii:          rho of each tensor (equal unless parameter groups set different ones).
    steps, rule:    N and the step rule; with N = 1 all rules are the same.
    scope:          global: a step has the direction's shape; layer, filter: each tensor (row) gets an equal share of the step's length,
                    which is the same in every scope (`vectors.normalize_`).
    shrink:         factor on all radii, a 0-d tensor (rho then stands for the product); None: 1.
    points:         start + eps, in new tensors after every step.
    lengths:        the divisor of every step. One that is not finite voids the optimizer's step; a direction that is not finite beside a
                    finite divisor shows in the gradient at the point.
    """

    def __init__(
        self,
        start: Vector,
        radii: Sequence[float],
        *,
        steps: int = 1,
        rule: str = "split",
        scope: str = "global",
        shrink: Tensor | None = None,
    ) -> None:
        self.start, self.points, self.radii, self.steps, self.scope = start, start, radii, steps, scope
        self.shrink = shrink
        self.rule = RULES["split" if steps == 1 else rule]
        self.taken = 0
        self.lengths: list[Tensor] = []
        self._sum: Vector = []  # eps in units of shrink * rho is _factor * _sum; with norm 1 it is on the boundary of the ball
        self._factor: Tensor | None = None  # None: 1

    def climb(self, direction: Vector, divisor: Tensor | None = None, *, norm: Tensor | None = None) -> Tensor:
        """Take one step along `direction` (which is used up as work space) over `divisor`, a 0-d tensor; return the divisor.

        divisor: None: the direction's norm, `norm` where it is known already. With loss scaling a direction carries the scale, and the
        divisor must carry it too. A divisor of zero counts as `vectors.TINY`, so that a zero direction makes no step.
        """
        if self.steps == 1 and self.scope == "global":  # a pass over memory less: the direction is never divided
            divisor = divisor if divisor is not None else vectors.norm(direction) if norm is None else norm
            self._sum, self._factor = direction, 1 / divisor.clamp(min=vectors.TINY)
        else:
            norm = vectors.normalize_(direction, self.scope, norm)
            if divisor is None:
                divisor = norm
            else:
                vectors.scale_(direction, norm / divisor.clamp(min=vectors.TINY))
            self._add(direction)
        self.lengths.append(divisor)
        self.taken += 1
        self.points = vectors.moved(self.start, self._sum, self.radii, self._in_radii())
        return divisor

    def _add(self, unit: Vector) -> None:
        if self.rule.split_length and self.steps > 1:
            vectors.scale_(unit, 1 / self.steps)
        if self._sum:
            vectors.add_(self._sum, unit)
        else:
            self._sum = unit
        if self.rule.ball == "inside":
            vectors.scale_(self._sum, 1 / vectors.norm(self._sum).clamp(min=1))
        elif self.rule.ball == "boundary" and self.taken + 1 == self.steps:
            vectors.scale_(self._sum, 1 / vectors.norm(self._sum).clamp(min=vectors.TINY))

    def relative_length(self) -> Tensor:
        """||eps|| / rho, a 0-d tensor: 1 after one step over the direction's norm; with another divisor, what the method makes of it
        (ASAM: ||T² g|| / ||T g||)."""
        length, factor = vectors.norm(self._sum), self._in_radii()
        return length if factor is None else length * factor

    def _in_radii(self) -> Tensor | None:
        """eps in units of rho is this times `_sum`; None: 1."""
        if self._factor is None or self.shrink is None:
            return self.shrink if self._factor is None else self._factor
        return self._factor * self.shrink

    def cosine(self, x: Vector) -> Tensor:
        """The cosine between x and eps in units of rho, a 0-d float64 tensor; 0 where one of them is zero. No divisor changes it."""
        return vectors.dot(x, self._sum) / (vectors.norm(x).double() * vectors.norm(self._sum)).clamp(min=vectors.TINY)

    def direction(self) -> Vector:
        """eps up to a positive factor; after the last step, whose work space it may be: read it only."""
        return self._sum if len(set(self.radii)) == 1 else list(torch._foreach_mul(self._sum, list(self.radii)))
