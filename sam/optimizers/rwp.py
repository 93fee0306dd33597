"""RWP and m-RWP (Li et al. 2022, arXiv 2211.11489), ARWP and m-ARWP (Li et al. 2024, arXiv 2404.00357): noise as large as the filters."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from sam.core import vectors
from sam.core.vectors import Vector
from sam.optimizers.base import Closure, Gradients
from sam.optimizers.memory import Remembering
from sam.optimizers.settings import check_arguments
from sam.optimizers.weighted import mixed


class RWP(Remembering):
    """eps = rho ||w_f|| z / sqrt(1 + eta F_f), z ~ N(0, I) anew each step, f the filter of a weight (of a bias or scale: the whole tensor's
    norm, own F); descend with (1 - a) grad L(w) + a grad L(w + eps). F <- beta F + grad L(w + eps)², summed over the filter; at first 0.

    perturbed_weight:    a; at 1 one forward and backward, at w + eps, whose loss is then the one returned; else two (m-RWP, m-ARWP).
    rwp_eta, rwp_beta:   eta (0: no F, RWP) and beta.
    generator:           the method's own random stream.
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.01, generator: Generator | None = None, **keys: Any) -> None:
        own = {"perturbed_weight": 1.0, "rwp_eta": 0.0, "rwp_beta": 0.99}
        own = {name: keys.pop(name, value) for name, value in own.items()}
        check_arguments(type(self), **own)
        super().__init__(base, rho=rho, **keys)
        self.weight, self.eta, self.beta = own.values()
        self.notes, self.norm_scope = int(self.eta > 0), "global"  # nothing is normalised
        self.generators = [generator or Generator(self.parameters[0].device).manual_seed(0)]

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        return {name: getattr(config, name) for name in ("perturbed_weight", "rwp_eta", "rwp_beta")} | {"generator": run["generator"]}

    def noise(self) -> Vector:
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
        if here is not None:
            self.record_first(here[1])
        climb.climb(self.noise(), self.points[0].new_ones(()))
        loss, there = self.evaluate(closure, climb.points)
        if self.notes:
            self.note(self.perturbed(there))
        if here is not None:
            return here[0], mixed(here[1], there, self.weight)
        self.record_first(there)
        return loss, there

    def renewed(self, noted: Vector) -> Vector:
        return [self.beta * f + g * g for f, g in zip(self.kept, noted, strict=True)]
