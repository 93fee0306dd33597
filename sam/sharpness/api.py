"""One call for any model and any data: `sam.sharpness.evaluate`."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from sam.config import ConfigError
from sam.core.criteria import CRITERIA
from sam.schema import from_dict
from sam.sharpness.context import Context, Result, Series, Split, context_of, measure
from sam.sharpness.derived import derived
from sam.sharpness.settings import SharpnessConfig

PIECE = 500  # samples of a torch Dataset read at a time


class Measurements(dict[str, float | None]):
    """Named numbers (None where undefined), and `series`: named curves, each a dictionary of columns.
    Printed one a line: name, value (- if undefined), and ± the standard error if there is one."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.values)
        self.series: dict[str, Series] = result.series

    def __str__(self) -> str:
        errors = {name: re.sub(r"^\w+", r"\g<0>_stderr", name) for name in self}  # of each the name of its error, were there one
        shown = {name: value for name, value in self.items() if name not in errors.values()}
        width = max(map(len, shown), default=0)
        lines = []
        for name, value in shown.items():
            error = self.get(errors[name])
            number = "-" if value is None else f"{value:.6g}"
            lines.append(f"{name:<{width}}  {number}" + ("" if error is None else f" ± {error:.2g}"))
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    data: Any,
    notions: str | Sequence[str] = ("ascent", "gap"),
    rho: float | Sequence[float] = (0.05,),
    *,
    loss: str = "cross_entropy",
    progress: Callable[[float], None] = lambda units: None,
    **settings: Any,
) -> Measurements:
    """Measure a classifier's sharpness and generalization gap at its current weights; the model is left bitwise as it was.

        import data, sam.sharpness
        found = sam.sharpness.evaluate(model, data.load(name="cifar10"), notions=["ascent", "hessian"], rho=[0.05, 0.5])
        print(found); found["sharpness[rho=0.05,bn=eval,batch=all]"]; found.series

    model    maps inputs (b, ...) to logits (b, classes); it is measured on the device that it is on.
    data     training data without augmentation, and test data or none, as one of
             an ImageData (`data.load`), whose uint8 images are normalised with its mean and std;
             a pair of tensors or arrays (inputs, labels), where inputs are what the model takes, and labels are class numbers;
             a torch Dataset of such pairs, or a DataLoader: what one pass over it yields, with its random draws seeded with `seed`;
             a pair (train, test), or a dictionary {"train": ..., "test": ...}, of any of these three, taken in a random order (of `seed`)
             where it is sorted by class.
    notions  names of `sam.sharpness.settings.NOTIONS`, or ["all"]; docs/measures.md says what each returns.
    loss     cross_entropy | mse: what the model was trained with, and every notion measures.
    settings other keys of `sam.sharpness.settings.SharpnessConfig`: m=128, batchnorm=["eval"], hessian={"probes": 50}, ...
    Raises ConfigError (one sentence) for settings, data or a model that cannot be measured.
    """
    if loss not in CRITERIA:
        raise ConfigError(f"loss={loss}: must be one of {', '.join(CRITERIA)}.")
    values: dict[str, Any] = {"notions": notions, "rho": rho, **settings}
    try:
        values |= {key: [values[key]] for key in ("notions", "rho", "batchnorm") if key in values and np.ndim(values[key]) == 0}
        config = from_dict(SharpnessConfig, values | {"rho": [float(radius) for radius in values["rho"]]}, "sharpness.")
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"sharpness: a setting has a value of a wrong type ({error}); given: {values}.") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: must be a torch.nn.Module, not a {type(model).__name__}.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ConfigError(f"model: {name} has no shape yet; run one batch through the model, which initialises its lazy layers.")
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise ConfigError("model: has no trainable parameter (requires_grad), so no sharpness either.")
    if coarse := next((p.dtype for p in weights if p.dtype not in (torch.float32, torch.float64)), None):
        raise ConfigError(f"model: has weights in {coarse}, whose spacing is wider than the steps measured here; give a copy in float32.")
    if len(kinds := {str(p.dtype) for p in weights}) > 1:
        raise ConfigError(f"model: has weights in {' and '.join(sorted(kinds))}; must be one type.")
    if bad := next((name for name, p in model.named_parameters() if not p.isfinite().all()), None):
        raise ConfigError(f"model: {bad} holds NaN or infinity.")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ConfigError(f"model: {name} has no running statistics (track_running_stats=False): bn=eval would depend on batch_size.")
    if hasattr(data, "train_images"):  # an ImageData; the library alone is without that class
        context = context_of(model, data, config, loss_name=loss, progress=progress)
    else:
        train, test = _pair(data)
        device, dtype = weights[0].device, weights[0].dtype

        def prepare(batch: Tensor) -> Tensor:
            """Copy one batch, aligned and contiguous: a kernel's last digits depend on the memory layout."""
            return batch.to(dtype if batch.is_floating_point() else batch.dtype, copy=True, memory_format=torch.contiguous_format)

        split = partial(_split, device=device, seed=config.seed)
        held_out = None if test is None else split(test, "test")
        context = Context(model, split(train, "train"), held_out, config, prepare=prepare, progress=progress, loss_name=loss)
    _check_outputs(context)
    result = measure(context)
    result.values.update(derived(result.values))
    return Measurements(result)


