"""VaSSO (Li & Giannakis 2023, arXiv 2309.15639): perturb along a mean gradient, in which the batch's noise is suppressed."""

from typing import Any

from torch.optim import Optimizer

from sam.core.vectors import Vector
from sam.optimizers.memory import MeanGradientSAM
from sam.optimizers.settings import check_arguments


class VaSSO(MeanGradientSAM):
    """d = (1 - theta) d' + theta g, with d' that of the step before; d = g in the first step. vasso_theta: theta."""

    own = ("vasso_theta",)

    def __init__(self, base: Optimizer, *, rho: float = 0.05, vasso_theta: float = 0.9, **common: Any) -> None:
        check_arguments(type(self), vasso_theta=vasso_theta)
        super().__init__(base, rho=rho, **common)
        self.theta = vasso_theta

    def direction(self, gradient: Vector) -> Vector:
        return self.mean(gradient, self.theta, self.scale)

    def renewed(self, noted: Vector) -> Vector:
        return self.mean(noted, self.theta)
