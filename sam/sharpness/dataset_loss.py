"""The mean loss over a whole data set as a function of the weights. No other code of a measurement touches data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam.config import ConfigError
from sam.core import vectors
from sam.core.criteria import Criterion, cross_entropy
from sam.core.device import number_format
from sam.core.vectors import Vector

Statistics = list[tuple[Tensor, Tensor]]  # of each BatchNorm layer: running mean and variance


@dataclass(frozen=True)
class Value:
    """Mean loss, accuracy in percent (NaN where outputs are not class scores), and samples."""

    loss: float
    accuracy: float
    samples: int


_Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]  # of a module, by name: the tensor, and what it held
_held: dict[nn.Module, _Buffers] = {}  # while a model is measured: what its forwards must find


@torch.no_grad()
def _put_back(buffers: _Buffers) -> None:
    for module, name, tensor, value in buffers:
        tensor.copy_(value)
        module._buffers[name] = tensor  # a forward may have put another one there


@dataclass(eq=False, repr=False)
class DatasetLoss:
    """L(w) = mean loss of `model` over (inputs, labels), streamed in batches in the order given; a ragged last batch counts by its size.

    inputs, labels:  (n, ...) and (n,), on the model's device; `prepare` turns a batch of inputs into what the model takes.
    criterion:       (outputs, labels) -> losses (b,); no label smoothing, no weight decay.
    batch_size:      in eval mode it changes memory and rounding only; in train mode it is part of the definition.
    batchnorm:       eval (running statistics) | train (each batch's own). Dropout is off in both.
    statistics:      running statistics to use in eval mode in place of the model's own (see `averaged`).
    progress:        called after each batch; a sample counts 1 for a forward, 3 with a backward, 3 + 4k for k Hessian-vector products.

    Losses are accumulated in float64, gradients in the parameters' own format. Use inside `measuring()`.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    _: KW_ONLY
    prepare: Callable[[Tensor], Tensor] = lambda x: x
    criterion: Criterion = cross_entropy
    batch_size: int = 500
    batchnorm: str = "eval"
    statistics: Statistics | None = None
    progress: Callable[[float], None] = lambda units: None

    def __post_init__(self) -> None:
        n, labels = len(self.inputs), len(self.labels)
        if n == 0 or n != labels:
            raise ValueError(f"DatasetLoss: {n} inputs and {labels} labels; both must be equally many, and at least one.")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    @property
    def points(self) -> Vector:
        """The weights themselves (detached views): moving them moves the model."""
        return [p.detach() for p in self.parameters]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.inputs.split(self.batch_size), self.labels.split(self.batch_size), strict=True)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Switch TF32, autocast and dropout off and BatchNorm into its mode; restore weights, buffers and modes bitwise afterwards, buffers
        before every forward too. Gradients (`.grad`) and random state are not touched."""
        modes = [(module, module.training) for module in self.model.modules()]
        attributes = [(module, {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}) for module, _ in modes]  # spectral norm's
        kept = [(p, p.clone()) for p in self.points]
        buffers = [(module, name, b, b.clone()) for module, _ in modes for name, b in module._buffers.items() if b is not None]
        inside = self.model in _held
        _held.setdefault(self.model, [b for b in buffers if not isinstance(b[0], nn.modules.batchnorm._NormBase)])
        self.model.eval()
        for module, _ in modes:
            if self.batchnorm == "train" and isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
        try:
            if self.statistics is not None:
                install(self.model, self.statistics)
            with number_format("fp32"), torch.autocast(self.labels.device.type, enabled=False):
                yield
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    tensor.copy_(value)
            _put_back(buffers)
            if not inside:
                del _held[self.model]
            for module, mode in modes:
                module.training = mode
            for module, tensors in attributes:
                vars(module).update(tensors)

    def batch_outputs(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs for one batch, with its buffers restored first."""
        _put_back(_held.get(self.model, []))
        return self.model(self.prepare(inputs))  # type: ignore[no-any-return]

    def _losses(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (losses (b,), outputs) of one batch."""
        with refused_alone(len(labels)):
            outputs = self.batch_outputs(inputs)
        return self.criterion(outputs, labels), outputs

    def _forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sum of losses, detached float64 sums [loss, right answers]) of one batch."""
        losses, outputs = self._losses(inputs, labels)
        right = (outputs.argmax(1) == labels).sum() if outputs.ndim == 2 else torch.tensor(float("nan"), device=outputs.device)
        return losses.sum(), torch.stack([losses.detach().double().sum(), right.double()])

    def _value(self, sums: Tensor, samples: int) -> Value:
        loss, right = (sums / samples).tolist()
        return Value(loss, 100 * right, samples)

    @torch.no_grad()
    def _each(self, of: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Apply `of` to every batch in order: one forward over the set."""
        found = []
        for inputs, labels in self.batches():
            found.append(of(inputs, labels))
            self.progress(len(labels))
        return found

    def value(self) -> Value:
        """Return L at the current weights: one forward over the set."""
        return self._value(reduce(torch.add, self._each(lambda *batch: self._forward(*batch)[1])), len(self.labels))

    def sample_losses(self) -> Tensor:
        """Return the loss of every sample at the current weights, (n,) in the order of the data: one forward over the set."""
        return torch.cat(self._each(lambda *batch: self._losses(*batch)[0]))

    def outputs(self) -> Tensor:
        """Return the model's outputs for every sample, (n, ...): one forward over the set, and that much memory."""
        return torch.cat(self._each(lambda inputs, _: self.batch_outputs(inputs)))

    def value_and_gradient(self) -> tuple[Value, Vector]:
        """Return L and its gradient at the current weights: one forward and backward over the set."""
        total = torch.zeros(2, dtype=torch.float64, device=self.labels.device)
        gradient = [torch.zeros_like(p) for p in self.points]
        for inputs, labels in self.batches():
            sums, pieces = self.batch_gradient(inputs, labels, samples=len(self.labels))
            total += sums
            vectors.add_(gradient, pieces)
        return self._value(total, len(self.labels)), gradient

    def hessian_vector_products(self, directions: Sequence[Vector]) -> list[Vector]:
        """Return H v for every v in `directions`, H the Hessian of L at the current weights; shapes and format of the parameters.
        Differentiates the gradient along v (Pearlmutter 1994) batch by batch, with batchnorm="train" through the statistics too; all share
        a batch's forward and first backward. Peak memory: as many results, one more, and a batch's graph of both."""
        products = [[torch.zeros_like(p) for p in self.points] for _ in directions]
        for inputs, labels in self.batches():
            # The fused attention kernels have no second derivative.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                loss, _ = self._forward(inputs, labels)
                gradient = torch.autograd.grad(loss / len(self.labels), self.parameters, create_graph=True, materialize_grads=True)
                curved = [k for k, g in enumerate(gradient) if g.requires_grad]  # the others do not depend on the weights
                for number, (direction, product) in enumerate(zip(directions, products, strict=True), start=1):
                    if curved:
                        ends, along = [gradient[k] for k in curved], [direction[k] for k in curved]
                        kept = number < len(directions)
                        pieces = torch.autograd.grad(ends, self.parameters, along, retain_graph=kept, materialize_grads=True)
                        vectors.add_(product, list(pieces))
            self.progress((3 + 4 * len(directions)) * len(labels))
        return products

    def batch_gradient(self, inputs: Tensor, labels: Tensor, *, samples: int) -> tuple[Tensor, Vector]:
        """Return (float64 sums [loss, right answers] of the batch, gradient of (sum of its losses) / samples)."""
        with torch.enable_grad():
            loss, sums = self._forward(inputs, labels)
            pieces = torch.autograd.grad(loss / samples, self.parameters, materialize_grads=True)
        self.progress(3 * len(labels))
        return sums, list(pieces)

    @torch.no_grad()
    def batch_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the float64 sum of one batch's losses, on the device."""
        sums = self._forward(inputs, labels)[1]
        self.progress(len(labels))
        return sums[0]


def normalizers(model: nn.Module) -> list[Any]:
    """List the BatchNorm modules that keep running statistics."""
    modules = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    return [m for m in modules if m.track_running_stats and m.running_mean is not None]


@contextmanager
def refused_alone(size: int) -> Iterator[None]:
    """Raise ConfigError if BatchNorm refuses the forward inside because the batch is one sample without a spatial extent."""
    try:
        yield
    except ValueError as error:
        if size != 1:
            raise
        alone = "sharpness.m: leaves a last batch of one sample, which BatchNorm cannot normalise by itself; choose another m."
        raise ConfigError(alone) from error


@torch.no_grad()
def averaged(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Average the batches' own statistics, weighted by batch size: (mean, variance) of each of `normalizers(model)`. Only BatchNorm runs in
    train mode. Use inside `measuring()`, which restores buffers and modes."""
    modules, seen = normalizers(model), 0
    momenta = [module.momentum for module in modules]
    try:
        for module in modules:
            module.running_mean.zero_()  # what was there has weight 0, and 0 * NaN is NaN
            module.running_var.zero_()
            module.train()
        for inputs in batches:
            seen += len(inputs)
            for module in modules:
                module.momentum = len(inputs) / seen  # running <- the average, weighted by size, of all batches so far
            with refused_alone(len(inputs)):
                model(inputs)
        for module in modules:
            module.eval()
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum
    return [(m.running_mean.clone(), m.running_var.clone()) for m in modules]


@torch.no_grad()
def install(model: nn.Module, statistics: Statistics) -> None:
    """Write `statistics` into the running buffers."""
    for module, (mean, variance) in zip(normalizers(model), statistics, strict=True):
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
