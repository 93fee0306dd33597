"""One call for any model and any data: `sam.sharpness.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from data.image_data import ImageData
from sam.config import ConfigError, SharpnessConfig, from_dict
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.notions import measure
from sam.sharpness.subject import Result, Series, Split, Subject, subject_of

PIECE = 500  # samples of a torch Dataset read at a time


class Measurements(dict[str, float | None]):
    """Named numbers (None where undefined), and `series`: named curves, each a dictionary of columns. Printed as a list, with ±."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.values)
        self.series: dict[str, Series] = result.series

    def __str__(self) -> str:
        return listing(self)


def evaluate(
    model: nn.Module,
    data: Any,
    notions: Sequence[str] = ("ascent", "gap"),
    rho: Sequence[float] = (0.05,),
    *,
    progress: Callable[[float], None] = lambda units: None,
    **settings: Any,
) -> Measurements:
    """Measure a classifier's sharpness and gap where it stands; the model is left bitwise as it was.

        import data, sam.sharpness
        found = sam.sharpness.evaluate(model, data.load(name="cifar10"), notions=["ascent", "hessian"], rho=[0.05, 0.5])
        print(found); found["sharpness[rho=0.05,bn=eval,batch=all]"]; found.series

    model    maps inputs (b, ...) to logits (b, classes); it is measured on the device that it is on.
    data     training data without augmentation, and test data or none, as one of
             an ImageData (`data.load`), whose uint8 images are normalised with its mean and std;
             a pair of tensors (inputs, labels), where inputs are what the model takes, and labels are class numbers;
             a torch Dataset or DataLoader of such pairs: it is read in the order of its set, whatever the loader's order;
             a pair (train, test), or a dictionary {"train": ..., "test": ...}, of any of these three.
    notions  names of `sam.config.NOTIONS`, or ["all"]; what each returns stands in its module's `measure`.
    settings other keys of `sam.config.SharpnessConfig`: m=128, batchnorm=["eval"], hessian={"probes": 50}, ...
    Raises ConfigError (one sentence) for settings, data or a model that cannot be measured.
    """
    values = {"notions": list(notions), "rho": [float(radius) for radius in rho], **settings}
    config = from_dict(SharpnessConfig, values, "sharpness.")
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise ConfigError("model: has no trainable parameter (requires_grad), so no sharpness either.")
    coarse = next((p.dtype for p in weights if p.dtype not in (torch.float32, torch.float64)), None)
    if coarse is not None:
        raise ConfigError(f"model: has weights in {coarse}, whose spacing is wider than the steps measured here; give a copy in float32.")
    if isinstance(data, ImageData):
        subject = subject_of(model, data, config, progress=progress)
    else:
        train, test = _pair(data)
        device, dtype = weights[0].device, weights[0].dtype
        subject = Subject(
            model,
            _split(train, "train", device),
            None if test is None else _split(test, "test", device),
            config,
            prepare=lambda batch: _own(batch, dtype),
            progress=progress,
        )
    _check_outputs(subject)
    return Measurements(measure(subject))


def _own(batch: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of one batch, floats in `dtype`: aligned and contiguous, as a kernel's last digits depend on where and how a tensor lies."""
    return batch.to(dtype if batch.is_floating_point() else batch.dtype, copy=True, memory_format=torch.contiguous_format)


def _check_outputs(subject: Subject) -> None:
    """One forward of two samples: are the outputs logits, one for every label? (On a GPU a label without one ends the process.)"""
    for name, split in (("train", subject.train), ("test", subject.test)):
        if split is None:
            continue
        first = DatasetLoss(subject.model, split.inputs[:2], split.labels[:2], prepare=subject.prepare)
        with first.measuring():
            shape = tuple(first.outputs().shape)
        if len(shape) != 2 or shape[1] < 2:
            raise ConfigError(f"model: maps data ({name}) to outputs {shape}, but must map it to logits (samples, classes), two at least.")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= shape[1]:
            raise ConfigError(f"data ({name}): labels run from {low} to {high}, but the model has logits for 0 to {shape[1] - 1}.")


def _pair(data: Any) -> tuple[Any, Any]:
    """(training data, test data or None)."""
    if isinstance(data, Mapping):
        if "train" not in data or set(data) - {"train", "test"}:
            raise ConfigError(f"data: a dictionary must have the keys train and (or not) test, not {', '.join(map(str, data)) or 'none'}.")
        return data["train"], data.get("test")
    if isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[0], Tensor):
        return data[0], data[1]
    return data, None


