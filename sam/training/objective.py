"""The training loss as closures, and what the passes saw, summed on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sam.core.device import Autocast
from sam.core.scaling import LossScale
from sam.optimizers.base import Closure


class Objective:
    """Mean cross-entropy of samples at the weights as they are.

    `totals()` reads, once an epoch, the sums over the samples seen: loss and accuracy of the first pass of each step ("as met") and loss
    of the last one ("as met at the perturbed point").

    scaling: back-propagate the scaled loss; steps that overflowed, which belong to finding the scale, are then left out of the sums.
    """

    def __init__(
        self, model: Callable[[Tensor], Tensor], autocast: Autocast, label_smoothing: float = 0.0, scaling: LossScale | None = None
    ) -> None:
        self.model, self.autocast, self.label_smoothing, self.scaling = model, autocast, label_smoothing, scaling
        self._open: list[tuple[dict[str, Tensor], int]] = []
        self.reset()

    def reset(self) -> None:
        self._sums: Tensor | None = None
        self._samples: int | Tensor = 0

    def closure(self, images: Tensor, labels: Tensor) -> Closure:
        """images: (b, c, h, w) float32; labels: (b,) int64. Losses noted are without label smoothing, whatever is trained."""
        seen: dict[str, Tensor] = {}
        self._open.append((seen, len(labels)))

        def evaluate(backward: bool = True) -> Tensor:
            with self.autocast():
                logits = self.model(images)
                loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            if backward:
                (loss if self.scaling is None else loss * self.scaling.value).backward()
                with torch.no_grad():
                    plain = loss.detach() if not self.label_smoothing else functional.cross_entropy(logits.detach().float(), labels)
                    seen["last"] = plain.double() * len(labels)
                    if "first" not in seen:
                        seen["first"] = seen["last"]
                        seen["correct"] = (logits.argmax(1) == labels).sum().double()
            return loss

        return evaluate

    def settle(self, bad: Tensor | None = None) -> None:
        """After a step: add what its closures saw. bad: 0-d bool, whether the step was skipped; used with loss scaling only."""
        drop = bad if self.scaling is not None else None
        for seen, samples in self._open:
            step = torch.stack([seen["first"], seen["correct"], seen["last"]])
            if drop is not None:
                step = torch.where(drop, 0.0, step)
            self._sums = step if self._sums is None else self._sums + step
            self._samples = self._samples + (samples if drop is None else torch.where(drop, 0, samples))
        self._open.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._samples = state["sums"], state["samples"]

    def totals(self) -> dict[str, float]:
        """train_loss, train_accuracy (percent), perturbed_loss: means over the samples since `reset`. Waits for the device."""
        assert self._sums is not None
        first, correct, last = (self._sums / self._samples).tolist()
        return {"train_loss": first, "train_accuracy": 100 * correct, "perturbed_loss": last}
