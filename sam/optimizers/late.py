"""Late-phase SAM (Zhou et al. 2024, arXiv 2410.10373): the base optimizer first, SAM at the end of training, or in any part of it."""

import math
from collections.abc import Hashable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam.optimizers.base import Closure, Gradients
from sam.optimizers.sam import SAM


class LateSAM(SAM):
    """The base optimizer's own steps, but SAM's, with all that SAM reads, from step `first` (counted from 0) to before step `end`."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, first: int = 0, end: float = math.inf, **common: Any) -> None:
        super().__init__(base, rho=rho, **common)
        self.first, self.end = first, end

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        first, end = config.phase(run["total_steps"])
        return {"first": first, "end": end} | super().options(config, **run)

    @property
    def phase(self) -> Hashable:  # type: ignore[override]
        return self.first <= self.steps_taken < self.end

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
