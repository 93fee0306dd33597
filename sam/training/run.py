"""One run, from its configuration to its record: skip what is finished, continue what is not, keep whatever was computed."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import data
from sam.config import ConfigError, TrainConfig, to_dict
from sam.core.device import number_format
from sam.core.replicas import ReplicaError, Replicas
from sam.results import identity, records
from sam.results.records import Row
from sam.training import checkpoint, cost, distributed, lock
from sam.training.environment import environment
from sam.training.interrupts import Interrupts, Preempted, watching
from sam.training.lock import LockedError
from sam.training.loop import Trainer
from sam.training.progress import Progress, finished_in_sweep, in_sweep, progress_for
from sam.training.tracking import Tracker, make_tracker


def existing(config: TrainConfig) -> dict[str, Any] | None:
    """The record in the run's folder, if it is this run's. ConfigError if the folder holds another run."""
    folder = identity.run_folder(config)
    record = records.read_run(folder)
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
    replicas = distributed.join()
    try:
        if not replicas.is_first:
            return _follow(config, replicas)
        with _telling(replicas) as tell:
            return _lead(config, description, replicas, tell)
    except Exception as error:
        if not isinstance(error, Preempted):
            distributed.give_up()
        raise


def _lead(config: TrainConfig, description: data.Description, replicas: Replicas, tell: Callable[..., None]) -> dict[str, Any]:
    """The run's first process, nearly always its only one: it decides what is run, and writes. `tell`: what the others wait for."""
    record = existing(config)
    folder, key = identity.run_folder(config), identity.run_fingerprint(config)
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
        record = records.read_run(folder)  # another process may have finished it while this one waited for the lock
        if records.is_done(record) and not force:
            assert record is not None
            tell(record=record)
            return record
        if force:
            checkpoint.remove(folder, records.CHECKPOINT, records.PREVIOUS, records.RUN, records.METRICS)
            record = None
        trainer = Trainer(config, data.load(**to_dict(config.dataset)), device, replicas)
        if hint := faster_here(trainer, expected.backwards):
            progress.say(hint)
        tell(state=_resume(trainer, folder, progress))
        distributed.refuse_shared_gpus(replicas, device)
        record = _Segment(trainer, folder, progress, check_lock, interrupts).train(record)
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
        if not told:
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
        trainer = Trainer(config, data.load(**to_dict(config.dataset)), device, replicas)
        if told["state"] is not None:
            trainer.load_state_dict(told["state"])
        return _Follower(trainer, identity.run_folder(config), quiet, lambda: None, interrupts).train(None)


def faster_here(trainer: Trainer, backwards: int) -> str | None:
    """A word on bf16 before a long fp32 run on a processor that computes in it. Never a silent switch: it is another run."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    long = backwards * trainer.config.batch_size * parameters > 3e11  # half an hour of WRN-16-4 on one core
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if trainer.device.type != "cpu" or trainer.config.precision != "fp32" or not long or not supported():
        return None
    return "hint: this processor has bf16 instructions; precision=bf16 (autocast, fp32 weights) would be 2 to 3 times faster here."


def _resume(trainer: Trainer, folder: Path, progress: Progress) -> dict[str, Any] | None:
    """Continue from the newest readable checkpoint, if there is one and it is this run's; returns its state."""
    size = trainer.replicas.size
    state = checkpoint.load_newest(folder, trainer.device if size == 1 else "cpu", progress.say)
    if state is None:
        if records.can_continue(folder):
            progress.say(f"{folder.name}: no checkpoint can be read; starting this run from the beginning.")
    elif state["fingerprint"] != identity.run_fingerprint(trainer.config):
        raise ConfigError(f"run_dir={folder}: holds another run's checkpoint; choose another folder, or leave run_dir out.")
    elif (begun := len(state.get("replicas", [None]))) != size:
        raise ConfigError(f"replicas={size}: {folder} was begun with {begun}; continue it with as many, or redo it with force=true.")
    else:
        trainer.load_state_dict(state)
        progress.advance(trainer.optimizer.backwards)
        where = f"epoch {trainer.epoch}" + (f", step {trainer.step} of the next" if trainer.step else "")
        progress.say(f"{folder.name}: continuing after {where}.")
    return state


