"""SGD, SAM with N ascent steps (Foret et al. 2021; Tiwary & Aananth 2024, Eqs. 3-5) and Rand-SAM (section 4.2 there)."""

import torch
from torch import Tensor

from sam.core import vectors
from sam.core.ascent import Ascent
from sam.optimizers.base import Closure, Gradients, Method
from sam.optimizers.verbs import accumulate


class SGD(Method):
    """The base optimizer under the common contract; `rho` has no effect."""

    moves = False

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        return self.first_pass(closure)


def start_ascent(method: Method, closure: Closure, climb: Ascent) -> Tensor:
    """The first pass, at w, and the first ascent step; returns the loss at w."""
    loss, gradient = method.evaluate(closure)
    length = method.record_first(gradient)
    g0 = method.perturbed(gradient)
    climb.climb(g0, norm=length if g0 is gradient else None)  # where everything is perturbed, the norm is known
    return loss


class DrawnRadius(Method):
    """A method whose ascents have length rho (`fixed`) or, in each step, length r ~ U[0, rho] (`uniform`).

    A step has one r / rho, for all its ascents, groups of samples, parameter groups and replicas; `eps_over_rho` stays relative to rho.
    """

    rho: float = 0.05
    radius: str = "fixed"

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.radius == "uniform"

    def begin(self) -> None:
        if self.radius == "uniform":
            (generator,) = self.generators
            self.shrink = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)


class SAM(DrawnRadius):
    """w^n = w^{n-1} + (rho/N) grad L(w^{n-1}) / ||grad L(w^{n-1})||, n = 1..N; descend with grad L(w^N), applied at w.

    steps:             N; N + 1 forwards and backwards a step.
    rule:              split (above), project, accumulate, boundary: `sam.core.ascent.Ascent`.
    descent_gradient:  last: grad L(w^N); mean: the average of grad L(w^1) .. grad L(w^N), without the one at w.
    """

    steps: int = 1
    rule: str = "split"
    descent_gradient: str = "last"

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


class RandSAM(DrawnRadius):
    """eps = r z/||z|| with z ~ N(0, I), drawn anew each step, and r = rho (or as `radius` says); descend with grad L(w + eps): one forward
    and one backward. The loss that `step` returns is the one at w + eps: this method never evaluates at w."""

    draws_points = True

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb = self.ascent()
        climb.climb(vectors.normal_like(self.points, self.generators[0]))
        return self.first_pass(closure, climb.points)