def _split(part: Any, name: str, device: torch.device) -> Split:
    if isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(x, Tensor) for x in part):
        inputs, labels = part
    elif hasattr(part, "__getitem__") or isinstance(part, (DataLoader, IterableDataset)):
        inputs, labels = _materialised(part, name)
    else:
        kind = type(part).__name__
        raise ConfigError(
            f"data ({name}): {kind} is none of an ImageData, a pair of tensors (inputs, labels), a torch Dataset or a DataLoader."
        )
    if inputs.dtype == torch.uint8:
        raise ConfigError(f"data ({name}): inputs are uint8; give what the model takes (scaled and normalised floats), or an ImageData.")
    if labels.is_floating_point() or labels.ndim != 1:
        raise ConfigError(f"data ({name}): labels are {labels.dtype} {tuple(labels.shape)}, but must be whole class numbers, one a sample.")
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ConfigError(f"data ({name}): {len(inputs)} inputs and {len(labels)} labels; both must be equally many, and at least one.")
    return Split(inputs.to(device), labels.to(device, torch.int64))


def _materialised(source: Any, name: str) -> tuple[Tensor, Tensor]:
    """All samples in the order of the set. A DataLoader's own order, workers and dropped rest are passed by; its collate function is used.

    The first samples are read twice: a set that gives other ones the second time augments, and is refused.
    """
    loader = isinstance(source, DataLoader)
    dataset = source.dataset if loader else source
    collate = source.collate_fn if loader and source.batch_size is not None else default_collate
    with torch.random.fork_rng(devices=[]):  # a set may draw numbers
        if isinstance(dataset, IterableDataset):
            pieces = [collate(list(dataset))]
        else:
            starts = range(0, len(dataset), PIECE)
            pieces = [collate([dataset[i] for i in range(start, min(start + PIECE, len(dataset)))]) for start in starts]
            again = collate([dataset[i] for i in range(min(16, len(dataset)))]) if pieces else None
            if again is not None and _is_pair(again) and not torch.equal(again[0], pieces[0][0][:16]):
                raise ConfigError(f"data ({name}): gives other inputs each time it is read; measure without random augmentation.")
    if not pieces:
        raise ConfigError(f"data ({name}): is empty.")
    if not all(map(_is_pair, pieces)):
        raise ConfigError(f"data ({name}): each sample must be a pair (input, label) of tensors or numbers.")
    return torch.cat([inputs for inputs, _ in pieces]), torch.cat([labels for _, labels in pieces])


def _is_pair(piece: Any) -> bool:
    return isinstance(piece, (tuple, list)) and len(piece) == 2 and all(isinstance(x, Tensor) for x in piece)


def listing(values: Mapping[str, float | None]) -> str:
    """One line a number: its name, its value (- where undefined), and ± its standard error where there is one."""
    errors = {name: name.replace("_stderr", "", 1) for name in values if name.partition("[")[0].endswith("_stderr")}
    spread = {named: values[name] for name, named in errors.items()}
    shown = {name: value for name, value in values.items() if name not in errors or errors[name] not in values}
    width = max(map(len, shown), default=0)
    lines = []
    for name, value in shown.items():
        error = spread.get(name)
        number = "-" if value is None else f"{value:.6g}"
        lines.append(f"{name:<{width}}  {number}" + ("" if error is None else f" ± {error:.2g}"))
    return "\n".join(lines)
