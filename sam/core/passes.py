"""Keep BatchNorm's running statistics and dropout's masks consistent over the passes of one step."""

import operator
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sam.core import seeds, vectors
from sam.core.replicas import ALONE, Replicas, join_statistics

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_STOCHASTIC_NAMES = ("DropPath", "StochasticDepth", "DropBlock2d", "RReLU")


def norm_parameters(model: nn.Module) -> set[int]:
    """Return the id of every parameter of a normalisation layer: torch's, or one called so (timm's RmsNorm, EvoNorm2d)."""
    own = lambda m: isinstance(m, NORM_LAYERS) or re.search("(?<!GlobalResponse)Norm(?!Free)", type(m).__name__)  # NormFreeBlock is none
    return {id(p) for m in model.modules() if own(m) for p in m.parameters(recurse=False)}


def running_buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    """List the running statistics and counters of every normalisation layer, in eval mode too: a closure may switch the mode."""
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    return [b for m in norms for b in (m.running_mean, m.running_var, m.num_batches_tracked) if b is not None]


def are_stochastic(modules: Iterable[nn.Module]) -> bool:
    """True if a forward pass in the current mode draws random numbers (dropout, stochastic depth)."""
    # A share beside nn.Dropout's: the `dropout` of attention and RNNs, timm's `drop_rate`, torchvision's `attention_dropout`, ...
    shares = lambda m: [m.p if isinstance(m, nn.modules.dropout._DropoutNd) else 0, *(v for k, v in vars(m).items() if "drop" in k)]
    draws = lambda m: type(m).__name__ in _STOCHASTIC_NAMES or any(type(share) in (int, float) and share > 0 for share in shares(m))
    return any(m.training and draws(m) for m in modules)


def _copy_groups(target: list[Tensor], source: list[Tensor]) -> None:
    for dtype in {t.dtype for t in target}:  # foreach wants one dtype a call
        pairs = [(t, s) for t, s in zip(target, source, strict=True) if t.dtype == dtype]
        vectors.copy_([t for t, _ in pairs], [s for _, s in pairs])


class Passes:
    """Keep the passes of one step consistent.

    - Only the first pass of a step (the one at w; Rand-SAM's only one) updates BatchNorm's running statistics: the buffers are saved after
      it and restored at the end. No layer is switched off, so a captured graph sees one model.
    - All passes of a step use one dropout mask; afterwards the random state is what one pass would have left.
    - If anything raises, the buffers are restored to the start of the step; `undo_if` does so after a step that loss scaling skips.
    - With several replicas, the running statistics end as if one process had run all forwards, in the order of the replicas.
    """

    def __init__(self, model: nn.Module, replicas: Replicas = ALONE) -> None:
        self.model, self.replicas = model, replicas
        self._inside = False
        self._count = 0
        self._modules: list[nn.Module] = []  # listed once a step
        self._buffers: list[Tensor] = []
        self._begin: list[Tensor] = []  # as the step found them
        self._after: list[Tensor] = []  # as the first pass of the group left them
        self._random: tuple[list[Tensor], list[Tensor]] | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context around all passes of one step."""
        if self._inside:
            raise RuntimeError("Passes: this step is inside another one; give each optimizer a Passes(model) of its own.")
        self._modules = list(self.model.modules())
        buffers = running_buffers(self._modules)
        if len(buffers) != len(self._buffers) or any(map(operator.is_not, buffers, self._buffers)):
            self._buffers, self._begin, self._after = buffers, vectors.empty_like(buffers), vectors.empty_like(buffers)
        _copy_groups(self._begin, self._buffers)
        self._inside = True
        try:
            yield
            if self.replicas.size > 1:
                join_statistics(self.model, self._buffers, self._begin, self.replicas)
        except BaseException:
            _copy_groups(self._buffers, self._begin)
            raise
        finally:
            self._inside = False

    @contextmanager
    def group(self) -> Iterator[None]:
        """Context around all passes on one group of samples, inside `step`."""
        self._count = 0
        self._random = None
        yield
        if self._count > 1:
            _copy_groups(self._buffers, self._after)
            if self._random is not None:
                seeds.restore(self._random[1], self._devices())

    def undo_if(self, bad: Tensor) -> None:
        """Restore the running statistics to the start of the step where `bad` (0-d bool on their device) is true. No host sync."""
        for dtype in {b.dtype for b in self._buffers}:
            now, found = ([b for b in side if b.dtype == dtype] for side in (self._buffers, self._begin))
            flat = [torch.cat([b.reshape(-1) for b in side]) for side in (found, now)]
            vectors.copy_(now, vectors.shaped(torch.where(bad, flat[0], flat[1]), now))

    def before(self) -> None:
        """Call before every forward pass of the step."""
        if self._count == 0 and are_stochastic(self._modules):
            state = seeds.states(self._devices())
            self._random = (state, state)
        elif self._count == 1:
            _copy_groups(self._after, self._buffers)
            if self._random is not None:
                self._random = (self._random[0], seeds.states(self._devices()))
        if self._count and self._random is not None:
            seeds.restore(self._random[0], self._devices())
        self._count += 1

    def _devices(self) -> list[torch.device]:
        return sorted({p.device for p in self.model.parameters() if p.is_cuda}, key=str)