def _check_outputs(context: Context) -> None:
    """Refuse outputs that are not one logit for every label, by a forward of two samples. (On a GPU a wrong label ends the process.)"""
    for name, split in (("train", context.train), ("test", context.test)):
        if split is None:
            continue
        first = context.loss(Split(split.inputs[:2], split.labels[:2]))
        with first.measuring(), torch.enable_grad():
            try:
                both, alone = first.batch_outputs(first.inputs), first.batch_outputs(first.inputs[:1])
            except (RuntimeError, TypeError, ValueError, LookupError) as error:
                raise ConfigError(f"model: cannot take data ({name}): {' '.join(str(error).split())}.") from error
        if not isinstance(both, Tensor):
            raise ConfigError(f"model: returns a {type(both).__name__}; wrap it in a module that returns the logits in it.")
        if not both.requires_grad:
            raise ConfigError("model: returns outputs without a gradient (detached, or made under no_grad), so it has no sharpness.")
        both, alone = both.detach(), alone.detach()
        shape = tuple(both.shape)
        if len(shape) != 2 or shape[1] < 2 or shape[0] != len(first.labels):
            raise ConfigError(f"model: maps data ({name}) to outputs {shape}, but must map it to logits (samples, classes), two at least.")
        likely = context.loss_name == "cross_entropy" and bool((both >= 0).all())
        if likely and torch.allclose(both.sum(1), torch.ones_like(both[:, 0]), rtol=0, atol=1e-3):
            raise ConfigError("model: returns probabilities (not negative, each row adds up to 1), but must return logits: no softmax.")
        if not torch.allclose(alone, both[:1], rtol=1e-3, atol=1e-3 * float(both.nan_to_num().abs().max()), equal_nan=True):
            raise ConfigError(f"model: gives the first sample of data ({name}) other outputs alone than beside the second, or each time.")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= shape[1]:
            every = [int(of) for one in (context.train, context.test) if one is not None for of in (one.labels.min(), one.labels.max())]
            shift = min(every)  # one that is right for both
            fits = shift and max(every) - shift < shape[1]
            cure = "" if not fits else f"; add {-shift}" if shift < 0 else f"; subtract {shift}"
            raise ConfigError(f"data ({name}): labels run from {low} to {high}, but the model has logits for 0 to {shape[1] - 1}{cure}.")


def _pair(data: Any) -> tuple[Any, Any]:
    """Return (training data, test data or None)."""
    if isinstance(data, Mapping):
        if "train" not in data or set(data) - {"train", "test"}:
            raise ConfigError(f"data: a dictionary must have the keys train and (or not) test, not {', '.join(map(str, data)) or 'none'}.")
        return data["train"], data.get("test")
    if isinstance(data, tuple) and len(data) != 2:
        raise ConfigError(f"data: is a tuple of {len(data)}, but must be a pair, (inputs, labels) or (train, test).")
    if isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[0], (Tensor, np.ndarray)):
        return data[0], data[1]
    return data, None


