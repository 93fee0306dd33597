"""The mean loss over a whole data set as a function of the weights. No other code of a measurement touches data."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam.config import ConfigError
from sam.core import vectors
from sam.core.ascent import Ascent
from sam.core.criteria import Criterion, cross_entropy
from sam.core.device import number_format
from sam.core.vectors import Vector

Statistics = list[tuple[Tensor, Tensor]]  # of each BatchNorm layer: running mean and variance


class Value(NamedTuple):
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
    def measuring(self) -> Iterator[Vector]:
        """Switch TF32, autocast and dropout off and BatchNorm into its mode; restore weights, buffers and modes bitwise afterwards, buffers
        before every forward too. Gradients (`.grad`) and random state are not touched. Gives the copy of the weights that is kept."""
        modes = [(module, module.training) for module in self.model.modules()]
        attributes = [(module, {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}) for module, _ in modes]  # spectral norm's
        kept = [p.clone() for p in self.points]
        buffers = [(module, name, b, b.clone()) for module, _ in modes for name, b in module._buffers.items() if b is not None]
        inside = self.model in _held
        _held.setdefault(self.model, [b for b in buffers if not isinstance(b[0], nn.modules.batchnorm._NormBase)])
        self.model.eval()
        for module, _ in modes:
            if self.batchnorm == "train" and isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
        try:
            if self.statistics is not None:
                for module, (mean, variance) in zip(normalizers(self.model), self.statistics, strict=True):
                    module.running_mean.copy_(mean)
                    module.running_var.copy_(variance)
            with number_format("fp32"), torch.autocast(self.labels.device.type, enabled=False):
                yield kept
        finally:
            vectors.copy_(self.points, kept)
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

    def _forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sum of losses, detached float64 sums [loss, right answers]) of one batch."""
        with refused_alone(len(labels)):
            outputs = self.batch_outputs(inputs)
        losses = self.criterion(outputs, labels)
        right = (outputs.argmax(1) == labels).sum() if outputs.ndim == 2 else torch.tensor(float("nan"), device=outputs.device)
        return losses.sum(), torch.stack([losses.detach().double().sum(), right.double()])

    def _value(self, sums: Tensor, samples: int) -> Value:
        loss, right = (sums / samples).tolist()
        return Value(loss, 100 * right, samples)

    @torch.no_grad()
    def batch_sums(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the float64 sums [loss, right answers] of one batch, on the device."""
        sums = self._forward(inputs, labels)[1]
        self.progress(len(labels))
        return sums

    def value(self) -> Value:
        """Return L at the current weights: one forward over the set."""
        return self._value(reduce(torch.add, starmap(self.batch_sums, self.batches())), len(self.labels))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Return the model's outputs for every sample, (n, ...): one forward over the set, and that much memory."""
        found = []
        for inputs, _ in self.batches():
            with refused_alone(len(inputs)):
                found.append(self.batch_outputs(inputs))
            self.progress(len(inputs))
        return torch.cat(found)

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

    @contextmanager
    def around(self, gradient: bool = True) -> Iterator["Around"]:
        """Measure around w, without autograd's graph; gradient: known at w (a forward and backward over the set), or empty (a forward)."""
        with self.measuring() as start, torch.no_grad():
            yield Around(self, start, *(self.value_and_gradient() if gradient else (self.value(), [])))


def is_slope(length: float) -> bool:
    """True if a vector of this length has a direction; a gradient without one is zero up to rounding, or not finite."""
    return math.isfinite(length) and length > vectors.TINY


def unit_(direction: Vector) -> float | None:
    """Scale `direction` to norm 1 in place; return the norm it had, None if it has no direction."""
    length = vectors.normalize_(direction).item()
    return length if is_slope(length) else None


@dataclass(eq=False, repr=False)
class Around:
    """L around w. start: a copy of the weights w, only read; value, gradient: at w. The model's own weights move, and stay where they were
    last."""

    loss: DatasetLoss
    start: Vector
    value: Value
    gradient: Vector

    def move(self, *way: tuple[float, Vector]) -> None:
        """Move the weights to w + the sum of distance times direction."""
        vectors.copy_(self.loss.points, self.start)
        for distance, direction in way:
            vectors.add_(self.loss.points, direction, distance)

    def at(self, *way: tuple[float, Vector]) -> float:
        """Return L there: one forward over the set."""
        self.move(*way)
        return self.loss.value().loss

    def climb(self, rho: float, steps: int, rule: str) -> Ascent | None:
        """Take N ascent steps from w, each along the gradient of the whole set; leave the weights at the end. None if a gradient on the way
        is zero or not finite: its direction is undefined, and the rise not zero. Memory: three vectors of D beside start and gradient."""
        ascent, here = Ascent(self.start, [rho] * len(self.start), steps=steps, rule=rule), [g.clone() for g in self.gradient]
        for taken in range(1, steps + 1):
            ascent.climb(here)
            vectors.copy_(self.loss.points, ascent.points)
            if taken < steps:
                here = self.loss.value_and_gradient()[1]
        return ascent if all(is_slope(length.item()) for length in ascent.lengths) else None


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
        alone = "sharpness.m: leaves a last batch of one sample, which BatchNorm cannot normalise; choose another m, or batchnorm eval."
        raise ConfigError(alone) from error


@torch.no_grad()
def averaged(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Average the batches' own statistics, weighted by batch size: (mean, variance) of each of `normalizers(model)`. Only BatchNorm runs in
    train mode. Use inside `measuring()`, which restores buffers and modes."""
    modules, seen = normalizers(model), 0
    momenta = [module.momentum for module in modules]
    try:
        for module in modules:
            module.reset_running_stats()  # what was there has weight 0, and 0 * NaN is NaN
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
