"""Methods whose radius may be drawn anew each step."""

from typing import Any

import torch

from sam.optimizers.base import Method
from sam.optimizers.settings import check_arguments


class DrawnRadius(Method):
    """A method whose ascents have length rho (`fixed`) or, in each step, length r ~ U[0, rho] (`uniform`).

    A step has one r / rho, for all its ascents, groups of samples, parameter groups and replicas; `eps_over_rho` stays relative to rho.
    generator: the method's own random stream, kept (and saved) only where the method draws from it.
    """

    draws_directions = False  # whether the method draws more than its radius

    def __init__(
        self, base: torch.optim.Optimizer, *, radius: str = "fixed", generator: torch.Generator | None = None, **common: Any
    ) -> None:
        check_arguments(type(self), radius=radius)
        super().__init__(base, **common)
        self.radius = radius
        self.generator: torch.Generator | None = None
        if self.draws_directions or radius == "uniform":
            self.generator = generator or torch.Generator(self.parameters[0].device).manual_seed(0)

    @property
    def generators(self) -> list[torch.Generator]:
        return [] if self.generator is None else [self.generator]

    @classmethod
    def options(cls, config: Any, *, steps_per_epoch: int, total_steps: int, generator: torch.Generator) -> dict[str, Any]:
        return {"radius": config.radius, "generator": generator}

    def begin(self) -> None:
        if self.radius == "uniform":
            (generator,) = self.generators
            self.shrink = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)

    def method_state(self) -> dict[str, Any]:
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())  # checkpoints are read onto the model's device
