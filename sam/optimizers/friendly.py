"""Friendly-SAM (Li et al. 2024, arXiv 2403.12350): perturb along the batch's noise alone."""

from typing import Any

import torch
from torch.optim import Optimizer

from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.memory import MeanGradientSAM
from sam.optimizers.settings import check_arguments


class FriendlySAM(MeanGradientSAM):
    """d = g - sigma m, with m the mean gradient of the steps before: m <- lambda m + (1 - lambda) g. In the first step d = m = g.

    fsam_sigma, fsam_lambda:  sigma and lambda.
    """

    own = ("fsam_sigma", "fsam_lambda")

    def __init__(self, base: Optimizer, *, rho: float = 0.05, fsam_sigma: float = 1.0, fsam_lambda: float = 0.6, **common: Any) -> None:
        check_arguments(type(self), fsam_sigma=fsam_sigma, fsam_lambda=fsam_lambda)
        super().__init__(base, rho=rho, **common)
        self.sigma, self.decay = fsam_sigma, fsam_lambda

    def direction(self, gradient: Vector) -> Vector:
        return vectors.plus(gradient, self.kept, torch.full_like(self.empty, -self.sigma, dtype=torch.float64) * self.scale)

    def renewed(self, noted: Vector) -> Vector:
        return self.mean(noted, 1 - self.decay)
