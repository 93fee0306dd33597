"""RWP and m-RWP (Li et al. 2022, arXiv 2211.11489), ARWP and m-ARWP (Li et al. 2024, arXiv 2404.00357): noise as large as the filters."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients
from sam.optimizers.memory import Remembering
from sam.optimizers.settings import check_arguments
from sam.optimizers.weighted import mixed


class RWP(Remembering):
    """eps = rho ||w_f|| z / sqrt(1 + eta F_f), z ~ N(0, I) anew each step, f the filter of a weight (of a bias or scale: the whole tensor's
    norm, own F); descend with (1 - a) grad L(w) + a grad L(w + eps). F <- beta F + grad L(w + eps)², summed over the filter; at first 0.

    perturbed_weight:    a; at 1 one forward and backward, at w + eps, whose loss is then the one returned; else two (m-RWP, m-ARWP).
    rwp_eta, rwp_beta:   eta (0: no F, RWP) and beta.
    """

    own = ("perturbed_weight", "rwp_eta", "rwp_beta")

    def __init__(self, base: Optimizer, *, rho: float = 0.01, generator: Generator | None = None, **keys: Any) -> None:
        own = {name: keys.pop(name, default) for name, default in zip(self.own, (1.0, 0.0, 0.99), strict=True)}
        check_arguments(type(self), **own)
        super().__init__(base, rho=rho, **keys)
        self.weight, self.eta, self.beta = own.values()
        self.notes, self.norm_scope = int(self.eta > 0), "global"  # nothing is normalised
        self.generators = [generator or Generator(self.parameters[0].device).manual_seed(0)]

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        return {"generator": run["generator"]} | super().options(config, **run)

    def noise(self) -> vectors.Vector:
        drawn = vectors.normal_like(self.points, self.generators[0])
        for z, w, f in zip(drawn, self.points, self.kept, strict=True):
            rows = tuple(range(1, w.ndim))
            total = f.sum(dim=rows, keepdim=True) if rows else f
            z.mul_(torch.linalg.vector_norm(w, dim=rows or None, keepdim=True)).div_((1 + self.eta * total).sqrt())
        return drawn

    def pass_over(self) -> None:
        vectors.normal_like(self.points, self.generators[0])  # so that a group's draw does not depend on which replica looks at it

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        here = None if self.weight == 1 else self.evaluate(ascent)
        climb.climb(self.noise(), self.points[0].new_ones(()))
        loss, there = self.evaluate(closure, climb.points)
        self.record_first(there if here is None else here[1])
        if self.notes:
            self.note(self.perturbed(there))
        return (loss, there) if here is None else (here[0], mixed(here[1], there, self.weight))

    def renewed(self, noted: vectors.Vector) -> vectors.Vector:
        return [self.beta * f + g * g for f, g in zip(self.kept, noted, strict=True)]
