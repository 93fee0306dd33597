"""One run, from its configuration to its record: skip what is finished, continue what is not, keep whatever was computed."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import data
from data.image_data import ImageData
from sam.config import ConfigError, TrainConfig, to_dict
from sam.core.device import number_format
from sam.core.files import DamagedError, told
from sam.core.replicas import ReplicaError, Replicas
from sam.runs import checkpoint, distributed, identity, lock, records
from sam.runs.progress import Progress, finished_in_sweep, in_sweep, progress_for
from sam.runs.session import Follower, Segment
from sam.runs.signals import Preempted, watching
from sam.training import cost
from sam.training.loop import Trainer
from sam.training.weights import load_weights


def existing(config: TrainConfig) -> dict[str, Any] | None:
    """The record in the run's folder, if it is this run's. ConfigError if the folder holds another run, or what a run left without a record
    that can be read: what only that knew (when and with which code it was begun) must not be replaced."""
    folder = identity.run_folder(config)
    try:
        record = records.read_run(folder)
    except DamagedError as error:
        if config.force:
            return None
        raise ConfigError(f"{told(error)}; restore the file, or redo the run with force=true.") from error
    if record is not None and record["fingerprint"] != identity.run_fingerprint(config):
        raise ConfigError(f"run_dir={folder}: this folder holds another run ({record['name']}); choose another, or leave run_dir out.")
    return record


def run(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the record. A finished (or diverged) run is returned as it is, unless `force`.

    Raises Preempted after a signal, when the state is saved; LockedError if another process is at this run; ConfigError, DataError,
    StorageError with one sentence for the user.
    """
    config = distributed.with_replicas(config)
    description = cost.check(config)
    records.check_folder(config)
    replicas = distributed.join()
    try:
        if not replicas.is_first:
            return _follow(config, replicas)
        with _telling(replicas) as tell:
            return _lead(config, description, replicas, tell)
    except BaseException as error:
        if not getattr(error, "told", False):  # the others leave together with a run that was preempted while it trained
            distributed.give_up()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
            sizes = f"model={config.model.label}, batch_size={config.batch_size}, micro_batch={config.micro_batch}"
            raise ConfigError(f"{sizes}: memory is too small for them on device={config.device}; make one of them smaller.") from error
        raise


def _lead(config: TrainConfig, description: data.Description, replicas: Replicas, tell: Callable[..., None]) -> dict[str, Any]:
    """The run's first process, nearly always its only one: it decides what is run, and writes. `tell`: what the others wait for."""
    record = existing(config)
    folder = identity.run_folder(config)
    key = f"{identity.run_fingerprint(config)} in {folder}"
    force = config.force and key not in finished_in_sweep()  # points of a sweep with one identity run once
    if records.is_done(record) and not force:
        assert record is not None
        if not in_sweep():  # a sweep's plan has said it
            print(f"{record['name']}: {record['status']} already; nothing to do (force=true redoes it).", file=sys.stderr)
        tell(record=record)
        return record
    device = distributed.take_device(config)
    expected = cost.cost(config, description)
    with (
        number_format(config.precision, config.threads),
        progress_for(expected.backwards, identity.run_name(config)) as progress,
        lock.hold(folder, progress.say) as check_lock,
        watching() as interrupts,
    ):
        record = existing(config)  # another process may have finished it while this one waited for the lock
        if records.is_done(record) and not force:
            assert record is not None
            tell(record=record)
            return record
        images = data.load(**to_dict(config.dataset), seed=config.seed)
        for note in images.notes:
            progress.say_once(f"data: {note}.")
        trainer = Trainer(config, images, device, replicas)
        for note in trainer.notes:
            progress.say(f"init_from={config.init_from}: {note}")
        if hint := faster_here(trainer, expected.backwards):
            progress.say(hint)
        left = [path.name for path in folder.glob("*.checkpoint*.tmp")]  # by processes that were killed
        if force:  # only now, when nothing in the settings and data can stop the run any more
            kept = (path.name for path in checkpoint.kept(folder).values())
            left += [records.CHECKPOINT, records.PREVIOUS, records.RUN, records.METRICS, *kept]
            record = None
        checkpoint.remove(folder, *left)
        tell(state=_resume(trainer, folder, progress, record))
        distributed.refuse_shared_gpus(replicas, device)
        record = Segment(trainer, folder, progress, check_lock, interrupts).train(record)
        finished_in_sweep().add(key)
        return record


