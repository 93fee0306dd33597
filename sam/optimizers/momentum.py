"""Momentum-SAM (Becker et al. 2024, arXiv 2401.12033): perturb against the momentum, at the cost of SGD."""

from torch import Tensor

from sam.config import ConfigError
from sam.optimizers.base import Closure, Gradients, Method


class MomentumSAM(Method):
    """eps = -rho v/||v|| with v the base optimizer's momentum (SGD's buffer, AdamW's first moment); descend with grad L(w + eps): one
    forward and one backward. No perturbation before there is a momentum. The loss that `step` returns is the one at w + eps: this method
    never evaluates at w."""

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(group.get("momentum") or "betas" in group for group in self.base.param_groups):
            raise ConfigError(f"MomentumSAM: perturbs against the momentum, and this {type(self.base).__name__} has none.")

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        states = [self.base.state.get(p, {}) for p in self.parameters]
        momenta = [state.get("momentum_buffer", state.get("exp_avg")) for state in states]
        against: Gradients = [None if v is None else -v for v in momenta]
        climb = self.ascent()
        climb.climb(self.perturbed(against))
        return self.first_pass(closure, climb.points)