def _split(part: Any, name: str, device: torch.device, seed: int) -> Split:
    if isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(x, (Tensor, np.ndarray)) for x in part):
        try:
            inputs, labels = map(torch.as_tensor, part)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"data ({name}): must be numbers that torch can take ({' '.join(str(error).split())}).") from error
    elif (hasattr(part, "__getitem__") and hasattr(part, "__len__")) or isinstance(part, (DataLoader, IterableDataset)):
        inputs, labels = _materialised(part, name, seed)
    else:
        known = "an ImageData, a pair of tensors (inputs, labels), a torch Dataset or a DataLoader"
        raise ConfigError(f"data ({name}): {type(part).__name__} is none of {known}.")
    if inputs.dtype == torch.uint8:
        raise ConfigError(f"data ({name}): inputs are uint8; give what the model takes (scaled and normalised floats), or an ImageData.")
    if labels.is_floating_point() or labels.is_complex() or labels.ndim != 1:
        cure = "argmax(1)" if labels.ndim == 2 and labels.shape[1] > 1 else "flatten().long()"
        kind = f"{labels.dtype} {tuple(labels.shape)}"
        raise ConfigError(f"data ({name}): labels are {kind}, but must be whole class numbers, one a sample, such as labels.{cure}.")
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ConfigError(f"data ({name}): {len(inputs)} inputs and {len(labels)} labels; both must be equally many, and at least one.")
    if bad := len(inputs) - int(inputs.isfinite().reshape(len(inputs), -1).all(1).sum()):
        raise ConfigError(f"data ({name}): {bad} of {len(inputs)} inputs hold NaN or infinity.")
    if bool((labels[1:] >= labels[:-1]).all()):  # by class, as an ImageFolder is: batches of m would hold one or two classes
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
        inputs, labels = inputs[order], labels[order]
    return Split(inputs.to(device), labels.to(device, torch.int64))


def _materialised(source: Any, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Read one pass in order, with random draws seeded and random states restored. A set that augments is refused."""
    loader: Any = source if isinstance(source, DataLoader) else DataLoader(source, batch_size=PIECE)
    drawing = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    states = {g: g.get_state() for part in drawing if (g := getattr(part, "generator", None)) is not None}
    with torch.random.fork_rng(devices=[]):
        if _augments(loader):
            raise ConfigError(f"data ({name}): gives other inputs each time it is read; measure without random augmentation.")
        for generator in (torch, *states):
            generator.manual_seed(seed)
        try:
            pieces = list(loader)
        except (RuntimeError, TypeError) as error:  # samples of several sizes, or of something else
            raise ConfigError(f"data ({name}): cannot be made batches of ({' '.join(str(error).split())}).") from error
    for generator, state in states.items():
        generator.set_state(state)
    if not pieces:
        raise ConfigError(f"data ({name}): is empty.")
    if not all(map(_is_pair, pieces)):
        raise ConfigError(f"data ({name}): each sample must be a pair (input, label) of tensors or numbers; or give two tensors.")
    columns = [[torch.as_tensor(part) for part in parts] for parts in zip(*pieces, strict=True)]
    inputs, labels = (torch.stack(parts) if columns[1][0].ndim == 0 else torch.cat(parts) for parts in columns)  # batch_size=None: samples
    return inputs, labels


def _augments(loader: Any) -> bool:
    collate = default_collate if loader.batch_sampler is None else loader.collate_fn
    try:
        first, again = (collate([loader.dataset[i] for i in range(min(16, len(loader.dataset)))]) for _ in range(2))
        return _is_pair(first) and not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    except (LookupError, TypeError, ValueError, NotImplementedError, RuntimeError):  # a stream, or keys that are not 0..n-1: cannot be told
        return False


def _is_pair(piece: Any) -> bool:
    return isinstance(piece, (tuple, list)) and len(piece) == 2 and all(isinstance(x, (Tensor, np.ndarray, int)) for x in piece)
