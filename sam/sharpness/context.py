"""What is measured on what: the context, the result, and the notions by name, each a function `measure(context: Context) -> Result`."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sam.config import ConfigError
from sam.core import seeds
from sam.core.criteria import CRITERIA, Criterion
from sam.core.vectors import Vector
from sam.schema import row_settings
from sam.sharpness.dataset_loss import DatasetLoss, Statistics, Value, averaged
from sam.sharpness.settings import MEASURED_SPLITS, NOTIONS, SharpnessConfig

if TYPE_CHECKING:
    from data.image_data import ImageData

Measures = dict[str, float | None]
Series = dict[str, list[float | None]]
Part = tuple[str, str]  # BatchNorm mode, set: of a notion that is stored in several rows


@dataclass(frozen=True)
class Result:
    """values: named numbers, None where undefined. series: named curves, each a dictionary of columns of equal length."""

    values: Measures = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)


def merge(parts: Iterable[Result]) -> Result:
    total = Result()
    for part in parts:
        total.values.update(part.values)
        total.series.update(part.series)
    return total


@dataclass(frozen=True)
class Sizes:
    """train, test, val: images; parameters: D; batch: as `Context.batch`. A notion computes its work from them."""

    train: int
    test: int
    parameters: int = 0
    val: int = 0
    batch: int | None = None

    @property
    def splits(self) -> list[str]:
        """The sets present beside the training set."""
        return [split for split in MEASURED_SPLITS if getattr(self, split)]

    def images(self, subset: int | None) -> int:
        """Return the number of training images of a notion with this `subset`."""
        return self.train if subset is None else min(subset, self.train)

    def batches(self, settings: Any, m: int) -> tuple[int, int]:
        """Return how many batches a notion with the keys batches and batch_size takes, and the images of each."""
        size = min(settings.batch_size or self.batch or m, self.train)
        return min(settings.batches, self.train // size), size


@dataclass(frozen=True)
class Split:
    """inputs (n, ...) as stored, labels (n,)."""

    inputs: Tensor
    labels: Tensor


@dataclass
class Context:
    """The measurement context: a model, the data it is measured on, and the settings.

    train, test, val  images and labels on the model's device; `prepare` turns a batch of stored inputs into the model's input.
    label_noise   share of the training labels that were replaced on purpose (for the gap under the same channel).
    optimizer     settings of the optimizer that trained it, or None: for notions that follow the training's own ascent.
    batch         images of a training batch that share a perturbation, or None if it is not known.
    progress      told of units of work: a forward of one image is 1, a forward and backward 3, a Hessian-vector product 7.
    """

    model: nn.Module
    train: Split
    test: Split | None
    config: SharpnessConfig
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs
    label_noise: float = 0.0
    optimizer: Any = None
    progress: Callable[[float], None] = lambda units: None
    val: Split | None = None
    loss_name: str = "cross_entropy"
    batch: int | None = None
    _seen: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def splits(self) -> list[str]:
        return [split for split in MEASURED_SPLITS if getattr(self, split) is not None]

    @property
    def sizes(self) -> Sizes:
        test, val = (0 if split is None else len(split.labels) for split in (self.test, self.val))
        return Sizes(len(self.train.labels), test, sum(p.numel() for p in self.model.parameters()), val, self.batch)

    @property
    def criterion(self) -> Criterion:
        return CRITERIA[self.loss_name]

    @property
    def device(self) -> torch.device:
        return self.train.labels.device

    def loss(self, split: str | Split = "train", *, batchnorm: str = "eval", subset: int | None = None, **other: Any) -> DatasetLoss:
        """L over a split (train | test | val, or one given), or over `subset` of its images, always the same. batchnorm: eval | train |
        recalibrated. other: criterion; batch_size, by default config.batch_size, or config.m with batch statistics (train)."""
        part: Split | None = getattr(self, split) if isinstance(split, str) else split
        if part is None:
            raise ValueError(f"there is no {split} set to measure on.")
        if subset is not None and subset < len(part.labels):
            index = subset_indices(len(part.labels), subset).to(part.labels.device)
            part = Split(part.inputs[index], part.labels[index])
        usual: dict[str, Any] = {"criterion": self.criterion, "prepare": self.prepare, "progress": self.progress}
        usual["batch_size"] = self.config.m if batchnorm == "train" else self.config.batch_size
        statistics = self._recalibrated() if batchnorm == "recalibrated" else None
        mode = "train" if batchnorm == "train" else "eval"
        return DatasetLoss(self.model, part.inputs, part.labels, batchnorm=mode, statistics=statistics, **usual | other)

    def training_batches(self, settings: Any, name: str) -> list[DatasetLoss]:
        """L over each of `settings.batches` training batches, drawn without repetition from the random stream `name`, with BatchNorm in
        `settings.batchnorm`: eval | train (each batch's own statistics)."""
        count, size = self.sizes.batches(settings, self.config.m)
        order = torch.randperm(self.sizes.train, generator=self.generator(name))[: count * size].view(count, size).to(self.device)
        own = {"batch_size": size} if settings.batchnorm == "train" else {}
        parts = (Split(self.train.inputs[index], self.train.labels[index]) for index in order)
        return [self.loss(part, batchnorm=settings.batchnorm, **own) for part in parts]

    def suffix(self, subset: int | None, **parts: object) -> str:
        """Return the suffix of a measure's name, with the subset last where it is smaller than the training set."""
        return suffix(**parts, subset=subset if subset is not None and subset < len(self.train.labels) else None)

    def _recalibrated(self) -> Statistics:
        """Average running statistics over the training set's batches of config.m, once, at w."""
        if "statistics" not in self._seen:
            loss = self.loss(batch_size=self.config.m)
            with loss.measuring():
                self._seen["statistics"] = averaged(self.model, (self.prepare(inputs) for inputs, _ in loss.batches()))
            self.progress(len(loss.labels))
        return self._seen["statistics"]  # type: ignore[no-any-return]

    def keep(self, value: Value, batchnorm: str) -> None:
        """Keep L over the training set for `value`; of a subset it is not kept."""
        if value.samples == len(self.train.labels):
            self._seen["train", batchnorm] = value

    def value(self, split: str, batchnorm: str = "eval") -> Value:
        """Return L over a whole split, computed once in this context."""
        if (split, batchnorm) not in self._seen:
            loss = self.loss(split, batchnorm=batchnorm)
            with loss.measuring():
                self._seen[split, batchnorm] = loss.value()
        return self._seen[split, batchnorm]  # type: ignore[no-any-return]

    def generator(self, *words: object) -> torch.Generator:
        """Return the random stream of this name, on the CPU, so that every device gets the same draws."""
        return seeds.generator("cpu", self.config.seed, " ".join(map(str, words)))


def context_of(model: nn.Module, data: "ImageData", config: SharpnessConfig, **options: Any) -> Context:
    """Return the context of a model and an image data set, moved to the model's device; options: of a Context."""
    weight = next(model.parameters())
    images = data.to(weight.device)
    train, test = Split(images.train_images, images.train_labels), Split(images.test_images, images.test_labels)
    val = Split(images.val_images, images.val_labels) if len(images.val_labels) else None
    prepare = lambda inputs: images.normalize(inputs).to(weight.dtype)
    return Context(model, train, test, config, prepare=prepare, label_noise=data.label_noise, val=val, **options)


def subset_indices(total: int, subset: int) -> Tensor:
    """Return `subset` fixed random indices below `total`, ascending, (subset,) int64. A smaller subset lies in a larger one."""
    return torch.randperm(total, generator=seeds.generator("cpu", 0, "subset"))[:subset].sort().values


def suffix(**parts: object) -> str:
    """Return the suffix of a measure's name: suffix(rho=0.05, bn="eval", subset=None) -> "[rho=0.05,bn=eval]"."""
    shown = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in parts.items() if value is not None]
    return f"[{','.join(shown)}]" if shown else ""


