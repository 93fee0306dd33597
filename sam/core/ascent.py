"""From w to a perturbed point: the step rules of N-step gradient ascent (Tiwary & Aananth 2024, Eqs. 4-5, and its variants)."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector


@dataclass(eq=False, repr=False)
class Ascent:
    """The perturbation eps of the weights `start`, built one step at a time: rho (or rho/N) along direction / divisor.

    The normalisation is the method's own: SAM divides the gradient g by ||g||, the default; ASAM (Kwon et al. 2021, Eq. 6) divides T² g by
    ||T g||, so that ||eps|| is not rho. "project" and "boundary" bound the Euclidean ||eps|| by rho whatever the divisor.

    start, radii:   the perturbed tensors at w, only read, and the rho of each (parameter groups may set different ones).
    steps, rule:    N and the step rule; with N = 1 all rules are the same.
    scope:          global: a step has the direction's shape; layer, filter: each tensor (row) gets an equal share of the step's length.
    shrink:         factor on all radii, a 0-d tensor; None: 1.
    points:         start + eps, in new tensors after every step.
    lengths:        the divisor of every step. One that is not finite voids the optimizer's step; a direction that is not finite beside a
                    finite divisor shows in the gradient at the point.
    """

    start: Vector
    radii: Sequence[float]
    _: KW_ONLY
    steps: int = 1
    rule: str = "split"
    scope: str = "global"
    shrink: Tensor | None = None

    def __post_init__(self) -> None:
        self.points = self.start
        self.lengths: list[Tensor] = []
        self._sum: Vector = []  # eps in units of rho is _factor * _sum; with norm shrink it is on the boundary of the ball
        self._factor = self.shrink  # None: 1

    def climb(self, direction: Vector, divisor: Tensor | None = None, *, norm: Tensor | None = None) -> Tensor:
        """Take one step along `direction` (used up) over `divisor` (0-d; None: the direction's norm, `norm` if known); return the divisor.
        With loss scaling both carry the scale. A divisor of zero counts as `vectors.TINY`, so that a zero direction makes no step."""
        if self.steps == 1 and self.scope == "global":  # a pass over memory less: the direction is never divided
            divisor = divisor if divisor is not None else vectors.norm(direction) if norm is None else norm
            inverse = 1 / divisor.clamp(min=vectors.TINY)
            self._sum, self._factor = direction, inverse if self.shrink is None else inverse * self.shrink
        else:
            norm = vectors.normalize_(direction, self.scope, norm)
            if divisor is None:
                divisor = norm
            else:
                vectors.scale_(direction, norm / divisor.clamp(min=vectors.TINY))
            self._add(direction)
        self.lengths.append(divisor)
        self.points = vectors.moved(self.start, self._sum, self.radii, self._factor)
        return divisor

    def _add(self, unit: Vector) -> None:
        rule = self.rule if self.steps > 1 else "accumulate"
        if rule in ("split", "boundary"):  # a step is rho/N long
            vectors.scale_(unit, 1 / self.steps)
        if self._sum:
            vectors.add_(self._sum, unit)
        else:
            self._sum = unit
        if rule == "project":  # every iterate shrinks to norm <= rho
            vectors.scale_(self._sum, 1 / vectors.norm(self._sum).clamp(min=1))
        elif rule == "boundary" and len(self.lengths) + 1 == self.steps:  # the last one gets norm rho
            vectors.scale_(self._sum, 1 / vectors.norm(self._sum).clamp(min=vectors.TINY))

    def relative_length(self) -> Tensor:
        """||eps|| / rho, a 0-d tensor: 1 after one step over the direction's norm; for ASAM ||T² g|| / ||T g||."""
        length = vectors.norm(self._sum)
        return length if self._factor is None else length * self._factor

    def cosine(self, x: Vector) -> Tensor:
        """The cosine between x and eps in units of rho, a 0-d float64 tensor; 0 where one of them is zero. No divisor changes it."""
        lengths = [vectors.norm(of).double().clamp(min=vectors.TINY) for of in (x, self._sum)]
        return vectors.dot(x, self._sum) / (lengths[0] * lengths[1])

    def direction(self) -> Vector:
        """eps up to a positive factor; after the last step, whose work space it may be: read it only."""
        return self._sum if len(set(self.radii)) == 1 else list(torch._foreach_mul(self._sum, list(self.radii)))
