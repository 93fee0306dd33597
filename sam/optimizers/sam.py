"""SAM with N ascent steps (Foret et al. 2021; Tiwary & Aananth 2024, Eqs. 3-5)."""

from typing import Any

import torch
from torch import Tensor

from sam.core.ascent import Ascent
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.radius import DrawnRadius
from sam.optimizers.settings import check_arguments
from sam.optimizers.verbs import accumulate


def start_ascent(method: Method, closure: Closure, climb: Ascent) -> Tensor:
    """The first pass, at w, and the first ascent step; returns the loss at w."""
    loss, gradient = method.evaluate(closure)
    length = method.record_first(gradient)
    g0 = method.perturbed(gradient)
    climb.climb(g0, norm=length if method.is_whole(g0, gradient) else None)  # where everything is perturbed, the norm is known
    return loss


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
        check_arguments(type(self), steps=steps, rule=rule, descent_gradient=descent_gradient)
        super().__init__(base, rho=rho, **common)
        self.steps, self.rule, self.descent_gradient = steps, rule, descent_gradient

    @classmethod
    def options(cls, config: Any, *, steps_per_epoch: int, total_steps: int, generator: torch.Generator) -> dict[str, Any]:
        own = {"steps": config.ascent_steps, "rule": config.step_rule, "descent_gradient": config.descent_gradient}
        return own | super().options(config, steps_per_epoch=steps_per_epoch, total_steps=total_steps, generator=generator)

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent(self.steps, self.rule)
        loss = start_ascent(self, ascent, climb)
        seen: Gradients | None = None
        for _ in range(self.steps - 1):
            _, gradient = self.evaluate(ascent, climb.points)
            if self.descent_gradient == "mean":
                seen = accumulate(seen, gradient, 1 / self.steps)
            climb.climb(self.perturbed(gradient))
        _, descent = self.evaluate(closure, climb.points)
        return loss, descent if seen is None else accumulate(seen, descent, 1 / self.steps)
