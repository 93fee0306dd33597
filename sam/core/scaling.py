"""Loss scaling for float16 passes: multiply the loss before backward, so that small gradients do not vanish."""

from typing import Any

import torch
from torch import Tensor

START, HIGHEST, LOWEST = 2.0**16, 2.0**24, 2.0**-14
GROWTH_INTERVAL = 2000  # steps without an overflow before the scale doubles


class LossScale:
    """A dynamic scale: halved by a step that is not finite, doubled after `interval` steps in a row that are.

    Always a power of two, so that multiplying and dividing by it rounds nothing. `value` (float64) and `streak` (int64) are 0-d tensors on
    the device and change in place: no host sync. A closure back-propagates `value` times the loss and returns the loss itself.
    """

    def __init__(self, device: torch.device | str, start: float = START, interval: int = GROWTH_INTERVAL) -> None:
        self.value = torch.full((), start, dtype=torch.float64, device=device)  # times lambda it must not round
        self.streak = torch.zeros((), dtype=torch.int64, device=device)
        self.interval = interval

    def update(self, bad: Tensor) -> None:
        """Adjust the scale after a step; bad: 0-d bool, true if anything in the step was not finite."""
        streak = torch.where(bad, 0, self.streak + 1)
        grown = streak >= self.interval
        factor = torch.where(bad, 0.5, torch.where(grown, 2.0, 1.0))
        self.value.copy_((self.value * factor).clamp(LOWEST, HIGHEST))
        self.streak.copy_(torch.where(grown, 0, streak))

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.item(), "streak": int(self.streak)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value.fill_(state["value"])
        self.streak.fill_(state["streak"])
