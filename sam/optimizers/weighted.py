"""Two gradients in one: unnormalised SAM (Dai et al. 2023), the gradient-norm penalty (Zhao et al. 2022) and WSAM (Yue et al. 2023)."""

from torch import Tensor

from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.verbs import accumulate


class WeightedSAM(Method):
    """Descend with (1 - a) grad L(w) + a grad L(w + eps); eps = rho g/||g||, or rho g where it is not normalised.

    perturbed_weight:  a. SAM and USAM: 1; the penalty lambda ||g||: lambda / rho; WSAM: gamma / (1 - gamma), which may be above 1.
    normalized:        whether g is divided by its norm.
    """

    rho: float = 0.05
    perturbed_weight: float = 1.0
    normalized: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.normalized:
            self.norm_scope = "global"

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.first_pass(ascent)
        own = self.perturbed(gradient)
        one = None if self.normalized else self.points[0].new_ones(()) if self.scaling is None else self.scaling.value
        climb.climb(own if self.perturbed_weight == 1 else [g.clone() for g in own], one)  # which uses it up
        _, there = self.evaluate(closure, climb.points)
        return loss, mixed(gradient, there, self.perturbed_weight)


def mixed(here: Gradients, there: Gradients, weight: float) -> Gradients:
    """(1 - weight) here + weight there; at 1 exactly `there`."""
    return there if weight == 1 else accumulate(accumulate(None, here, 1 - weight), there, weight)
