"""SAM with N ascent steps (Foret et al. 2021; Tiwary & Aananth 2024, Eqs. 3-5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam.config import OptimizerConfig
from sam.core.ascent import Ascent
from sam.core.vectors import Vector
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.radius import DrawnRadius


def start_ascent(method: Method, closure: Closure, climb: Ascent) -> tuple[Tensor, Vector]:
    """The first pass, at w, and the first ascent step: (loss at w, a copy of the perturbed part of g_0 where diagnostics want it)."""
    loss, gradient = method.evaluate(closure)
    length = method.record_first(gradient)
    g0 = method.perturbed(gradient)
    kept = [g.clone() for g in g0] if method.diagnose else []
    climb.climb(g0, norm=length if method.is_whole(g0, gradient) else None)  # where everything is perturbed, the norm is known
    return loss, kept


def record_ascent(method: Method, climb: Ascent, gradient: Vector) -> None:
    """||eps|| / rho and cos(gradient, eps) of a finished ascent, over the perturbed parameters."""
    if method.diagnose:
        method.record("eps_over_rho", climb.relative_length())
        method.record("cos_g_eps", climb.cosine(gradient))


class SAM(DrawnRadius):
    """w^n = w^{n-1} + (rho/N) grad L(w^{n-1}) / ||grad L(w^{n-1})||, n = 1..N; descend with grad L(w^N), applied at w.

    steps:             N; N + 1 forwards and backwards a step.
    rule:              split (above), project, accumulate, boundary: `sam.core.ascent.Ascent`.
    radius:            fixed: rho above; uniform: in each step an r ~ U[0, rho] in its place (`DrawnRadius`).
    descent_gradient:  last: grad L(w^N); mean: the average of grad L(w^1) .. grad L(w^N), without the one at w.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        rho: float = 0.05,
        steps: int = 1,
        rule: str = "split",
        descent_gradient: str = "last",
        **common: Any,
    ) -> None:
        self._check(steps=steps, rule=rule, descent_gradient=descent_gradient)
        super().__init__(base, rho=rho, **common)
        self.steps, self.rule, self.descent_gradient = steps, rule, descent_gradient

    @classmethod
    def options(cls, config: OptimizerConfig, *, steps_per_epoch: int, generator: torch.Generator) -> dict[str, Any]:
        own = {"steps": config.ascent_steps, "rule": config.step_rule, "descent_gradient": config.descent_gradient}
        return own | super().options(config, steps_per_epoch=steps_per_epoch, generator=generator)

    def look(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent(self.steps, self.rule)
        loss, g0 = start_ascent(self, ascent, climb)
        seen: Gradients | None = None
        for _ in range(self.steps - 1):
            _, gradient = self.evaluate(ascent, climb.points)
            if self.descent_gradient == "mean":
                seen = self._accumulate(seen, gradient, 1 / self.steps, alone=False)
            climb.climb(self.perturbed(gradient))
        record_ascent(self, climb, g0)
        _, descent = self.evaluate(closure, climb.points)
        return loss, descent if seen is None else self._accumulate(seen, descent, 1 / self.steps, alone=False)
