"""Late-phase SAM (Zhou et al. 2024, arXiv 2410.10373): the base optimizer first, SAM at the end of training."""

from collections.abc import Hashable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam.optimizers.base import Closure, Gradients
from sam.optimizers.sam import SAM


class LateSAM(SAM):
    """The base optimizer's own steps, then SAM's, with all that SAM reads. `first`: the number of steps before SAM's first one."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, first: int = 0, **common: Any) -> None:
        super().__init__(base, rho=rho, **common)
        self.first = first

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        return {"first": config.first_step(run["total_steps"])} | super().options(config, **run)

    @property
    def phase(self) -> Hashable:  # type: ignore[override]
        return self.steps_taken >= self.first

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        if self.phase:
            return super().run_passes(closure, ascent)
        loss, gradient = self.evaluate(closure)
        self.record_first(gradient)
        return loss, gradient

    def method_state(self) -> dict[str, Any]:
        return {"steps_taken": self.steps_taken} | super().method_state()

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.steps_taken = state["steps_taken"]
        super().load_method_state(state)
