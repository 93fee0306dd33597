"""Late-phase SAM (Zhou et al. 2024, arXiv 2410.10373): the base optimizer first, SAM at the end of training, or in any part of it."""

import math
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from sam.optimizers.base import Closure, Gradients
from sam.optimizers.sam import SAM


class LateSAM(SAM):
    """The base optimizer's own steps, but SAM's, with all that SAM reads, from step `first` (counted from 0) to before step `end`."""

    own = SAM.own  # the phase comes from `options`
    remembered = ("steps_taken",)
    first: int
    end: float = math.inf

    @classmethod
    def options(cls, config: Any, **run: Any) -> dict[str, Any]:
        first, end = config.phase(run["total_steps"])
        return {"first": first, "end": end} | super().options(config, **run)

    @property
    def phase(self) -> Hashable:  # type: ignore[override]
        return self.first <= self.steps_taken < self.end

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        return super().run_passes(closure, ascent) if self.phase else self.first_pass(closure)
