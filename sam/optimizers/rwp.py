"""RWP and m-RWP (Li et al. 2022, arXiv 2211.11489), ARWP and m-ARWP (Li et al. 2024, arXiv 2404.00357): noise as large as the filters."""

import torch
from torch import Tensor

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients
from sam.optimizers.memory import Remembering
from sam.optimizers.weighted import mixed


class RWP(Remembering):
    """eps = rho ||w_f|| z / sqrt(1 + eta F_f), z ~ N(0, I) anew each step, f the filter of a weight (of a bias or scale: the whole tensor's
    norm, own F); descend with (1 - a) grad L(w) + a grad L(w + eps). F <- beta F + grad L(w + eps)², summed over the filter; at first 0.

    perturbed_weight:    a; at 1 one forward and backward, at w + eps, whose loss is then the one returned; else two (m-RWP, m-ARWP).
    rwp_eta, rwp_beta:   eta (0: no F, RWP) and beta.
    """

    draws_points = True
    rho: float = 0.01
    perturbed_weight: float = 1.0
    rwp_eta: float = 0.0
    rwp_beta: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        self.notes, self.norm_scope = int(self.rwp_eta > 0), "global"  # nothing is normalised

    def noise(self) -> vectors.Vector:
        drawn = vectors.normal_like(self.points, self.generators[0])
        for z, w, f in zip(drawn, self.points, self.kept, strict=True):
            rows = tuple(range(1, w.ndim))
            total = f.sum(dim=rows, keepdim=True) if rows else f
            z.mul_(torch.linalg.vector_norm(w, dim=rows or None, keepdim=True)).div_((1 + self.rwp_eta * total).sqrt())
        return drawn

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        here = None if self.perturbed_weight == 1 else self.first_pass(ascent)
        climb.climb(self.noise(), self.points[0].new_ones(()))
        loss, there = self.evaluate(closure, climb.points) if here else self.first_pass(closure, climb.points)
        if self.notes:
            self.note(self.perturbed(there))
        return (here[0], mixed(here[1], there, self.perturbed_weight)) if here else (loss, there)

    def renewed(self, noted: vectors.Vector) -> vectors.Vector:
        return [self.rwp_beta * f + g * g for f, g in zip(self.kept, noted, strict=True)]
