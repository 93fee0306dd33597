"""What a training run is: its keys, beside those of optimizer, model, dataset and augmentation, and the table of schedules."""

from dataclasses import dataclass

from data.settings import AugmentationConfig, DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError, Settings, check_number, key
from sam.core.settings import LOSSES
from sam.optimizers.settings import OptimizerConfig
from sam.registry import Registry

SCHEDULES = Registry("schedule")
for name in ("cosine_step", "cosine_epoch", "wrn_step", "constant"):
    SCHEDULES.add(name, f"sam.training.schedule:{name}")

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

# How a run is kept and watched: cannot change its result.
KEPT_AND_WATCHED = (
    *("runs_dir", "run_dir", "force", "tracking"),
    *("eval_batch_size", "eval_interval", "checkpoint_interval", "checkpoint_steps", "keep_checkpoints"),
)


@dataclass(frozen=True)
class ProtocolConfig(Settings, prefix="protocol."):
    """A protocol's values live in the keys that it sets."""

    name: str = key("tiwary2024", "what it is called")
    notes: list[str] = key([], "what must be said under every table made with it")


@dataclass(frozen=True)
class TrackingConfig(Settings, prefix="tracking."):
    """Weights & Biases as a mirror of the record."""

    backend: str = key("none", "where runs are mirrored", among=("none", "wandb"))
    mode: str = key("auto", "auto: WANDB_MODE, else online with credentials", among=("auto", "online", "offline", "disabled"))
    project: str = key("sam", "in W&B")
    entity: str | None = key(None, "user or team in W&B; null: the default one")
    group: str | None = key(None, "of the runs in W&B; null: data set, model, protocol, epochs and lr")
    tags: list[str] = key([], "of the runs in W&B")
    notes: str | None = key(None, "on the runs in W&B")
    init_timeout: float = key(60.0, "seconds to wait for the server at the start, before the run is logged offline", above=0)
    finish_timeout: float = key(10.0, "seconds to wait at the end, before the rest is left to `wandb sync`", above=0)

    def check_names(self) -> None:
        """ConfigError for names that W&B refuses. Not part of making one: records of runs that it refused are read."""
        for name, texts, most in (("group", [self.group], 128), ("tags", self.tags, 64), ("notes", [self.notes], 4000)):
            for text in texts:
                if text is not None and not (text.strip() and len(text) <= most and text.isprintable()):
                    raise ConfigError(f"tracking.{name}={text}: must be one line of 1 to {most:,} characters.")
        for name, value in (("project", self.project), ("entity", self.entity or "x")):
            if not 0 < len(value.strip()) == len(value) <= 128 or set(value) & set("/\\#?%:") or not value.isprintable():
                team = f" a team goes into tracking.entity={value.partition('/')[0]}" if name == "project" and "/" in value else ""
                raise ConfigError(f"tracking.{name}={value}: must be 1 to 128 characters without any of / \\ # ? % :{team and ';' + team}.")


