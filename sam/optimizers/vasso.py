"""VaSSO (Li & Giannakis 2023, arXiv 2309.15639): perturb along a mean gradient, in which the batch's noise is suppressed."""

from sam.core.vectors import Vector
from sam.optimizers.memory import MeanGradientSAM


class VaSSO(MeanGradientSAM):
    """d = (1 - theta) d' + theta g, with d' that of the step before; d = g in the first step. vasso_theta: theta."""

    rho: float = 0.05
    vasso_theta: float = 0.9

    def direction(self, gradient: Vector) -> Vector:
        return self.mean(gradient, self.vasso_theta, self.scale)

    def renewed(self, noted: Vector) -> Vector:
        return self.mean(noted, self.vasso_theta)