def said(batchnorm: str) -> dict[str, str]:
    """What the suffix of a measure's name says of BatchNorm where its running statistics need not be said."""
    return {} if batchnorm == "eval" else {"bn": batchnorm}


def named(where: str, **values: float | None) -> Measures:
    """Append the suffix `where` to each name: named("[rho=0.1]", maximum=0.3) -> {"maximum[rho=0.1]": 0.3}."""
    return {f"{name}{where}": value for name, value in values.items()}


def random_like(parameters: Sequence[Tensor], generator: torch.Generator, *, uniform: bool = False) -> Vector:
    """Draw a vector shaped like the parameters from a CPU generator: N(0, 1) entries, or uniform in [-1, 1)."""
    draw = torch.rand if uniform else torch.randn
    drawn = [draw(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    return [(x.mul_(2).sub_(1) if uniform else x).to(p.device) for x, p in zip(drawn, parameters, strict=True)]


@dataclass(frozen=True)
class Notion:
    """One notion: a module with

    measure(context)      -> Result, whose names docs/measures.md explains;
    work(sizes, config)   -> the largest work in units of progress; what was not needed is reported as done at the end;
    VERSION               raised when its definition or arithmetic changes, so that no old row is reused;
    inputs(config)        (if its numbers depend on files) which files, so that changed ones are measured anew.

    A notion whose numbers are stored in several rows has `parts(config, splits)` and `settings(config, part)` too, and `measure`, `work`
    that take a part; `part` is one of these, or None for the whole notion.
    """

    name: str
    part: Part | None = None

    def __str__(self) -> str:
        return self.name if self.part is None else self.name + suffix(bn=self.part[0], split=self.part[1])

    @property
    def module(self) -> Any:
        return NOTIONS[self.name].load()

    def rows(self, config: SharpnessConfig, splits: Collection[str]) -> "list[Notion]":
        """List the parts that are stored as a row each. splits: the sets present beside the training set (test, val)."""
        return [Notion(self.name, part) for part in self.module.parts(config, splits)] if hasattr(self.module, "parts") else [self]

    def measure(self, context: Context) -> Result:
        if self.part is not None:
            return self.module.measure(context, self.part)  # type: ignore[no-any-return]
        outer, left = context.progress, self.module.work(context.sizes, context.config)

        def report(units: float) -> None:
            nonlocal left
            left -= units
            outer(units)

        context.progress = report
        try:
            result: Result = self.module.measure(context)
        finally:
            context.progress = outer
        own = lambda name, value: name.startswith(self.name) and isinstance(value, float | int | None)
        if lost := [name for name, value in result.values.items() if NOTIONS[self.name].is_foreign and not own(name, value)]:
            raise ConfigError(f"notion {self.name}: its measure {lost[0]} must have a name that begins so, and be a number or None.")
        if left > 0:  # what was not needed
            outer(left)
        return result

    def settings(self, config: SharpnessConfig, loss: str = "cross_entropy") -> dict[str, object]:
        """Return what can change its numbers, without `late` keys at their default. loss: the model's, which is measured; included unless
        it is the cross-entropy. Raises DataError if files that it needs are missing."""
        other = {} if loss == "cross_entropy" else {"loss": loss}
        if self.part is not None:
            return {"version": self.module.VERSION, **self.module.settings(config, self.part), **other}
        values = row_settings(config)
        files = {"inputs": self.module.inputs(config)} if hasattr(self.module, "inputs") else {}
        row = NOTIONS[self.name]
        foreign = {"plugin": next(iter(row.plugin))} if row.plugin else {}
        read = {key: values[key] for key in (*row.reads, *([self.name] if foreign else [])) if key in values}
        return {"version": self.module.VERSION, **read, **files, **other, **foreign}


def work(names: Iterable[str | Notion], sizes: Sizes, config: SharpnessConfig) -> float:
    """Return the units of work that measuring these notions, or rows of notions, in one context reports."""
    found: dict[str, list[Part]] = {}
    for row in (Notion(name) if isinstance(name, str) else name for name in names):
        parts = row.rows(config, sizes.splits) if row.part is None else [row]
        found.setdefault(row.name, []).extend(part.part for part in parts if part.part is not None)
    return sum(float(Notion(name).module.work(sizes, config, *((parts, found) if parts else ()))) for name, parts in found.items())


def measure(context: Context) -> Result:
    """Measure the notions of the context's config as one result. The model is left bitwise as it was."""
    return merge(row.measure(context) for name in context.config.chosen for row in Notion(name).rows(context.config, context.splits))
