"""From w to a perturbed point: the step rules of N-step gradient ascent (Tiwary & Aananth 2024, Eqs. 4-5, and its variants)."""

from __future__ import annotations

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
    """The perturbation eps of `points`, built one gradient at a time; `points` sit at `start` + eps after every step.

    points, start:  the perturbed tensors, and a copy of them at w.
    radii:          rho of each tensor (equal, but for parameter groups with a rho of their own).
    steps, rule:    N and the step rule; with N = 1 all rules are the same.
    """

    def __init__(
        self, points: Vector, start: Vector, radii: Sequence[float], *, steps: int = 1, rule: str = "split", scope: str = "global"
    ) -> None:
        self.points, self.start, self.radii, self.steps, self.scope = points, start, radii, steps, scope
        self.rule = RULES["split" if steps == 1 else rule]
        self.taken = 0
        self.lengths: list[Tensor] = []  # of the gradients climbed along: finite, or the step is void
        self.unit: Vector = []  # eps in units of rho: norm 1 is the boundary of the ball

    def climb(self, gradient: Vector, length: Tensor | None = None) -> Tensor:
        """One ascent step along `gradient` (which is used up as work space); returns the gradient's norm, a 0-d tensor, also kept in
        `lengths`. length: that norm, if it is known already."""
        length = vectors.normalize_(gradient, self.scope, length)
        self.lengths.append(length)
        if self.rule.split_length and self.steps > 1:
            vectors.scale_(gradient, 1 / self.steps)
        if self.unit:
            vectors.add_(self.unit, gradient)
        else:
            self.unit = gradient
        self.taken += 1
        if self.rule.ball == "inside":
            vectors.scale_(self.unit, 1 / vectors.norm(self.unit).clamp(min=1))
        elif self.rule.ball == "boundary" and self.taken == self.steps:
            vectors.scale_(self.unit, 1 / vectors.norm(self.unit).clamp(min=vectors.TINY))
        if self.taken > 1:
            vectors.copy_(self.points, self.start)
        vectors.add_scaled_(self.points, self.unit, self.radii)
        return length

    def relative_length(self) -> Tensor:
        """||eps|| / rho, a 0-d tensor."""
        return vectors.norm(self.unit)

    def displacement(self) -> Vector:
        """eps itself; uses up the work space, so call it after the last step."""
        if len(set(self.radii)) == 1:
            vectors.scale_(self.unit, self.radii[0])
        else:
            torch._foreach_mul_(self.unit, list(self.radii))
        return self.unit
