"""The training loss as closures, and what the passes saw, summed on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam.core.device import Autocast
from sam.optimizers.base import Closure


class Objective:
    """Mean cross-entropy of samples at the weights as they are.

    `totals()` reads, once an epoch, the sums over the samples seen: loss and accuracy of the first pass of each step ("as met") and loss
    of the last one ("as met at the perturbed point").
    """

    def __init__(self, model: nn.Module, autocast: Autocast, label_smoothing: float = 0.0) -> None:
        self.model, self.autocast, self.label_smoothing = model, autocast, label_smoothing
        self._open: list[dict[str, Tensor]] = []
        self.reset()

    def reset(self) -> None:
        self._sums: Tensor | None = None
        self._samples = 0

    def closure(self, images: Tensor, labels: Tensor) -> Closure:
        """images: (b, c, h, w) float32; labels: (b,) int64. Losses noted are without label smoothing, whatever is trained."""
        seen: dict[str, Tensor] = {}
        self._open.append(seen)
        self._samples += len(labels)

        def evaluate(backward: bool = True) -> Tensor:
            with self.autocast():
                logits = self.model(images)
                loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            if backward:
                loss.backward()
                with torch.no_grad():
                    plain = loss.detach() if not self.label_smoothing else functional.cross_entropy(logits.detach().float(), labels)
                    seen["last"] = plain.double() * len(labels)
                    if "first" not in seen:
                        seen["first"] = seen["last"]
                        seen["correct"] = (logits.argmax(1) == labels).sum().double()
            return loss

        return evaluate

    def settle(self) -> None:
        """After a step: add what its closures saw."""
        for seen in self._open:
            step = torch.stack([seen["first"], seen["correct"], seen["last"]])
            self._sums = step if self._sums is None else self._sums + step
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
