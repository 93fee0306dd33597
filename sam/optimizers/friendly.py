"""Friendly-SAM (Li et al. 2024, arXiv 2403.12350): perturb along the batch's noise alone."""

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.memory import MeanGradientSAM


class FriendlySAM(MeanGradientSAM):
    """d = g - sigma m, with m the mean gradient of the steps before: m <- lambda m + (1 - lambda) g. In the first step d = m = g.

    fsam_sigma, fsam_lambda:  sigma and lambda.
    """

    rho: float = 0.05
    fsam_sigma: float = 1.0
    fsam_lambda: float = 0.6

    def direction(self, gradient: Vector) -> Vector:
        return vectors.plus(gradient, self.kept, torch.full_like(self.empty, -self.fsam_sigma, dtype=torch.float64) * self.scale)

    def renewed(self, noted: Vector) -> Vector:
        return self.mean(noted, 1 - self.fsam_lambda)
