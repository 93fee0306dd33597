"""ASAM (Kwon et al. 2021, arXiv 2102.11600, Eq. 6): SAM in units of the weights, which rescaling them does not change."""

from torch import Tensor

from sam.core import vectors
from sam.optimizers.base import Closure, Gradients, Method


class ASAM(Method):
    """eps = rho T² g / ||T g|| with T = diag(|w| + eta), so that ||T⁻¹ eps|| = rho; descend with grad L(w + eps).

    asam_eta:     eta.
    asam_biases:  whether T is |w| + eta for parameters whose name has no "weight" in it, too; else it is 1 for them, as in the authors'
                  code. Without `passes`, whose model names them, all parameters are scaled.
    """

    rho: float = 0.5
    asam_eta: float = 0.01
    asam_biases: bool = False

    def scales(self) -> list[Tensor | None]:
        """T of each perturbed parameter; None for 1."""
        named = None if self.asam_biases or self.passes is None else self.passes.model.named_parameters()
        plain = set() if named is None else {id(p) for name, p in named if "weight" not in name}
        chosen = [p for p, moved in zip(self.parameters, self._members.chosen, strict=True) if moved]
        return [None if id(p) in plain else w.abs() + self.asam_eta for p, w in zip(chosen, self.points, strict=True)]

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        climb, scales = self.ascent(), self.scales()
        loss, gradient = self.first_pass(ascent)
        scaled = [g if t is None else g * t for g, t in zip(self.perturbed(gradient), scales, strict=True)]
        length = vectors.norm(scaled)
        climb.climb([g if t is None else g * t for g, t in zip(scaled, scales, strict=True)], length)
        _, descent = self.evaluate(closure, climb.points)
        return loss, descent