@dataclass(frozen=True)
class TrainConfig(Settings):
    """One training run."""

    optimizer: OptimizerConfig = key(OptimizerConfig.of, "the method")
    model: ModelConfig = key(ModelConfig.of, "the network")
    dataset: DatasetConfig = key(DatasetConfig.of, "the images")
    augmentation: AugmentationConfig = key(AugmentationConfig, "of training images")
    protocol: ProtocolConfig = key(ProtocolConfig, "what the papers disagree on")
    tracking: TrackingConfig = key(TrackingConfig, "Weights & Biases")
    init_from: str | None = key(
        None, "a file of weights to start from, BatchNorm's statistics included; it counts by its bytes, not by path"
    )
    epochs: int = key(200, "passes over the training images", low=1)
    batch_size: int = key(256, "images a step", low=1)
    m: int | None = key(None, "samples that share one perturbation (m-sharpness); null: the whole batch, or what perturbation says", low=1)
    micro_batch: int | None = key(None, "samples a forward pass; null: all. Gradients add up; BatchNorm normalises each by itself", low=1)
    replicas: int | None = key(None, "processes, a device each, that share every batch; null: as many as torchrun or srun started", low=1)
    perturbation: str = key(
        "synchronised", "with m=null: by the gradient of all replicas, or each by its own share's", among=("synchronised", "replica")
    )
    batchnorm: str = key("replica", "whose statistics normalise: a replica's share's, the batch's (CUDA)", among=("replica", "sync"))
    drop_last: bool = key(False, "leave out an epoch's last batch if it is smaller")
    schedule: str = key("cosine_step", "of the learning rate, after the warm-up (sam.training.schedule)", among=SCHEDULES)
    warmup_epochs: float = key(0.0, "of linear warm-up before it, at most epochs", low=0)
    loss: str = key("cross_entropy", "that is trained with, and measured: cross_entropy | mse (of one-hot labels)", among=LOSSES)
    label_smoothing: float = key(0.0, "of the training loss", low=0, high=1)
    precision: str = key("fp32", "fp32 (TF32 off) | tf32 | bf16 (autocast, fp32 weights) | fp16 (with loss scaling)", among=PRECISIONS)
    compile: str = key("none", "torch.compile for training; changes last digits", among=("none", "default", "max-autotune-no-cudagraphs"))
    cuda_graph: bool = key(False, "launch each step as one CUDA graph: for small models, one process only")
    seed: int = key(0, "of initialisation, order, augmentation and the method's draws, each from a stream of its own", low=0)
    runs_dir: str = key("runs", "folder of the runs' folders")
    run_dir: str | None = key(None, "this run's folder; null: named by its configuration, below runs_dir")
    force: bool = key(False, "redo what is finished")
    device: str = key("auto", "auto | cpu | cuda | cuda:N")
    threads: int | None = key(None, "of the CPU; null: torch's choice", low=1, high=4096)
    eval_batch_size: int = key(500, "images a forward pass of an evaluation", low=1)
    eval_interval: int = key(1, "epochs between evaluations; the last five always. 0: validation set only, after the last five", low=0)
    checkpoint_interval: int = key(10, "epochs between checkpoints; the last epoch is always saved", low=1)
    checkpoint_steps: int | None = key(None, "one every so many steps, too; a signal saves at once in any case", low=1)
    keep_checkpoints: list[int] = key([], "epochs whose weights are kept beside the last checkpoint, for example [1,5,10]")

    def relate(self) -> None:
        for name, value in (("m", self.m), ("micro_batch", self.micro_batch)):
            if value is not None and value > self.batch_size:
                raise ConfigError(f"{name}={value}: must not exceed batch_size={self.batch_size}.")
        replicas = self.replicas or 1
        if self.batch_size % replicas:
            raise ConfigError(f"replicas={replicas}: must divide batch_size={self.batch_size}.")
        if self.precision == "fp16" and replicas > 1:
            raise ConfigError(f"precision=fp16 with replicas={replicas}: the loss scale belongs to one process; use precision=bf16.")
        if self.cuda_graph and replicas > 1:
            raise ConfigError(f"cuda_graph=true with replicas={replicas}: the host takes part in what processes exchange; allowed: false.")
        if self.m is not None and replicas > 1 and self.batch_size // replicas % self.m:
            share = f"each replica's share of a batch, batch_size / replicas = {self.batch_size // replicas}"
            raise ConfigError(f"m={self.m}: must divide {share}, so that the groups are the same on any number of replicas.")
        if self.batchnorm == "sync" and (self.m is not None or self.perturbation == "replica" or self.micro_batch is not None):
            needs = "m=null, micro_batch=null and perturbation=synchronised"
            raise ConfigError(f"batchnorm=sync: normalises a whole batch at once, and needs {needs}.")
        if self.cuda_graph and self.optimizer.base != "sgd":
            raise ConfigError(f"cuda_graph=true with optimizer.base={self.optimizer.base}: counts its steps on the host; allowed: false.")
        check_number("warmup_epochs", self.warmup_epochs, low=0, high=self.epochs)
        if not all(1 <= epoch <= self.epochs for epoch in self.keep_checkpoints):
            raise ConfigError(f"keep_checkpoints={self.keep_checkpoints}: must hold epochs from 1 to epochs={self.epochs}.")

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
