"""GSAM (Zhuang et al. 2022, arXiv 2203.08065): minimise the perturbed loss, and what it exceeds the loss by."""

import torch
from torch import Tensor

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients, Method


class GSAM(Method):
    """Descend with g_p - alpha g_v: g_p = grad L(w + rho_t g/||g||), g_v the part of g = grad L(w) that is orthogonal to g_p.

    gsam_alpha:  alpha.
    gsam_floor:  rho_t falls with the learning rate from rho to this share of rho, which it has where the rate is 0; 1: it stays rho. The
                 rate counts in units of the largest that the base optimizer was made with, or that one of torch's schedulers noted.
    Unperturbed parameters descend with their part of g_p.
    """

    rho: float = 0.05
    gsam_alpha: float = 0.4
    gsam_floor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peak = max(float(group["lr"]) for group in self.base.param_groups)

    def begin(self) -> None:
        if self.gsam_floor < 1 and self.peak:
            self.peak = max(self.peak, *(float(group.get("max_lr", group.get("initial_lr", 0.0))) for group in self.param_groups))
            rates = [self.points[0].new_zeros(()) + group["lr"] for group in self.param_groups]  # in a captured step tensors already
            self.shrink = self.gsam_floor + (1 - self.gsam_floor) * (torch.stack(rates).max().double() / self.peak)

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        loss, gradient = self.first_pass(ascent)
        rest = [g.clone() for g in self.perturbed(gradient)]
        climb.climb(self.perturbed(gradient))
        _, descent = self.evaluate(closure, climb.points)
        there = self.perturbed(descent)  # the very tensors of `descent`
        vectors.add_(rest, there, -vectors.dot(rest, there) / vectors.dot(there, there).clamp(min=vectors.TINY**2))
        vectors.add_(there, rest, -self.gsam_alpha)
        return loss, descent
