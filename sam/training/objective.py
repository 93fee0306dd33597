"""The training loss as closures, with the losses and right answers of the passes summed on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam.core.criteria import CRITERIA
from sam.core.device import Autocast
from sam.core.replicas import ALONE, Replicas
from sam.core.scaling import LossScale
from sam.optimizers.base import Closure


class Objective:
    """Mean loss of samples at the current weights.

    `totals()` returns, once an epoch, the means over the samples seen: loss and accuracy in the first pass of each step, and the loss in
    the last pass (at the perturbed point).

    scaling:      back-propagate the scaled loss; steps that overflowed are then left out of the sums.
    loss:         a name of `sam.core.criteria`.
    micro_batch:  samples of one forward; a closure over more accumulates their gradients.
    replicas:     whose samples `totals()` covers.
    noted:        for each closure made since the last `settle`: (its sums on the device, number of samples).
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: Autocast,
        label_smoothing: float = 0.0,
        scaling: LossScale | None = None,
        *,
        loss: str = "cross_entropy",
        micro_batch: int | None = None,
        replicas: Replicas = ALONE,
    ) -> None:
        self.model, self.autocast, self.label_smoothing, self.scaling = model, autocast, label_smoothing, scaling
        self.criterion, self.micro_batch, self.replicas = CRITERIA[loss], micro_batch, replicas
        self.noted: list[tuple[dict[str, Tensor], int]] = []
        self.reset()

    def reset(self) -> None:
        self._sums: Tensor | None = None
        self._samples: int | Tensor = 0

    def closure(self, images: Tensor, labels: Tensor, share: float | None = None) -> Closure:
        """Return the closure of these samples. images: (b, c, h, w) float32; labels: (b,) int64. Summed losses are without label smoothing.

        share: the samples' part of a batch that replicas share; loss and gradient are then those of the whole batch, and all replicas
        must call their closures equally often. None: the samples are the whole.
        """
        seen: dict[str, Tensor] = {}
        self.noted.append((seen, len(labels)))
        size = min(self.micro_batch or len(labels), len(labels))
        pieces = list(zip(images.split(size), labels.split(size), strict=True))

        def evaluate(backward: bool = True) -> Tensor:
            losses: list[Tensor] = []
            last: list[Tensor] = []
            right: list[Tensor] = []
            for x, y in pieces:
                with self.autocast():
                    logits = self.model(x)
                    loss = self.criterion(logits, y, label_smoothing=self.label_smoothing, reduction="mean")
                part = len(y) / len(labels) * (share or 1.0)
                weighted = loss if part == 1.0 else loss * part
                losses.append(weighted.detach())
                if backward:
                    (weighted if self.scaling is None else weighted * self.scaling.value).backward()
                    with torch.no_grad():
                        plain = loss.detach() if not self.label_smoothing else self.criterion(logits.detach().float(), y, reduction="mean")
                        last.append(plain.double() * len(y))
                        if "first" not in seen:
                            right.append((logits.argmax(1) == y).sum().double())
            if backward:
                seen["last"] = _sum(last)
                if "first" not in seen:
                    seen["first"], seen["correct"] = seen["last"], _sum(right)
            return _sum(losses) if share is None else self._of_all_replicas(_sum(losses), backward)

        return evaluate

    def _of_all_replicas(self, loss: Tensor, backward: bool) -> Tensor:
        """Sum the replicas' shares of the loss and, after a backward pass, of every gradient."""
        loss = loss.clone()
        if not backward:
            self.replicas.sum_([loss])
            return loss
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        summed = self.replicas.sum_gradients([p.grad for p in parameters], parameters, loss)
        for p, g in zip(parameters, summed, strict=True):
            p.grad = g
        return loss

    def settle(self, bad: Tensor | None = None) -> None:
        """Add a step's sums to the epoch's. bad: 0-d bool, true if the step was skipped; used with loss scaling only."""
        drop = bad if self.scaling is not None else None
        for seen, samples in self.noted:
            step = torch.stack([seen["first"], seen["correct"], seen["last"]])
            if drop is not None:
                step = torch.where(drop, 0.0, step)
            self._sums = step if self._sums is None else self._sums + step
            self._samples = self._samples + (samples if drop is None else torch.where(drop, 0, samples))
        self.noted.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums = state["sums"]
        self._sums = None if sums is None else sums.to(next(self.model.parameters()).device)
        self._samples = state["samples"]

    def totals(self) -> dict[str, float]:
        """Return train_loss, train_accuracy (percent) and perturbed_loss: means over the samples since `reset`. Waits for the device."""
        assert self._sums is not None
        sums, (samples,) = self._sums.clone(), self.replicas.sum_numbers([float(self._samples)])
        self.replicas.sum_([sums])
        first, correct, last = (sums / samples).tolist()
        return {"train_loss": first, "train_accuracy": 100 * correct, "perturbed_loss": last}


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
