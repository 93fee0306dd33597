"""Typed schemas of every setting, and the table of methods. Standard library only: nothing here costs an import of torch or Hydra.

A schema is a frozen dataclass. Hydra composes the same classes (see `sam.runs.hydra_schema`), so that an unknown key or a wrong
type gets Hydra's own message; values are checked here, and a bad one raises `ConfigError`: one sentence that names the key, the value
and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

# `metadata=LATE`, or `late=True` below, marks a key that came after rows of measurements were stored: see `row_settings`.
LATE = {"late": True}


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one sentence for the user."""


def printable(text: object) -> str:
    """The text as it may enter a table, a page or a terminal: in one line, "?" for what is no letter (escapes, marks of direction, ...)."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)


def sentence(error: object, longest: int = 2000) -> str:
    """What is printed of an error: one line, of some length, whatever file or argument it quotes."""
    line = " ".join(printable(error).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."


class _Schema:
    """Base of a dataclass whose fields are made by `_number` and `_one_of`. prefix: what stands before their names in a message."""

    _prefix = ""

    def __init_subclass__(cls, prefix: str = "") -> None:
        cls._prefix = prefix

    def __post_init__(self) -> None:
        """Raise `ConfigError` for the first value, or item of a list, or list as a whole, that its field does not allow."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if check := f.metadata.get("check"):
                value = getattr(self, f.name)
                for item in value if str(f.type).startswith("list") and value is not None else [value]:
                    check(self._prefix + f.name, item)
                f.metadata["whole"](self._prefix + f.name, value)


def _checked(default: object, check: Callable[[str, Any], None], late: bool, whole: Callable[[str, Any], None] = lambda *_: None) -> Any:
    metadata = {"check": check, "late": late, "whole": whole}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _number(default: object, *, late: bool = False, **limits: Any) -> Any:
    """A field that holds a finite number, or a list of them, within the limits of `_within`; None is left alone."""
    return _checked(default, partial(_within, **limits), late)


def _radii(*default: float) -> Any:
    """A field that holds a list of radii > 0, each of which has a name of its own."""
    return _checked(list(default), partial(_within, above=0), late=False, whole=_distinct)


def _one_of(default: object, allowed: Collection[str], *, late: bool = False) -> Any:
    """A field that holds one of the allowed words, or a list of them."""
    return _checked(default, partial(_among, allowed=allowed), late)


