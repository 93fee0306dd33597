"""Two gradients in one: unnormalised SAM (Dai et al. 2023), the gradient-norm penalty (Zhao et al. 2022) and WSAM (Yue et al. 2023)."""

from typing import Any

import torch
from torch import Tensor

from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.settings import check_arguments
from sam.optimizers.verbs import accumulate


class WeightedSAM(Method):
    """Descend with (1 - a) grad L(w) + a grad L(w + eps); eps = rho g/||g||, or rho g where it is not normalised.

    perturbed_weight:  a. SAM and USAM: 1; the penalty lambda ||g||: lambda / rho; WSAM: gamma / (1 - gamma), which may be above 1.
    normalized:        whether g is divided by its norm.
    """

    own = ("perturbed_weight", "normalized")

    def __init__(
        self, base: torch.optim.Optimizer, *, rho: float = 0.05, perturbed_weight: float = 1.0, normalized: bool = True, **common: Any
    ) -> None:
        check_arguments(type(self), perturbed_weight=perturbed_weight)
        super().__init__(base, rho=rho, **common)
        self.weight, self.normalized = perturbed_weight, normalized
        if not normalized:
            self.norm_scope = "global"

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.evaluate(ascent)
        self.record_first(gradient)
        own = self.perturbed(gradient)
        one = None if self.normalized else self.points[0].new_ones(()) if self.scaling is None else self.scaling.value
        climb.climb(own if self.weight == 1 else [g.clone() for g in own], one)  # which uses it up
        _, there = self.evaluate(closure, climb.points)
        return loss, mixed(gradient, there, self.weight)


def mixed(here: Gradients, there: Gradients, weight: float) -> Gradients:
    """(1 - weight) here + weight there; at 1 exactly `there`."""
    return there if weight == 1 else accumulate(accumulate(None, here, 1 - weight), there, weight)
