"""LookSAM (Liu et al. 2022, arXiv 2203.02714): SAM every k-th step, and what it adds to the gradient used again in between."""

from collections.abc import Hashable

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.base import Closure, Gradients
from sam.optimizers.memory import Remembering

FLAT = 1e-6  # below this share of ||g_s||² the orthogonal part is rounding: g_v is 0, and the steps until the next look are plain ones


class LookSAM(Remembering):
    """Every k-th step, from the first on: SAM's, and g_v = the part of its gradient g_s that is orthogonal to g is kept. In between descend
    with g + alpha ||g||/||g_v|| g_v, one forward and backward. Norms are over all perturbed parameters; the others descend with g there."""

    rho: float = 0.05
    looksam_interval: int = 5
    looksam_alpha: float = 0.7

    @property
    def phase(self) -> Hashable:  # type: ignore[override]
        return self.steps_taken % self.looksam_interval == 0

    @property
    def notes(self) -> int:  # type: ignore[override]
        return 2 if self.phase else 0

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        if not self.phase:
            loss, gradient = self.first_pass(closure)
            own = self.perturbed(gradient)  # the very tensors of `gradient`
            ratio = vectors.norm(own) / vectors.norm(self.kept).clamp(min=vectors.TINY)
            vectors.add_(own, self.kept, self.looksam_alpha * ratio)
            return loss, gradient
        climb = self.ascent()
        loss, gradient = self.first_pass(ascent)
        own = [g.clone() for g in self.perturbed(gradient)]
        climb.climb(self.perturbed(gradient))
        _, descent = self.evaluate(closure, climb.points)
        self.note([*own, *self.perturbed(descent)])
        return loss, descent

    def renewed(self, noted: Vector) -> Vector:
        here, there = noted[: len(noted) // 2], noted[len(noted) // 2 :]
        along = vectors.dot(here, there) / vectors.dot(here, here).clamp(min=vectors.TINY**2)
        found, length = vectors.plus(there, here, -along), vectors.dot(there, there)
        return list(torch._foreach_mul(found, (vectors.dot(found, found) > FLAT * length).to(found[0].dtype)))
