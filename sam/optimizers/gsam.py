"""GSAM (Zhuang et al. 2022, arXiv 2203.08065): minimise the perturbed loss, and what it exceeds the loss by."""

from typing import Any

import torch
from torch import Tensor

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.settings import check_arguments


class GSAM(Method):
    """Descend with g_p - alpha g_v: g_p = grad L(w + rho_t g/||g||), g_v the part of g = grad L(w) that is orthogonal to g_p.

    gsam_alpha:  alpha.
    gsam_floor:  rho_t falls with the learning rate from rho to this share of rho, which it has where the rate is 0; 1: it stays rho. The
                 rate counts in units of the largest that the base optimizer was made with.
    Unperturbed parameters descend with their part of g_p.
    """

    own = ("gsam_alpha", "gsam_floor")

    def __init__(
        self, base: torch.optim.Optimizer, *, rho: float = 0.05, gsam_alpha: float = 0.4, gsam_floor: float = 1.0, **common: Any
    ) -> None:
        check_arguments(type(self), gsam_alpha=gsam_alpha, gsam_floor=gsam_floor)
        super().__init__(base, rho=rho, **common)
        self.alpha, self.floor = gsam_alpha, gsam_floor
        self.peak = max(float(group["lr"]) for group in base.param_groups)

    def begin(self) -> None:
        if self.floor < 1 and self.peak:
            rate = self.points[0].new_zeros(()) + self.param_groups[0]["lr"]  # which in a captured step is a tensor of this precision
            self.shrink = self.floor + (1 - self.floor) * (rate.double() / self.peak)

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.evaluate(ascent)
        self.record_first(gradient)
        rest = [g.clone() for g in self.perturbed(gradient)]
        climb.climb(self.perturbed(gradient))
        _, descent = self.evaluate(closure, climb.points)
        there = self.perturbed(descent)  # the very tensors of `descent`
        vectors.add_(rest, there, -vectors.dot(rest, there) / vectors.dot(there, there).clamp(min=vectors.TINY**2))
        vectors.add_(there, rest, -self.alpha)
        return loss, descent