@dataclass
class _Segment:
    """One process's stretch of a run: trains, records, saves."""

    trainer: Trainer
    folder: Path
    progress: Progress
    check_lock: Callable[[], None]
    interrupts: Interrupts
    record: dict[str, Any] = field(default_factory=dict)

    def train(self, earlier: dict[str, Any] | None) -> dict[str, Any]:
        """From where the trainer stands to the end; the record says how it ended, whatever happens. `earlier`: the record so far."""
        trainer, config = self.trainer, self.trainer.config
        self.record = _new_record(trainer, earlier)
        self._warn_of_another_environment()
        records.write_run(self.folder, self.record)
        tracker = make_tracker(config, self.record, self.folder)
        status = records.FAILED
        try:
            status = self._epochs(tracker)
            return self._finish(tracker, status)
        except Preempted as signal:
            tracker.preempting()
            self._note_end(records.PREEMPTED, str(signal))
            self.progress.say(f"{self.record['name']}: {signal}.")
            trainer.replicas.wait()  # the first one to leave may take the others with it: not before all is on disk
            self.interrupts.hand_on()
            raise
        except LockedError:
            raise  # the record is somebody else's now
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._note_end(records.PREEMPTED, "interrupted")
            else:
                self._note_end(records.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            raise
        finally:
            tracker.finish(failed=status not in (records.FINISHED, records.DIVERGED))

    def _epochs(self, tracker: Tracker) -> str:
        trainer, config = self.trainer, self.trainer.config
        skipped = trainer.rows[-1]["skipped"] if trainer.rows else 0
        while trainer.epoch < config.epochs:
            row = trainer.run_epoch(self.progress.advance, self._after_step)
            self._record_epoch(row, tracker)
            last = trainer.epoch == config.epochs
            moved = row["skipped"] - skipped < trainer.steps_per_epoch  # at least one step had a finite gradient
            skipped = row["skipped"]
            learnt = moved and math.isfinite(row["train_loss"])
            seeking = not moved and not last and trainer.seeks_scale  # an epoch of few steps may go by with it
            if not (learnt or seeking) or (last and not math.isfinite(row["test_loss"])):
                self.progress.say(f"{self.record['name']}: diverged in epoch {trainer.epoch}.")
                return records.DIVERGED
            if trainer.epoch % config.checkpoint_interval == 0 or last:
                self._save()
        return records.FINISHED

    def _record_epoch(self, row: Row, tracker: Tracker) -> None:
        self.check_lock()
        records.write_metrics(self.folder, self.trainer.rows)
        tracker.log(row)
        self.progress.note(_headline(self.record["name"], row, self.trainer.config.epochs))

    def _after_step(self) -> None:
        signum = self._asked_to_leave()
        if signum:
            self.interrupts.signum = signum
            self._save()
            raise Preempted(signum)
        every = self.trainer.config.checkpoint_steps
        if every and self.trainer.step % every == 0:
            self._save()

    def _asked_to_leave(self) -> int:
        """The signal that any replica got, or 0: all leave after the same step."""
        own, replicas = self.interrupts.signum or 0, self.trainer.replicas
        return max(replicas.gather(own)) if replicas.sum_numbers([own])[0] else 0

    def _save(self) -> None:
        self._keep(self.trainer.state_dict())

    def _keep(self, state: dict[str, Any]) -> None:
        self.check_lock()
        checkpoint.save(self.folder, {"fingerprint": self.record["fingerprint"], **state})

    def _note_end(self, status: str, reason: str) -> None:
        self.record |= {"status": status, "error": reason, "epochs": self.trainer.epoch, "seconds": self.trainer.seconds}
        with contextlib.suppress(records.StorageError):
            records.write_run(self.folder, self.record)

    def _finish(self, tracker: Tracker, status: str) -> dict[str, Any]:
        trainer, optimizer = self.trainer, self.trainer.optimizer
        self.record |= {
            "status": status,
            "error": None,
            "ended": _now(),
            "epochs": trainer.epoch,
            "diverged_epoch": trainer.epoch if status == records.DIVERGED else None,
            "seconds": trainer.seconds,
            "cost": {"forwards": round(optimizer.forwards), "backwards": round(optimizer.backwards), "skipped": int(optimizer.skipped)},
            **summary(trainer.rows),
        }
        self.check_lock()
        records.write_metrics(self.folder, trainer.rows)
        records.write_run(self.folder, self.record)
        checkpoint.remove(self.folder, records.PREVIOUS)
        tracker.summarize(self.record)
        return self.record

    def _warn_of_another_environment(self) -> None:
        """A continued run is bitwise the uninterrupted one only on the same kind of device, torch version and thread count."""
        seen = [_arithmetic(segment["environment"]) for segment in self.record["segments"]]
        if any(arithmetic != seen[-1] for arithmetic in seen):
            changed = "; then ".join(dict.fromkeys(", ".join(map(str, arithmetic)) for arithmetic in seen))
            self.progress.say(f"warning: {self.record['name']}: continued elsewhere ({changed}); results may differ in the last digits.")


class _Follower(_Segment):
    """The same stretch on another replica than the first: it takes part, and writes nothing."""

    def train(self, earlier: dict[str, Any] | None) -> dict[str, Any]:
        self.record = {"name": identity.run_name(self.trainer.config)}
        try:
            return {"status": self._epochs(Tracker())}
        except Preempted:
            self.trainer.replicas.wait()
            raise

    def _record_epoch(self, row: Row, tracker: Tracker) -> None:
        pass

    def _keep(self, state: dict[str, Any]) -> None:
        pass


def _arithmetic(environment: dict[str, Any]) -> tuple[Any, ...]:
    return environment["device"], f"torch {environment['versions'].get('torch')}", f"{environment['threads']} threads"


def _new_record(trainer: Trainer, earlier: dict[str, Any] | None) -> dict[str, Any]:
    config, here = trainer.config, environment(trainer.device)
    segment = {"from_epoch": trainer.epoch, "from_step": trainer.step, "started": _now(), "environment": here}
    segment["replicas"] = trainer.replicas.size
    fresh = earlier is None or (trainer.epoch, trainer.step) == (0, 0)
    return {
        "format": 1,
        "numerics": records.NUMERICS,
        "name": identity.run_name(config),
        "fingerprint": identity.run_fingerprint(config),
        "setting": identity.setting(config),
        "status": records.RUNNING,
        "started": segment["started"] if earlier is None else earlier["started"],
        "config": to_dict(config),
        "identity": identity.identity(config),
        "data": {
            "fingerprint": trainer.data.fingerprint,
            "notes": list(trainer.data.notes),
            "train_images": len(trainer.data.train_labels),
        },
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "environment": here,
        "segments": [segment] if fresh else [*(earlier or {}).get("segments", []), segment],
    }


def _now() -> str:
    return datetime.now().astimezone().isoformat()


def _headline(name: str, row: Row, epochs: int) -> str:
    return f"{name} epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.3f}, test {row['test_accuracy']:.2f}%"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """final (last epoch), last5 (mean of the last five), best (and what it was selected on: the validation set, else the test set)."""
    splits = [split for split in ("test", "val") if f"{split}_accuracy" in rows[-1]]
    names = [f"{split}_{kind}" for split in splits for kind in ("loss", "accuracy")]
    tail = rows[-5:]
    judge = "val" if "val" in splits else "test"
    best = max(rows, key=lambda row: row[f"{judge}_accuracy"])
    return {
        "final": {name: rows[-1][name] for name in (*names, "train_loss", "train_accuracy", "perturbed_loss")},
        "last5": {name: sum(row[name] for row in tail) / len(tail) for name in names},
        "best": {"selected_on": judge, "epoch": best["epoch"], **{name: best[name] for name in names}},
    }


def load_trained(
    config: TrainConfig, folder: Path, images: data.ImageData, device: torch.device, state: dict[str, Any] | None = None
) -> torch.nn.Module:
    """The model of a finished run, with its checkpoint's weights (`state`: the checkpoint, if it was read already).

    CheckpointError if the file is damaged or does not fit.
    """
    from sam.training.loop import build_model

    model = build_model(config, images).to(device)
    state = checkpoint.load(folder, device) if state is None else state
    checkpoint.load_weights(model, state["model"], folder / records.CHECKPOINT)
    return model