def _among(key: str, value: object, allowed: Collection[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}.")


def _within(key: str, value: float | None, *, low: float = -math.inf, above: float = -math.inf, high: float = math.inf) -> None:
    """Refuse a number outside [low, high], or not above `above`; whole ones must fit in 64 bits, as they must for torch."""
    if value is not None and not isinstance(value, (int, float)):
        raise ConfigError(f"{key}={value}: must be a number.")
    most = min(high, 2**63 - 1) if isinstance(value, int) else high
    if value is not None and not (low <= value <= most and value > above and math.isfinite(value)):
        floor = f"> {above:g}" if above > -math.inf else f">= {low:g}"
        limits = f"{floor} and <= {most:g}" if high < math.inf or value > most else floor
        raise ConfigError(f"{key}={value}: must be a finite number {limits}.")


def _distinct(key: str, radii: Collection[float]) -> None:
    """Refuse radii that would give one name to two numbers: names hold six digits."""
    if len({f"{radius:g}" for radius in radii}) < len(radii):
        raise ConfigError(f"{key}={list(radii)}: must hold each radius once, and radii must differ within six digits.")


# ---------------------------------------------------------------------------------------------------------------- methods

STEP_RULES = ("split", "project", "accumulate", "boundary")
DEFAULT_ALPHAS = tuple(k / 10 for k in range(21))

_PERTURBING = ("rho", "perturb", "norm_scope")
_MULTISTEP = (*_PERTURBING, "ascent_steps", "step_rule")


@dataclass(frozen=True)
class MethodSpec:
    """One row of the method table.

    target:  "module:Class", imported only when a run builds it.
    keys:    keys of `OptimizerConfig` that this method reads, beside those of the base optimizer (`BASE_KEYS`); no other key can change
             its result, so no other key enters a run's identity.
    passes:  forward+backward pairs per step.
    probes:  forward-only evaluations per search (XSAM).
    """

    target: str
    label: str
    keys: tuple[str, ...]
    passes: Callable[[OptimizerConfig], int]
    probes: Callable[[OptimizerConfig], int] = lambda _: 0


METHODS: dict[str, MethodSpec] = {
    "sgd": MethodSpec("sam.optimizers.sgd:SGD", "SGD", (), lambda c: 1),
    "rand_sam": MethodSpec("sam.optimizers.rand_sam:RandSAM", "Rand-SAM", (*_PERTURBING, "radius"), lambda c: 1),
    "sam": MethodSpec("sam.optimizers.sam:SAM", "SAM", (*_MULTISTEP, "descent_gradient", "radius"), lambda c: c.ascent_steps + 1),
    "xsam": MethodSpec(
        "sam.optimizers.xsam:XSAM",
        "XSAM",
        (*_MULTISTEP, "rho_max", "alpha", "alpha_grid", "alpha_refresh"),
        lambda c: c.ascent_steps + 1,
        lambda c: len(c.alpha_grid) if c.alpha is None else 0,
    ),
}

BASE_KEYS = ("method", "lr", "momentum", "nesterov", "weight_decay", "weight_decay_mode", "weight_decay_scope", "grad_clip")


@dataclass(frozen=True)
class OptimizerConfig(_Schema, prefix="optimizer."):
    """The keys of every method in one flat schema, so that `optimizer=sgd,sam optimizer.rho=0.05,0.1` composes.

    rho            radius of the perturbation (Euclidean norm over all perturbed parameters).
    radius         SAM and Rand-SAM: fixed: rho in every step; uniform: r ~ U[0, rho] drawn anew each step, one for the whole batch.
    ascent_steps   N of N-step SAM and k of XSAM.
    step_rule      split: rho/N per step, no projection (Tiwary & Aananth 2024, Eq. 5); project: rho per step, projected on the ball;
                   accumulate: rho per step, no projection; boundary: split, then rescaled to norm rho.
    descent_gradient  last: the gradient at w^N; mean: the average over w^1 .. w^N.
    perturb        all | no_norm | norm_only (normalisation parameters) | weights_only (tensors with two or more dimensions).
    norm_scope     global: one norm over all perturbed tensors; layer, filter: each tensor (each output filter) gets an equal share of
                   the length, so that the whole perturbation still has norm rho.
    rho_max        XSAM's search radius; null means 2 rho.
    alpha          XSAM without a search: this constant alpha; null means search.
    alpha_grid     the candidates of XSAM's search.
    alpha_refresh  epochs between searches (1: on the first batch of every epoch; 0.5: twice an epoch).
    weight_decay_mode  loss: lambda w is part of every gradient, the ascent's too; optimizer: torch's SGD adds it at w.
    grad_clip      largest norm of the descent gradient, or null.
    """

    method: str = _one_of("sam", METHODS)
    rho: float = _number(0.05, low=0)
    radius: str = _one_of("fixed", ("fixed", "uniform"))
    ascent_steps: int = _number(1, low=1)
    step_rule: str = _one_of("split", STEP_RULES)
    descent_gradient: str = _one_of("last", ("last", "mean"))
    perturb: str = _one_of("all", ("all", "no_norm", "norm_only", "weights_only"))
    norm_scope: str = _one_of("global", ("global", "layer", "filter"))
    rho_max: float | None = _number(None, low=0)
    alpha: float | None = _number(None)
    alpha_grid: list[float] = _number(list(DEFAULT_ALPHAS))
    alpha_refresh: float = _number(1.0, above=0)
    lr: float = _number(0.1, above=0)
    momentum: float = _number(0.9, low=0, high=1)
    nesterov: bool = True
    weight_decay: float = _number(5e-4, low=0)
    weight_decay_mode: str = _one_of("loss", ("loss", "optimizer"))
    weight_decay_scope: str = _one_of("all", ("all", "no_norm_bias"))
    grad_clip: float | None = _number(None, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha_grid:
            raise ConfigError("optimizer.alpha_grid=[]: must hold at least one candidate alpha.")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("optimizer.nesterov=true with optimizer.momentum=0: needs a momentum > 0; set optimizer.nesterov=false.")

    @property
    def search_radius(self) -> float:
        """XSAM's rho_max, with its default of 2 rho filled in."""
        return 2 * self.rho if self.rho_max is None else self.rho_max

    @property
    def used_keys(self) -> tuple[str, ...]:
        """The keys that can change this method's result."""
        keys = BASE_KEYS + METHODS[self.method].keys
        idle: tuple[str, ...] = ("step_rule", "descent_gradient") if self.ascent_steps == 1 else ()  # one step: every rule is the same
        idle += ("rho_max", "alpha_grid", "alpha_refresh") if self.alpha is not None else ()  # a constant alpha: nothing is searched
        return tuple(key for key in keys if key not in idle)


# ------------------------------------------------------------------------------------------------- model, data, augmentation

# Keys of ModelConfig that each model reads, beside `name` and `init`.
MODELS: dict[str, tuple[str, ...]] = {
    "wide_resnet": ("depth", "width", "dropout", "shortcut"),
    "resnet18": (),
    "resnet20": (),
    "resnet32": (),
    "resnet56": (),
    "vgg11_bn": ("dropout",),
    "densenet121": (),
    "timm": ("timm_name",),
}


@dataclass(frozen=True)
class ModelConfig(_Schema, prefix="model."):
    """depth, width, dropout, shortcut belong to the WideResNet; timm_name to `name=timm`.

    init   fan_out: He-normal convolutions (fan out), PyTorch's linear layer; foret: the same with a linear layer drawn from
           U(+-1/sqrt(classes)); torch: PyTorch's own defaults throughout.
    """

    name: str = _one_of("wide_resnet", MODELS)
    depth: int = 28
    width: int = _number(10, low=1)
    dropout: float = _number(0.0, low=0, high=0.99)
    shortcut: str = _one_of("conv", ("conv", "zero_pad"))
    init: str = _one_of("fan_out", ("fan_out", "foret", "torch"))
    timm_name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "wide_resnet" and (not 10 <= self.depth <= 10_000 or (self.depth - 4) % 6):
            raise ConfigError(f"model.depth={self.depth}: a WideResNet has depth 6n + 4: 10, 16, 22, 28, 34, 40, ..., 10000 at most.")
        if self.name == "timm" and not self.timm_name:
            raise ConfigError("model.timm_name=null: name the timm model, for example model=timm model.timm_name=resnet18.")

    @property
    def label(self) -> str:
        if self.name == "wide_resnet":
            return f"WRN-{self.depth}-{self.width}"
        if self.name == "timm":
            return f"timm {self.timm_name}"
        plain = {"vgg11_bn": "VGG-11-BN", "densenet121": "DenseNet-121"}
        return plain.get(self.name) or self.name.replace("resnet", "ResNet-")


DATASETS = {"digits": "digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "arrays": "arrays"}


@dataclass(frozen=True)
class DatasetConfig(_Schema, prefix="dataset."):
    """path: an .npz with train_images, train_labels, test_images, test_labels; root: where torchvision keeps CIFAR.

    val_fraction  share of the training set held out for choosing rho.
    label_noise   share of the training labels replaced by a wrong one, on purpose.
    train_size    use only this many training images, or null for all that are left.
    val_size      images held out before `train_size` are taken, the same ones for every run; null: none, or `val_fraction`'s.
    sample        fixed: the same training images and wrong labels for every run; seed: each seed draws its own, for every method alike.
    mean, std     normalisation of the images scaled to [0, 1], one number a channel; null: the data set's own.
    """

    name: str = _one_of("cifar10", DATASETS)
    path: str | None = None
    root: str = "datasets"
    download: bool = True
    val_fraction: float = _number(0.0, low=0, high=0.9)
    label_noise: float = _number(0.0, low=0, high=1)
    train_size: int | None = _number(None, low=1)
    val_size: int | None = _number(None, low=1, late=True)
    sample: str = _one_of("fixed", ("fixed", "seed"), late=True)
    mean: list[float] | None = _number(None, late=True)
    std: list[float] | None = _number(None, above=0, late=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "arrays" and not self.path:
            raise ConfigError("dataset.path=null: dataset=arrays needs dataset.path=FILE.npz.")
        if self.name == "digits" and self.path:
            raise ConfigError(f"dataset.path={self.path}: the digits are embedded and take no path; use dataset=arrays.")

    @property
    def label(self) -> str:
        return self.named(DATASETS[self.name])

    def named(self, name: str) -> str:
        """`name`, and what was changed about the data set."""
        noise = f", {100 * self.label_noise:g}% wrong training labels" if self.label_noise else ""
        size = f", {self.train_size} training images" if self.train_size else ""
        drawn = ", drawn by each seed" if self.sample == "seed" else ""
        return name + size + noise + drawn


@dataclass(frozen=True)
class AugmentationConfig(_Schema, prefix="augmentation."):
    """Training-time augmentation: crop after padding, horizontal flip, policy, Cutout (in this order; Cutout on normalised images)."""

    crop_padding: int = _number(0, low=0)
    padding_mode: str = _one_of("reflect", ("reflect", "zeros"))
    flip: bool = False
    policy: str = _one_of("none", ("none", "autoaugment"))
    cutout: int = _number(0, low=0)
    cutout_probability: float = _number(1.0, low=0, high=1)
    cutout_per: str = _one_of("image", ("image", "batch"))


# -------------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class ProtocolConfig:
    """What a protocol is called, and what must be said under every table made with it. Its values live in the keys they set."""

    name: str = "tiwary2024"
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrackingConfig(_Schema, prefix="tracking."):
    """Weights & Biases as a mirror of the record.

    backend         none | wandb.
    mode            auto (WANDB_MODE if set; else online with credentials, offline without) | online | offline | disabled.
    init_timeout    seconds to wait for the server at the start, before the run is logged offline.
    finish_timeout  seconds to wait for it at the end, before the rest is left to `wandb sync`; training never waits for the start.
    """

    backend: str = _one_of("none", ("none", "wandb"))
    mode: str = _one_of("auto", ("auto", "online", "offline", "disabled"))
    project: str = "sam"
    entity: str | None = None
    init_timeout: float = _number(60.0, above=0)
    finish_timeout: float = _number(10.0, above=0)

    def check(self) -> None:
        """ConfigError for names that W&B refuses. Not part of making one: records of runs that it refused are read."""
        for key, value in (("project", self.project), ("entity", self.entity or "x")):
            if not 0 < len(value.strip()) == len(value) <= 128 or set(value) & set("/\\#?%:") or not value.isprintable():
                team = f" a team goes into tracking.entity={value.partition('/')[0]}" if key == "project" and "/" in value else ""
                raise ConfigError(f"tracking.{key}={value}: must be 1 to 128 characters without any of / \\ # ? % :{team and ';' + team}.")


PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainConfig(_Schema):
    """One training run.

    init_from    a file of weights (state_dict, safetensors or a run's checkpoint.pt) from which the model starts, BatchNorm's statistics
                 included, instead of its initialisation from the seed; or null. It counts by its bytes, not by its path.
    schedule     cosine_step, cosine_epoch: half cosine to zero, per step or per epoch; wrn_step: x0.2 at 30, 60 and 80% of the epochs;
                 constant.
    m            samples that share one perturbation (m-sharpness); null means the whole batch, or what `perturbation` says.
    micro_batch  samples of one forward pass, or null for all at once: gradients are accumulated, which saves memory. BatchNorm normalises
                 each micro-batch by its own statistics; a model without it trains the same, up to rounding.
    replicas     processes, with one device each, that share every batch; null: as many as torchrun or srun started.
    perturbation with several replicas and m=null: synchronised: one perturbation for the whole batch, from the gradient of all replicas;
                 replica: each replica perturbs with the gradient of its own share (m = batch_size / replicas).
    batchnorm    replica: each replica normalises its share by its own statistics; sync: by those of the whole batch (SyncBN; CUDA only).
    precision    fp32 (TF32 off) | tf32 | bf16 (autocast, fp32 weights) | fp16 (the same, with loss scaling).
    compile      torch.compile for the training passes: none | default | max-autotune-no-cudagraphs. Its results differ from eager ones
                 in the last digits, so it is part of a run's identity.
    cuda_graph   launch each step as one CUDA graph; for small models, whose many kernels the host launches too slowly. One process only.
                 Part of a run's identity, as long as nobody has seen on a GPU that it changes no digit.
    eval_interval  epochs between evaluations of the test and validation sets; the last five epochs always. 0: the test set is never
                 evaluated while training, and the validation set after the last five epochs alone.
    checkpoint_interval  epochs between checkpoints; the last epoch is always saved.
    checkpoint_steps     also one every so many steps within an epoch, or null; a signal saves at once in any case.
    keep_checkpoints     epochs whose weights are kept beside the last checkpoint, for example [1,5,10].
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    init_from: str | None = None
    epochs: int = _number(200, low=1)
    batch_size: int = _number(256, low=1)
    m: int | None = _number(None, low=1)
    micro_batch: int | None = _number(None, low=1)
    replicas: int | None = _number(None, low=1)
    perturbation: str = _one_of("synchronised", ("synchronised", "replica"))
    batchnorm: str = _one_of("replica", ("replica", "sync"))
    drop_last: bool = False
    schedule: str = _one_of("cosine_step", ("cosine_step", "cosine_epoch", "wrn_step", "constant"))
    warmup_epochs: float = 0.0
    label_smoothing: float = _number(0.0, low=0, high=1)
    loss: str = _one_of("cross_entropy", ("cross_entropy", "mse"))
    precision: str = _one_of("fp32", PRECISIONS)
    compile: str = _one_of("none", ("none", "default", "max-autotune-no-cudagraphs"))
    cuda_graph: bool = False
    seed: int = _number(0, low=0)
    runs_dir: str = "runs"
    run_dir: str | None = None
    force: bool = False
    device: str = "auto"
    threads: int | None = _number(None, low=1, high=4096)
    eval_batch_size: int = _number(500, low=1)
    eval_interval: int = _number(1, low=0)
    checkpoint_interval: int = _number(10, low=1)
    checkpoint_steps: int | None = _number(None, low=1)
    keep_checkpoints: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in (("m", self.m), ("micro_batch", self.micro_batch)):
            if value is not None and value > self.batch_size:
                raise ConfigError(f"{key}={value}: must not exceed batch_size={self.batch_size}.")
        self._check_replicas()
        _within("warmup_epochs", self.warmup_epochs, low=0, high=self.epochs)
        if not all(1 <= epoch <= self.epochs for epoch in self.keep_checkpoints):
            raise ConfigError(f"keep_checkpoints={self.keep_checkpoints}: must hold epochs from 1 to epochs={self.epochs}.")

    def _check_replicas(self) -> None:
        replicas = self.replicas or 1
        if self.batch_size % replicas:
            raise ConfigError(f"replicas={replicas}: must divide batch_size={self.batch_size}.")
        if self.precision == "fp16" and replicas > 1:
            raise ConfigError(f"precision=fp16 with replicas={replicas}: the loss scale belongs to one process; use precision=bf16.")
        if self.cuda_graph and replicas > 1:
            raise ConfigError(f"cuda_graph=true with replicas={replicas}: the host takes part in what processes exchange; allowed: false.")
        if self.m is not None and replicas > 1 and self.batch_size // replicas % self.m:
            raise ConfigError(
                f"m={self.m}: must divide each replica's share of a batch, batch_size / replicas = {self.batch_size // replicas}, so that "
                "the groups are the same on any number of replicas."
            )
        if self.batchnorm == "sync" and (self.m is not None or self.perturbation == "replica" or self.micro_batch is not None):
            raise ConfigError(
                "batchnorm=sync: normalises a whole batch at once, and needs m=null, micro_batch=null and perturbation=synchronised."
            )

    def evaluated_after(self, epoch: int) -> tuple[str, ...]:
        """Which of "test" and "val" are evaluated after this epoch (from 1)."""
        if epoch > self.epochs - 5:
            return ("test", "val") if self.eval_interval else ("val",)
        return ("test", "val") if self.eval_interval and epoch % self.eval_interval == 0 else ()

    @property
    def group_size(self) -> int | None:
        """Samples that share one perturbation; None: the whole batch, however many replicas compute it."""
        apart = self.perturbation == "replica" and (self.replicas or 1) > 1
        return self.batch_size // (self.replicas or 1) if self.m is None and apart else self.m

    @property
    def depends_on_replicas(self) -> bool:
        """Whether another number of replicas would be another computation, by more than rounding and dropout's draws: without `m`, a
        replica's share is what is normalised together, or perturbed together."""
        return (self.replicas or 1) > 1 and self.m is None and self.batchnorm == "replica"


# -------------------------------------------------------------------------------------------------- measuring and tables


@dataclass(frozen=True)
class NotionSpec:
    """One row of the table of notions.

    module:  imported only when it is measured; what it holds stands at `sam.sharpness.notions.Notion`.
    keys:    keys of `SharpnessConfig` that can change its numbers; a stored row is reused as long as they are the same.
    """

    module: str
    keys: tuple[str, ...]


NOTIONS: dict[str, NotionSpec] = {
    "ascent": NotionSpec("sam.sharpness.ascent", ("rho", "m", "batchnorm", "ascent")),
    "gap": NotionSpec("sam.sharpness.gap", ("gap",)),
    "n_step": NotionSpec("sam.sharpness.n_step", ("rho", "n_step")),
    "average": NotionSpec("sam.sharpness.average", ("rho", "seed", "average")),
    "maximum": NotionSpec("sam.sharpness.maximum", ("rho", "seed", "maximum")),
    "adaptive": NotionSpec("sam.sharpness.adaptive", ("seed", "adaptive")),
    "keskar": NotionSpec("sam.sharpness.keskar", ("seed", "keskar")),
    "hessian": NotionSpec("sam.sharpness.hessian", ("rho", "seed", "hessian")),
    "spectrum": NotionSpec("sam.sharpness.spectrum", ("seed", "spectrum")),
    "landscape": NotionSpec("sam.sharpness.landscape", ("rho", "seed", "landscape")),
    "corruption": NotionSpec("sam.sharpness.corruption", ("corruption",)),
}
MEASURED_SPLITS = ("test", "val")
LANDSCAPE_LINES = ("gradient", "n_step", "top_eigenvector", "random")


@dataclass(frozen=True)
class AscentConfig(_Schema, prefix="sharpness.ascent."):
    """L^Asc. subset: images for the gradient and the losses, or null for all."""

    subset: int | None = _number(None, low=1)


@dataclass(frozen=True)
class GapConfig(_Schema, prefix="sharpness.gap."):
    """bins: equal-width confidence bins of the expected calibration error; splits: the sets measured beside the training set, test and
    val (where there is one). With [val], as for tuning, no test image is looked at."""

    bins: int = _number(15, low=1, high=100_000)
    splits: list[str] = _one_of(list(MEASURED_SPLITS), MEASURED_SPLITS, late=True)


@dataclass(frozen=True)
class NStepConfig(_Schema, prefix="sharpness.n_step."):
    """N-step sharpness (Tiwary & Aananth 2024, Eq. 6). steps: the N; rules: step rules as in training; subset: images, or null for all."""

    steps: list[int] = _number([3], low=1)
    rules: list[str] = _one_of(["split"], STEP_RULES)
    subset: int | None = _number(None, low=1)


@dataclass(frozen=True)
class AverageConfig(_Schema, prefix="sharpness.average."):
    """L^Avg. draws: antithetic pairs of random directions."""

    draws: int = _number(8, low=2)
    subset: int | None = _number(None, low=1)


@dataclass(frozen=True)
class MaximumConfig(_Schema, prefix="sharpness.maximum."):
    """L^Max by projected gradient ascent. steps per start; restarts: random starts beside the one at w; momentum: the share of the last
    move in the next (Auto-PGD writes 0.25 as alpha = 0.75); draws: random directions, and ascent_steps: N of the N-step ascent, among
    the points compared; subset: images."""

    steps: int = _number(20, low=1)
    restarts: int = _number(1, low=0)
    momentum: float = _number(0.25, low=0, high=0.9)
    draws: int = _number(2, low=0)
    ascent_steps: int = _number(3, low=1)
    subset: int | None = _number(1024, low=1)


@dataclass(frozen=True)
class AdaptiveConfig(_Schema, prefix="sharpness.adaptive."):
    """Adaptive sharpness (Kwon et al. 2021; Andriushchenko et al. 2023): radii are relative to |w|.

    worst_l2, worst_linf      radii of the worst case, by norm; average_l2, average_linf: of the average case. Any list may be empty.
    logits                    plain, and normalized, or one.
    steps, restarts, momentum of the worst case's ascent, as in `maximum`; draws: antithetic pairs of the average case; subset: images.
    """

    worst_l2: list[float] = _radii(0.5)
    worst_linf: list[float] = _radii(0.001)
    average_l2: list[float] = _radii(0.1)
    average_linf: list[float] = _radii(0.2)
    logits: list[str] = _one_of(["plain", "normalized"], ("plain", "normalized"))
    steps: int = _number(20, low=1)
    restarts: int = _number(1, low=0)
    momentum: float = _number(0.25, low=0, high=0.9)
    draws: int = _number(8, low=2)
    subset: int | None = _number(512, low=1)


@dataclass(frozen=True)
class KeskarConfig(_Schema, prefix="sharpness.keskar."):
    """Keskar et al. 2017: the largest rise within a box of epsilon (|w_i| + 1).

    iterations  of L-BFGS-B, and steps of each sign ascent (one from w, `restarts` from random points, with `momentum` as in `maximum`).
    full_space  largest number of parameters for which L-BFGS-B runs: it takes some 60 float64 copies of them.
    subset      images.
    """

    epsilon: list[float] = _radii(1e-3, 5e-4)
    iterations: int = _number(10, low=1)
    restarts: int = _number(1, low=0)
    momentum: float = _number(0.25, low=0, high=0.9)
    full_space: int = _number(500_000, low=0)
    subset: int | None = _number(512, low=1)


@dataclass(frozen=True)
class HessianConfig(_Schema, prefix="sharpness.hessian."):
    """Top eigenvalues (Lanczos with thick restarts) and trace (Hutchinson beside them) of the Hessian of L.

    eigenvalues  how many; steps: Hessian-vector products of Lanczos at most, fewer once their residuals are below tolerance * (the
                 largest |eigenvalue|).
    basis        vectors of all weights that Lanczos keeps at once: its memory.
    probes       of the trace; subset: images, or null for all.
    """

    eigenvalues: int = _number(5, low=1)
    steps: int = _number(60, low=1)
    tolerance: float = _number(1e-4, above=0)
    basis: int = 24
    probes: int = _number(30, low=3)
    subset: int | None = _number(1024, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis < self.eigenvalues + 4:
            raise ConfigError(f"sharpness.hessian.basis={self.basis}: must be at least sharpness.hessian.eigenvalues + 4.")


@dataclass(frozen=True)
class SpectrumConfig(_Schema, prefix="sharpness.spectrum."):
    """Spectral density by stochastic Lanczos quadrature. probes: random starts; steps of each (and vectors kept at once); points of the
    curve; width: standard deviation of its smoothing, as a share of the range of the eigenvalues; subset: images, or null for all."""

    probes: int = _number(2, low=1)
    steps: int = _number(40, low=2)
    points: int = _number(200, low=2, high=100_000)
    width: float = _number(0.01, above=0, high=1)
    subset: int | None = _number(1024, low=1)


@dataclass(frozen=True)
class LandscapeConfig(_Schema, prefix="sharpness.landscape."):
    """Loss along lines and over planes through w.

    lines, planes  gradient | n_step | top_eigenvector | random; random | eigenvectors | xsam.
    span, reach    half-widths: of a filter-normalised axis, in units of the filters' norms; of a Euclidean one, in units of rho.
    points, grid   of a line, and a side of a plane; subset: images.
    ascent_steps   N of the line along eps_N.
    rho_max, alphas  XSAM's search, as in training: its radius (null: 2 rho) and its candidates.
    lanczos_steps  Hessian-vector products spent on the eigenvectors, at most.
    """

    lines: list[str] = _one_of(list(LANDSCAPE_LINES), LANDSCAPE_LINES)
    planes: list[str] = _one_of(["random", "xsam"], ("random", "eigenvectors", "xsam"))
    span: float = _number(1.0, above=0)
    reach: float = _number(4.0, above=0)
    points: int = _number(21, low=3, high=10_000)
    grid: int = _number(11, low=3, high=1000)
    ascent_steps: int = _number(3, low=1)
    rho_max: float | None = _number(None, above=0)
    alphas: list[float] = _number(list(DEFAULT_ALPHAS))
    lanczos_steps: int = _number(40, low=2)
    subset: int | None = _number(512, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alphas:
            raise ConfigError("sharpness.landscape.alphas=[]: must hold at least one candidate alpha.")


@dataclass(frozen=True)
class CorruptionConfig:
    """Accuracy on corrupted test images. path: a folder of CIFAR-C files (labels.npy and one .npy a corruption), or null: not measured."""

    path: str | None = None


@dataclass(frozen=True)
class SharpnessConfig(_Schema, prefix="sharpness."):
    """How a checkpoint is measured.

    notions      which (see NOTIONS), or [all].
    rho          list of radii; Eq. 4 of Tiwary & Aananth 2024 uses 0.05 for every method.
    m            size of the disjoint batches of the batch-wise measure, of train-mode BatchNorm's batches, in the order of the set.
    batchnorm    eval (running statistics), train (each batch normalised by its own), recalibrated (running statistics replaced, once at
                 w, by their averages over the training set's batches of m): a list; L^Asc, losses and accuracies are measured with each.
    batch_size   images per forward pass in eval mode; changes memory and speed only.
    seed         of the random draws; two evaluations with one seed give the same numbers.
    """

    notions: list[str] = _one_of(["ascent", "gap"], (*NOTIONS, "all"))
    rho: list[float] = _radii(0.05)
    m: int = _number(128, low=2)
    batchnorm: list[str] = _one_of(["eval", "train"], ("eval", "train", "recalibrated"))
    batch_size: int = _number(500, low=1)
    seed: int = _number(0, low=0)
    ascent: AscentConfig = field(default_factory=AscentConfig, metadata=LATE)
    gap: GapConfig = field(default_factory=GapConfig)
    n_step: NStepConfig = field(default_factory=NStepConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    maximum: MaximumConfig = field(default_factory=MaximumConfig)
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    keskar: KeskarConfig = field(default_factory=KeskarConfig)
    hessian: HessianConfig = field(default_factory=HessianConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.notions:
            raise ConfigError(f"sharpness.notions=[]: must name at least one of {', '.join(NOTIONS)}, or all.")
        if not self.rho:
            raise ConfigError("sharpness.rho=[]: must hold at least one radius.")
        if "eval" not in self.batchnorm:
            raise ConfigError(f"sharpness.batchnorm={self.batchnorm}: must hold eval, the mode in which gap and L(w) are reported.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The notions to measure, each once, in the order of the table: a cheap one first, and those that share work side by side."""
        return tuple(name for name in NOTIONS if name in self.notions or "all" in self.notions)


@dataclass  # not frozen: OmegaConf would make the entries of `tables` read-only while composing
class ColumnConfig:
    """One column: `measure` times `scale`, printed with `digits` decimals. `each_rho` repeats it for every measured radius.

    `measure` is a key of a row's measures; "{rho}" in it and in `header` stands for the radius. `key` is what `published` refers to.
    "subset={subset}" at the end of `measure` stands for the subset that it was taken on, whichever it was, or for the whole set; "{subset}"
    in `header` for its size, or "all". In `header` "{m}" stands for the batch size of the batch-wise measures.
    `optional`: left out where no run was measured that way.
    `compare` adds the paired difference from the baseline row; `margin`, in the column's unit, is the difference that is still taken for
    none where a row asks for a test of equivalence.
    """

    key: str = ""
    header: str = ""
    measure: str = ""
    scale: float = 1.0
    digits: int = 2
    each_rho: bool = False
    compare: bool = False
    margin: float | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _within(f"columns: {self.key}.margin", self.margin, above=0)
        _within(f"columns: {self.key}.scale", self.scale)
        _within(f"columns: {self.key}.digits", self.digits, low=0, high=20)


@dataclass  # not frozen: OmegaConf would make the entries of `tables` read-only while composing
class RowConfig:
    """One row: runs whose optimizer settings equal `match`; `published` maps a column key to ids of paper_values.csv.

    match        may name a run's other settings too, dotted where nested ({method: sgd, epochs: 80, dataset.train_size: 4000}): such a
                 row takes the runs that differ from the block's others in these alone.
    equivalence  the claim about this row is "no difference from the baseline": test that, in every column that has a margin.
    """

    label: str = ""
    match: dict[str, Any] = field(default_factory=dict)
    published: dict[str, list[str]] = field(default_factory=dict)
    equivalence: bool = False


@dataclass  # not frozen: OmegaConf would make the entries of `tables` read-only while composing
class CorrelationConfig:
    """Rank correlation of two columns, named by their keys. A column with `each_rho` makes one for every measured radius."""

    x: str = ""
    y: str = ""


@dataclass  # not frozen: OmegaConf would make the entries of `tables` read-only while composing
class TableConfig(_Schema, prefix="tables: "):
    """A table is data: rows, columns, the baseline row, published values, and what must be said under it.

    primary      key of the column whose differences are the table's test, named before the runs: Holm-corrected over all rows of a block.
                 Differences in other columns are exploratory. Null: all are.
    alpha        level of that test after Holm, and of the tests of equivalence; power: of "could have shown".
    optional     the table is left out where none of its optional columns was measured.
    shows, shows_not  what a reader may and may not conclude from the table; each goes on after "Shows:" and "Does not show:".
    """

    title: str = ""
    source: str = ""
    row_header: str = ""
    rows: list[RowConfig] = field(default_factory=list)
    columns: list[ColumnConfig] = field(default_factory=list)
    baseline: str | None = None
    setup_columns: bool = False
    notes: list[str] = field(default_factory=list)
    primary: str | None = None
    alpha: float = _number(0.05, above=0, high=0.5)
    power: float = _number(0.8, low=0.5, high=0.999)
    correlations: list[CorrelationConfig] = field(default_factory=list)
    optional: bool = False
    shows: str = ""
    shows_not: str = ""


@dataclass(frozen=True)
class EvaluateConfig(_Schema):
    """Measure every finished run below `runs_dir` and print the tables, or measure one checkpoint of anybody's.

    checkpoint   a file of weights (state_dict or safetensors) of `model`, to be measured on `dataset`; `mean`, `std`: short for
                 dataset.mean and dataset.std, the normalisation of the images that it was trained with.
    checkpoint_key  where the weights lie in the file (state_dict_ema, say), or null: the first that fit, averages last.
    out          folder for the tables (`runs_dir`/tables), or for the checkpoint's rows (beside it).
    seeds        only runs with these seeds, or null for all.
    processes    checkpoints measured at a time, each in a process of its own.
    part, parts  measure only the part-th (from 0) of `parts` equal shares of the runs, and make no tables.
    kept         measure the runs' kept checkpoints (`keep_checkpoints`) too, and write what was found along the epochs as kept.csv.
    tracking     where the measures of runs that were not tracked themselves go; a tracked run is joined where it was tracked.
    augmentation is there for `dataset=digits`, which sets it; nothing is ever measured on augmented images.
    """

    runs_dir: str = "runs"
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    model: ModelConfig | None = None
    dataset: DatasetConfig | None = None
    augmentation: AugmentationConfig | None = None
    mean: list[float] | None = _number(None)
    std: list[float] | None = _number(None, above=0)
    out: str | None = None
    sharpness: SharpnessConfig = field(default_factory=SharpnessConfig)
    tables: dict[str, TableConfig] = field(default_factory=dict)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    data_path: str | None = None
    data_root: str | None = None
    seeds: list[int] | None = None
    processes: int = _number(1, low=1)
    part: int | None = None
    parts: int = _number(1, low=1, high=10_000)
    kept: bool = False
    device: str = "auto"
    threads: int | None = _number(None, low=1, high=4096)
    force: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.tables:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
                raise ConfigError(f"tables.{name}: names its files, and must hold 1 to 100 of A-Z a-z 0-9 _ - alone.")
        if self.checkpoint is None:
            given = [key for key in ("model", "dataset", "mean", "std", "checkpoint_key") if getattr(self, key) is not None]
            if given:
                raise ConfigError(f"{given[0]}=...: belongs to checkpoint=FILE; runs below runs_dir bring their own.")
        else:
            missing = [key for key in ("model", "dataset") if getattr(self, key) is None]
            if missing:
                raise ConfigError(f"checkpoint={self.checkpoint}: needs {missing[0]}=... too, as in: model=resnet18 dataset=cifar10.")
            for_runs = ("runs_dir", "data_path", "data_root", "seeds", "processes", "part", "parts", "kept")
            changed = [key for key in for_runs if getattr(self, key) != getattr(type(self), key)]  # its default
            if changed:
                raise ConfigError(
                    f"checkpoint={self.checkpoint}: is one file, and {changed[0]}=... is for the runs below runs_dir; leave it out."
                )
            for key in ("mean", "std"):
                if getattr(self, key) is not None and getattr(self.dataset, key) is not None:
                    raise ConfigError(f"{key}={getattr(self, key)}: is short for dataset.{key}, which is given too; leave one of them out.")
        if self.part is None and self.parts > 1:
            raise ConfigError(
                f"parts={self.parts}: needs part=K too, from 0 to {self.parts - 1}; all of them: -m 'part=range({self.parts})'."
            )
        _within("part", self.part, low=0, high=self.parts - 1)


# ------------------------------------------------------------------------------------------------------- plain dictionaries


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain dictionaries and lists."""
    return dataclasses.asdict(config)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def counted(number: float, what: str) -> str:
    """ "1 epoch", "0.5 epochs", "45,900 forwards"."""
    return f"{number:,.12g} {what}{'' if number == 1 else 's'}"


def row_settings(config: Any) -> dict[str, Any]:
    """`to_dict` for the key of a measured row: without the `LATE` keys that are at their default, so that older rows are still found.

    Keys without the mark always count, at their default too. The default of a marked key must never change.
    """
    values, defaults = to_dict(config), type(config)()
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.metadata.get("late") and value == getattr(defaults, f.name):
            del values[f.name]
        elif dataclasses.is_dataclass(value):
            values[f.name] = row_settings(value)
    return values


def from_dict(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build (and check) a schema from nested dictionaries; missing keys take their defaults, unknown keys raise `ConfigError`."""
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or cls.__name__}={str(values)[:100]}: must hold keys and values.")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{prefix}{unknown[0]}: unknown key; known here: {', '.join(hints)}.")
    return cls(**{key: _build(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


def _build(hint: Any, value: Any, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _build(next(a for a in args if a is not type(None)), value, key)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, f"{key}.")
    if origin is list and isinstance(value, (list, tuple)):
        return [_build(args[0], item, key) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return {k: _build(args[1], item, f"{key}.{k}") for k, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is not Any and type(value) is not hint:
        raise ConfigError(f"{key}={value!r}: must be {_KINDS.get(hint, 'a list' if origin is list else 'a mapping')}.")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_setting(name: str, value: Any, label: str) -> None:
    """Refuse a value that a setting of TrainConfig, by its dotted name, cannot have. Raises ConfigError that names `label`."""
    cls: Any = TrainConfig
    *sections, key = name.split(".")
    for section in sections:
        cls = typing.get_type_hints(cls)[section]
    built = _build(typing.get_type_hints(cls)[key], value, label)
    if check := cls.__dataclass_fields__[key].metadata.get("check"):
        for item in built if isinstance(built, list) else [built]:
            check(label, item)
