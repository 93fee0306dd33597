"""ZSharp: SAM whose ascent keeps only the gradient components that stand out in their layer (Yun 2025, arXiv 2505.02369).

    python ../../train.py plugins=zsharp optimizer=zsharp dataset=digits model=wrn_10_1 epochs=2

z = (g - mean(g)) / std(g) within each layer; the ascent goes along g where |z| is at or above its percentile Q, and is 0 elsewhere. Read
here: a layer is a parameter tensor, the percentile is that layer's own (dividing by std then changes nothing), and the ascent is SAM's.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from sam.config import key
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.settings import METHODS, PerturbingConfig

VERSION = 1  # raise it when the arithmetic changes: runs of another VERSION are other runs


@dataclass(frozen=True)
class ZSharpConfig(PerturbingConfig):
    percentile: float = key(0.95, "of ZSharp: share of each layer's gradient components that the ascent leaves out", low=0, high=0.9999)

    @property
    def passes(self) -> float:
        return 2


def filtered(g: Tensor, percentile: float) -> Tensor:
    """g where its deviation from the tensor's mean is at or above the percentile, 0 elsewhere; NaN throughout if g is not finite."""
    deviation = (g - g.mean()).abs()
    least = deviation.flatten().kthvalue(max(1, math.ceil(percentile * g.numel()))).values
    return g * (deviation >= least)  # a product: what is not finite must show


class ZSharp(Method):
    """Descend with grad L(w + rho f / ||f||), where f is grad L(w), filtered. Two forwards and backwards a step.

    percentile: share of each layer's components that f leaves out; 0 is SAM.
    """

    rho: float = 0.05
    percentile: float = 0.95

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.first_pass(ascent)
        climb.climb([filtered(g, self.percentile) for g in self.perturbed(gradient)])
        _, descent = self.evaluate(closure, climb.points)
        return loss, descent


METHODS.add("zsharp", f"{__name__}:ZSharp", ZSharpConfig, label="ZSharp", option={"rho": 0.05, "percentile": 0.95})
