"""Rand-SAM (Tiwary & Aananth 2024, section 4.2): SAM with a random direction in place of the gradient's."""

from typing import Any

import torch
from torch import Tensor

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients
from sam.optimizers.radius import DrawnRadius


class RandSAM(DrawnRadius):
    """eps = r z/||z|| with z ~ N(0, I), drawn anew each step, and r = rho (or as `radius` says); descend with grad L(w + eps): one forward
    and one backward.

    The loss that `step` returns is the one at w + eps: this method never evaluates at w. `generator` is the method's own stream, so that
    its draws move nothing else.
    """

    draws_directions = True

    def __init__(self, base: torch.optim.Optimizer, *, rho: float = 0.05, **common: Any) -> None:
        super().__init__(base, rho=rho, **common)

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        climb.climb(vectors.normal_like(self.points, self.generators[0]))
        loss, gradient = self.evaluate(closure, climb.points)
        self.record_first(gradient)
        return loss, gradient

    def pass_over(self) -> None:
        vectors.normal_like(self.points, self.generators[0])  # so that a group's draw does not depend on which replica looks at it
