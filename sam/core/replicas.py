"""Exchange sums, objects and BatchNorm statistics between the processes that share each batch, one device each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sam.core import vectors


class ReplicaError(ValueError):
    """A process of the run is gone or does not answer; the message is one sentence for the user."""


@contextmanager
def _exchanging() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:150]
        raise ReplicaError(f"another process of this run is gone, or did not answer; its own messages say why ({reason}).") from error


class Replicas:
    """This process, number `rank` of `size`, and its peers in torch's process group (CPU tensors through gloo, CUDA tensors through NCCL).
    All must call a method at the same point; sums are bitwise equal on all. ReplicaError if a peer is gone."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._rooms: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor (all on one device) by its sum over the processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        place = (sum(t.numel() for t in tensors), reduce(torch.promote_types, [t.dtype for t in tensors]), tensors[0].device)
        room = self._rooms.get(place)
        if room is None:
            room = self._rooms[place] = torch.empty(place[0], dtype=place[1], device=place[2])
        views = vectors.shaped(room, tensors)
        torch._foreach_copy_(views, list(tensors))
        with _exchanging():
            dist.all_reduce(room)
        torch._foreach_copy_(list(tensors), views)

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sum a few host numbers over the processes, without waiting for the device."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        with _exchanging():
            dist.all_reduce(values)
        return values.tolist()

    def sum_gradients(self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], *others: Tensor) -> list[Tensor | None]:
        """Sum gradients over the processes, and `others` in place. A parameter that no process used keeps None."""
        users = self.sum_numbers([g is not None for g in gradients])
        summed = [
            None if not n else torch.zeros_like(p, memory_format=torch.preserve_format) if g is None else g
            for g, p, n in zip(gradients, parameters, users, strict=True)
        ]
        self.sum_([*(g for g in summed if g is not None), *others])
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in rank order; tensors must lie on the CPU."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            with _exchanging():
                dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any = None) -> Any:
        """Broadcast rank 0's value to all processes; tensors must lie on the CPU."""
        values = [value if self.rank == 0 else None]
        if self.size > 1:
            with _exchanging():
                dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Wait until every process has called this (a barrier)."""
        self.sum_numbers([0.0])


ALONE = Replicas()


def join_statistics(model: nn.Module, buffers: list[Tensor], begin: list[Tensor], replicas: Replicas) -> None:
    """Chain the replicas' updates of BatchNorm's running statistics, which all started at `begin`, without waiting for the device. n
    forwards turn r into (1 - momentum)^n r + c, so each replica needs only the c and n of the others. SyncBatchNorm is left out: its
    statistics agree already. `buffers`, `begin`: as `running_buffers` lists them."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    layers = [layer for layer in layers if not isinstance(layer, nn.SyncBatchNorm)]
    if not layers:
        return
    if any(layer.momentum is None for layer in layers):
        raise ValueError("BatchNorm with momentum=None (a plain average over all batches) cannot be trained on several replicas.")
    before = {id(now): then for now, then in zip(buffers, begin, strict=True)}
    moments = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    counters = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
    old = torch.cat([before[id(b)] for b in moments]).double()
    momenta, features = tuple(float(layer.momentum or 0.0) for layer in layers), tuple(layer.num_features for layer in layers)
    kept, lengths = _layout(momenta, features, old.device)
    keeping = lambda n: (kept**n).repeat_interleave(lengths, output_size=len(old))
    counts = (torch.stack(counters) - torch.stack([before[id(b)] for b in counters])).double()
    every = torch.zeros(replicas.size, len(counts) + len(old), dtype=torch.float64, device=old.device)
    every[replicas.rank] = torch.cat([counts, torch.cat(moments).double() - keeping(counts) * old])
    replicas.sum_([every])
    joined = old
    for row in every:
        n, c = row.split([len(counts), len(old)])
        joined = keeping(n) * joined + c
    vectors.copy_(moments, list(joined.to(moments[0].dtype).split([len(b) for b in moments])))
    for counter, n in zip(counters, every[:, : len(counts)].sum(0).long(), strict=True):
        counter.copy_(before[id(counter)] + n)


@lru_cache(maxsize=8)
def _layout(momenta: tuple[float, ...], features: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Per BatchNorm layer: 1 - momentum, and its number of statistics; cached on the device."""
    kept = torch.tensor([1 - momentum for momentum in momenta], dtype=torch.float64, device=device)
    return kept, torch.tensor([2 * n for n in features], device=device)
