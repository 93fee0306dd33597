"""The training loop. It has no branch per method: `optimizer.step(closures)` runs all passes of a step."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import models
from data.augment import Augment
from data.image_data import ImageData, epoch_batches
from sam.config import ConfigError
from sam.core import seeds
from sam.core.criteria import CRITERIA
from sam.core.device import autocast, loss_scale
from sam.core.replicas import ALONE, ReplicaError, Replicas
from sam.optimizers.base import Method
from sam.optimizers.build import build
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.dataset_loss import DatasetLoss, Value
from sam.training import weights
from sam.training.graphs import compiled, steps_for
from sam.training.objective import Objective
from sam.training.rows import Row
from sam.training.schedule import learning_rate

OWN = ("sums", "objective", "random")  # parts of an epoch's state that are each replica's own
DIAGNOSE_EVERY = 10  # steps between the costlier diagnostics (cosines, norms of the weights)


@dataclass
class _Epoch:
    """State of the current epoch: steps done, random streams, running sums."""

    draws: torch.Generator
    step: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    sums: dict[str, tuple[Tensor, int | Tensor]] = field(default_factory=dict)


@dataclass
class Trainer:
    """A model in training. The order of images, augmentation and dropout come from streams of (seed, epoch). Several `replicas` draw the
    same batches and compute on their parts: weights and running statistics are the same; sums, dropout and times are their own."""

    config: TrainConfig
    data: ImageData
    device: torch.device
    replicas: Replicas = ALONE
    model: nn.Module = field(init=False)
    optimizer: Method = field(init=False)
    notes: list[str] = field(default_factory=list, init=False)  # on the weights that it started from
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    _under_way: _Epoch | None = field(default=None, init=False)
    _resumed_random: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        config, size = self.config, len(self.data.train_labels)
        self.steps_per_epoch = size // config.batch_size if config.drop_last else math.ceil(size / config.batch_size)
        self._devices = [self.device] if self.device.type == "cuda" else []  # with random streams besides the host's
        self.data = self.data.to(self.device)
        self.model = build_model(config, self.data).to(self.device)
        if config.init_from is not None:  # not in `build_model`: a trained run is measured wherever that file went
            path = Path(config.init_from).expanduser()
            self.notes = weights.load(self.model, path, weights.read(path, "init_from"), "init_from")
        if config.batchnorm == "sync" and self.replicas.size > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        scaling = loss_scale(config.precision, self.device)
        self.optimizer = build(
            self.model,
            config.optimizer,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.steps_per_epoch * config.epochs,
            generator=seeds.generator(self.device, config.seed, "method"),
            replicas=self.replicas,
            share_groups=config.group_size is not None,
            scaling=scaling,
        )
        self.objective = Objective(
            compiled(self.model, config.compile, self.device),
            autocast(config.precision, self.device),
            config.label_smoothing,
            scaling,
            loss=config.loss,
            micro_batch=config.micro_batch,
            group_size=config.group_size,
            groups=math.ceil(config.batch_size / (config.group_size or config.batch_size)),
            replicas=self.replicas,
        )
        self.augment = Augment(**to_dict(config.augmentation))
        self._refuse_single_images()
        self._take_step = steps_for(config, self.model, self.optimizer, self.objective)

    def _refuse_single_images(self) -> None:
        """ConfigError if a batch, a group, a replica's share or a micro-batch may be one image that BatchNorm cannot normalise."""
        c, images, replicas = self.config, self.data.train_images, self.replicas.size
        cut = lambda sizes, most: {n for size in sizes for n in (min(size, most or size), size % (most or size)) if n}
        batches = {c.batch_size, 0 if c.drop_last else len(images) % c.batch_size} - {0}
        shares = batches if c.group_size else {n for size in batches for n in (size // replicas, -(-size // replicas)) if n}
        together = replicas > 1 and c.batchnorm == "sync"
        if together or 1 not in cut(cut(shares, c.group_size), c.micro_batch):
            return
        try:
            with torch.no_grad(), torch.random.fork_rng(self._devices):
                buffers, one = {k: b.clone() for k, b in self.model.named_buffers()}, torch.zeros(1, *images.shape[1:], device=self.device)
                torch.func.functional_call(self.model.train(), buffers, one)
        except ValueError as error:
            sizes = f"batch_size={c.batch_size}, m={c.m}, micro_batch={c.micro_batch}, drop_last={c.drop_last}"
            raise ConfigError(f"{sizes}: leave one image by itself, which BatchNorm cannot normalise here; choose others.") from error

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.rows)

    @property
    def step(self) -> int:
        """Steps completed within the present epoch."""
        return self._under_way.step if self._under_way else 0

    @property
    def seeks_scale(self) -> bool:
        """Whether a smaller loss scale may still make the gradients finite: below 1 it would not be the scale that overflows."""
        scaling = self.optimizer.scaling
        return scaling is not None and scaling.value.item() >= 1

    def run_epoch(
        self,
        advance: Callable[[float], None],
        after_step: Callable[[], None] = lambda: None,
        evaluating: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Row:
        """Train one epoch (or what is left of it), evaluate what is due, and return its row of metrics, also kept in `rows`. advance: gets
        the passes of each step. after_step: may save `state_dict`, or raise to stop. evaluating: entered around the evaluation."""
        seed = self.config.seed
        if self._under_way is None:
            self._under_way = _Epoch(seeds.generator(self.device, seed, "augment", self.epoch))
            self.objective.reset()
        with torch.random.fork_rng(self._devices):
            own = [self.replicas.rank] if self.replicas.rank else []  # no two replicas drop the same
            torch.manual_seed(seeds.derive(seed, "dropout", self.epoch, *own))
            seeds.restore(self._resumed_random, self._devices)  # where a checkpoint left them, once
            self._resumed_random = []
            row = self._train(self._under_way, advance, after_step)
        row["train_seconds"] = self._under_way.seconds
        began = time.perf_counter()
        self._assert_equal_weights()
        with evaluating():
            row |= self._evaluate()
        self.seconds += self._under_way.seconds + time.perf_counter() - began
        row["seconds"] = self.seconds
        self.rows.append(row)
        self._under_way = None
        return row

    def _train(self, epoch: _Epoch, advance: Callable[[float], None], after_step: Callable[[], None]) -> Row:
        config, data = self.config, self.data
        shuffle = seeds.generator("cpu", config.seed, "order", self.epoch)
        batches = epoch_batches(len(data.train_labels), config.batch_size, shuffle, config.drop_last)
        order = [indices.to(self.device) for indices in batches]  # now: a copy to a GPU waits for the work queued before it
        passes = config.optimizer.passes
        scaled = self.optimizer.scaling is not None
        self.model.train()
        for chosen in order[epoch.step :]:
            began = time.perf_counter()
            epoch.rate = learning_rate(config, self.epoch * self.steps_per_epoch + epoch.step, self.steps_per_epoch)
            images = self.augment(data.train_images[chosen], epoch.draws, data.mean, data.std)
            self._take_step(images, data.train_labels[chosen], epoch.rate, diagnose=epoch.step % DIAGNOSE_EVERY == 0)
            bad = self.optimizer.bad if scaled else None  # an overflow that only lowers the scale is left out of the means
            self.objective.settle(bad)
            for name, value in self.optimizer.stats.items():
                total, count = epoch.sums.get(name, (torch.zeros_like(value), 0))
                kept, one = (value, 1) if bad is None else (torch.where(bad, 0.0, value), (~bad).float())
                epoch.sums[name] = (total + kept, count + one)
            epoch.step += 1
            epoch.seconds += time.perf_counter() - began
            advance(passes)
            after_step()
        began = time.perf_counter()  # reading the sums waits for what a GPU still has to do of the epoch
        if self.optimizer.replicas.size > 1:  # sums over groups; the first has some in each step, and so every name
            counts = self.replicas.from_first({name: count for name, (_, count) in epoch.sums.items()})
            parts = [epoch.sums[name][0].clone() if name in epoch.sums else torch.zeros((), device=self.device) for name in counts]
            self.replicas.sum_(parts)
            epoch.sums = dict(zip(counts, zip(parts, counts.values(), strict=True), strict=True))
        means = {name: (total / count).item() for name, (total, count) in epoch.sums.items()}
        optimizer, totals = self.optimizer, self.objective.totals()
        epoch.seconds += time.perf_counter() - began
        return {
            "epoch": self.epoch + 1,
            "lr": epoch.rate,
            **totals,
            **means,
            **optimizer.report(),
            "forwards": round(optimizer.forwards),
            "backwards": round(optimizer.backwards),
            "skipped": int(optimizer.skipped),
        }

    def _evaluate(self) -> Row:
        """Loss and accuracy on test and validation set; eval mode, fp32; a part on each replica. None for a set that is not due."""
        row: Row = {}
        due = self.config.evaluated_after(self.epoch + 1)
        for split in ("test", "val"):
            images, labels = getattr(self.data, f"{split}_images"), getattr(self.data, f"{split}_labels")
            if len(labels) and split not in due:
                row |= {f"{split}_loss": None, f"{split}_accuracy": None}
            elif len(labels):
                own, right = (t.tensor_split(self.replicas.size)[self.replicas.rank] for t in (images, labels))
                value = Value(0.0, 0.0, 0)
                if len(right):
                    criterion, size = CRITERIA[self.config.loss], self.config.eval_batch_size
                    loss = DatasetLoss(self.model, own, right, prepare=self.data.normalize, criterion=criterion, batch_size=size)
                    with loss.measuring():
                        value = loss.value()
                if self.replicas.size > 1:
                    sums = self.replicas.sum_numbers([value.loss * value.samples, value.accuracy * value.samples])
                    value = Value(sums[0] / len(labels), sums[1] / len(labels), len(labels))
                row |= {f"{split}_loss": value.loss, f"{split}_accuracy": value.accuracy}
        return row

    def _assert_equal_weights(self) -> None:
        """ReplicaError if the replicas have come apart (on machines whose arithmetic differs, say)."""
        if self.replicas.size == 1:
            return
        sums = repr(torch.stack([p.detach().double().sum() for p in self.optimizer.parameters]).tolist())
        if len(set(self.replicas.gather(sums))) > 1:
            raise ReplicaError("the processes of this run no longer hold the same weights; run it on machines of one kind.")

    def state_dict(self) -> dict[str, Any]:
        """The state that a continued run needs, in mid-epoch too. With several replicas, all call it: it holds each one's own part."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"rows": self.rows, "seconds": self.seconds}
        epoch = self._under_way
        state["epoch"] = epoch and {
            **vars(epoch),
            "sums": dict(epoch.sums),
            "objective": self.objective.state_dict(),
            "draws": epoch.draws.get_state(),
            "random": seeds.states(self._devices),
        }
        if self.replicas.size > 1:
            own = {name: state["epoch"][name] for name in OWN} if epoch else {}
            state["replicas"] = self.replicas.gather(tree_map_only(Tensor, Tensor.cpu, own))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._take_step.forget()
        self.rows, self.seconds = state["rows"], state["seconds"]
        saved = state["epoch"]
        self._under_way, self._resumed_random = None, []
        if saved:
            if self.replicas.size > 1:
                saved = saved | state["replicas"][self.replicas.rank]
            draws = torch.Generator(self.device)
            draws.set_state(saved["draws"].cpu())
            sums = {name: (total.to(self.device), count) for name, (total, count) in saved["sums"].items()}
            self._under_way = _Epoch(draws, saved["step"], saved["seconds"], saved["rate"], sums)
            self._resumed_random = [r.cpu() for r in saved["random"]]
            self.objective.load_state_dict(saved["objective"])


def build_model(config: TrainConfig, data: ImageData) -> nn.Module:
    """The configured model for these images, initialised from the seed's own stream (the same for every method)."""
    channels, size = data.train_images.shape[1], data.train_images.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(config.seed, "init"))
        model = models.build(**to_dict(config.model), classes=data.classes, channels=channels, image_size=size)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
