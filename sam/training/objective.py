"""The training loss as closures, and running sums of the losses seen by the passes, on the device."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sam.core.criteria import CRITERIA
from sam.core.device import Autocast, LossScale
from sam.core.replicas import ALONE, Replicas
from sam.optimizers.base import Closure


@dataclass(eq=False, repr=False)
class Objective:
    """Mean loss of samples at the current weights. `totals()` reads, once an epoch, the sums over the samples seen: loss and
    accuracy of the first pass of each step (at w), and loss of the last one (at the perturbed point).

    scaling:      back-propagate the scaled loss.
    micro_batch:  samples of one forward; a closure over more accumulates their gradients.
    group_size:   samples of a group (m), each with a closure; groups: their number in a full batch.
    noted:        values seen by the closures since the last `settle`: (tensors on the device, number of samples) each.
    """

    model: nn.Module
    autocast: Autocast
    label_smoothing: float = 0.0
    scaling: LossScale | None = None
    _: KW_ONLY
    loss: str = "cross_entropy"
    micro_batch: int | None = None
    group_size: int | None = None
    groups: int = 1
    replicas: Replicas = ALONE
    noted: list[tuple[dict[str, Tensor], int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.criterion = CRITERIA[self.loss]
        self.reset()

    def reset(self) -> None:
        self._sums: Tensor | None = None
        self._samples: int | Tensor = 0

    def closures(self, images: Tensor, labels: Tensor) -> tuple[list[Closure | None], list[float]]:
        """The closures of a step and their weights n_i/n: one for each group of samples, None where another replica looks at it."""
        replicas = self.replicas
        if self.group_size is None and replicas.size > 1:
            x, y = (t.tensor_split(replicas.size)[replicas.rank] for t in (images, labels))
            return [self.closure(x, y, share=len(y) / len(labels))], [1.0]
        size = self.group_size or len(labels)
        each = self.groups // replicas.size
        groups = list(zip(images.split(size), labels.split(size), strict=True))
        closures = [self.closure(x, y) if i // each == replicas.rank else None for i, (x, y) in enumerate(groups)]
        return closures, [len(y) / len(labels) for _, y in groups]

    def closure(self, images: Tensor, labels: Tensor, share: float | None = None) -> Closure:
        """Closure over these samples. images: (b, c, h, w) float32; labels: (b,) int64. Recorded losses: without label smoothing. share: of
        a batch, where these are a replica's samples of it: loss and gradient are the batch's, and all replicas must call as often."""
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
        """Add a step's sums to the epoch's, unless `bad` (0-d bool)."""
        for seen, samples in self.noted:
            step = torch.stack([seen["first"], seen["correct"], seen["last"]])
            if bad is not None:
                step = torch.where(bad, 0.0, step)
            self._sums = step if self._sums is None else self._sums + step
            self._samples = self._samples + (samples if bad is None else torch.where(bad, 0, samples))
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