@contextlib.contextmanager
def _telling(replicas: Replicas) -> Iterator[Callable[..., None]]:
    """A function that says once to the other replicas how it goes on; if the first one fails before, they are told that."""
    told = False

    def tell(**what: Any) -> None:
        nonlocal told
        told = True
        replicas.from_first(what)

    try:
        yield tell
    except BaseException as error:
        if not told and not isinstance(error, Preempted):  # the signal is theirs too
            tell(error=" ".join(str(error).split()))
        raise


def _follow(config: TrainConfig, replicas: Replicas) -> dict[str, Any]:
    """Any other process: computes its part of every batch, and writes nothing."""
    told = replicas.from_first()
    if "error" in told:
        raise ReplicaError(f"the first process of this run stopped: {told['error']}")
    if "record" in told:
        return dict(told["record"])
    device, quiet = distributed.take_device(config), Progress(1, "", quiet=True)
    distributed.refuse_shared_gpus(replicas, device)
    with number_format(config.precision, config.threads), watching() as interrupts:
        trainer = Trainer(config, data.load(**to_dict(config.dataset), seed=config.seed), device, replicas)
        if told["state"] is not None:
            trainer.load_state_dict(told["state"])
        return Follower(trainer, identity.run_folder(config), quiet, lambda: None, interrupts).train(None)


def faster_here(trainer: Trainer, backwards: int) -> str | None:
    """A word on bf16 before a long fp32 run on a processor that computes in it. Never a silent switch: it is another run."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    long = backwards * trainer.config.batch_size * parameters > 3e11  # half an hour of WRN-16-4 on one core
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if trainer.device.type != "cpu" or trainer.config.precision != "fp32" or not long or not supported():
        return None
    return "hint: this processor has bf16 instructions; precision=bf16 (autocast, fp32 weights) would be 2 to 3 times faster here."


def _resume(trainer: Trainer, folder: Path, progress: Progress, record: dict[str, Any] | None) -> dict[str, Any] | None:
    """Continue from the newest readable checkpoint, if there is one; returns its state. ForeignError if it is not this run's."""
    size, own = trainer.replicas.size, {"fingerprint": identity.run_fingerprint(trainer.config)}
    state = checkpoint.load_newest(folder, trainer.device if size == 1 else "cpu", progress.say, record or own)
    if state is None:
        if records.can_continue(folder):
            progress.say(f"{folder.name}: no checkpoint can be read; starting this run from the beginning.")
        return None
    if (begun := len(state.get("replicas", [None]))) != size:
        raise ConfigError(f"replicas={size}: {folder} was begun with {begun}; continue it with as many, or redo it with force=true.")
    try:
        trainer.load_state_dict(state)
    except Exception as error:  # its checksums hold: some other program wrote it
        raise ConfigError(f"{folder}: cannot be continued ({told(error)}); force=true begins it anew.") from error
    progress.advance(trainer.optimizer.backwards)
    where = f"epoch {trainer.epoch}" + (f", step {trainer.step} of the next" if trainer.step else "")
    progress.say(f"{folder.name}: continuing after {where}.")
    return state


def load_trained(
    config: TrainConfig, folder: Path, images: ImageData, device: torch.device, weights: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """The model of a finished run, with its checkpoint's weights. CheckpointError if they do not fit."""
    from sam.training.loop import build_model

    model = build_model(config, images).to(device)
    load_weights(model, weights, folder / records.CHECKPOINT)
    return model
