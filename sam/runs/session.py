"""One process's session of a run, from where its trainer stands to the end or to a signal: train, record, save."""

import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sam.config import ConfigError
from sam.core.files import StorageError, told
from sam.runs import checkpoint, identity, records, tracking
from sam.runs.lock import LockedError
from sam.runs.progress import Progress
from sam.runs.signals import Interrupts, Preempted
from sam.schema import to_dict
from sam.training.loop import Trainer
from sam.training.rows import Row, headline, reached, summary

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torchvision", "numpy", "hydra-core", "omegaconf", "timm", "wandb")


@dataclass
class Session:
    """One process's session of a run. `may_write`: whether it writes the run's files; LockedError if the run is somebody else's now."""

    trainer: Trainer
    folder: Path
    progress: Progress
    may_write: Callable[[], bool]
    interrupts: Interrupts
    record: dict[str, Any] = field(default_factory=dict)
    written: str | None = None  # SHA-256 of the newest checkpoint, if this process wrote it
    unsaved: bool = False  # whether a step was done since the newest checkpoint
    metrics: str | None = None  # SHA-256 of metrics.csv

    def resume(self, record: dict[str, Any] | None) -> dict[str, Any] | None:
        """Continue from the newest readable checkpoint, if there is one; returns its state. ForeignError if it is not this run's."""
        trainer, folder, progress, size = self.trainer, self.folder, self.progress, self.trainer.replicas.size
        own = record or {"fingerprint": identity.run_fingerprint(trainer.config)}
        state = checkpoint.load_newest(folder, trainer.device if size == 1 else "cpu", progress.say, own)
        if state is None:
            if records.can_continue(folder):
                progress.say(f"{folder.name}: no checkpoint can be read; starting this run from the beginning.")
            return None
        if (begun := len(state.get("replicas", [None]))) != size:
            raise ConfigError(f"replicas={size}: {folder} was begun with {begun}; continue it with as many, or redo it with force=true.")
        try:
            trainer.load_state_dict(state)
        except Exception as error:  # its checksums hold: some other program wrote it
            raise ConfigError(f"{folder}: cannot be continued ({told(error)}); without its checkpoints it begins anew.") from error
        progress.skip(trainer.optimizer.backwards)
        where = f"epoch {trainer.epoch}" + (f", step {trainer.step} of the next" if trainer.step else "")
        progress.say(f"{folder.name}: continuing after {where}.")
        if gone := [e for e in sorted({*trainer.config.keep_checkpoints} - checkpoint.kept(folder).keys()) if e <= trainer.epoch]:
            progress.say(f"warning: keep_checkpoints={gone}: are over, and their weights were not kept; force=true redoes them.")
        return state

    def train(self, earlier: dict[str, Any] | None) -> dict[str, Any]:
        """Train to the end; the record says how it ended, whatever happens. `earlier`: the record so far."""
        self.record = new_record(self.trainer, earlier)
        self._warn_of_another_environment()
        records.write_run(self.folder, self.record)
        config = replace(self.trainer.config, force=self.trainer.config.force and not self.trainer.epoch)  # what it continues is mirrored
        tracker = tracking.Apart(config, self.record, self.folder) if config.tracking.backend == "wandb" else None
        try:
            return self._finish(self._epochs())
        except Preempted as signal:
            self._save_steps()
            self._note_end(records.PREEMPTED, str(signal))
            self.progress.say(f"{self.record['name']}: {signal}.")
            signal.told = True
            self.trainer.replicas.wait()  # the first one to leave may take the others with it: not before all is on disk
            self.interrupts.hand_on()
            raise
        except LockedError:
            raise  # the record is somebody else's now
        except KeyboardInterrupt:
            self._note_end(records.PREEMPTED, "interrupted")
            raise
        except BaseException as error:
            self._note_end(records.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            raise
        finally:
            if tracker is not None:
                tracker.finish(self.record)

    def _epochs(self) -> str:
        """Train the epochs that are left; returns the run's status at their end."""
        trainer, config = self.trainer, self.trainer.config
        skipped = trainer.rows[-1]["skipped"] if trainer.rows else 0
        if trainer.epoch == config.epochs:  # stopped between the last checkpoint and its record, which holds the hash of what was written
            self._save()
        together = trainer.replicas.size > 1  # several replicas leave after the same step
        self.interrupts.waits = together  # or until the first step, which may compile for minutes, is done
        while trainer.epoch < config.epochs:
            row = trainer.run_epoch(self.progress.advance, self._after_step, nullcontext if together else self.interrupts.broken_off)
            if self.may_write():
                self.metrics = records.write_metrics(self.folder, trainer.rows)
                self.progress.note(headline(row, config.epochs), identity.short_name(config))
            last = trainer.epoch == config.epochs
            moved = row["skipped"] - skipped < trainer.steps_per_epoch  # at least one step had a finite gradient
            skipped = row["skipped"]
            learnt = moved and math.isfinite(row["train_loss"])
            seeking = not moved and not last and trainer.seeks_scale  # an epoch of few steps may go by with it
            if not (learnt or seeking) or (last and not self._is_finite(row)):
                self.progress.say(f"{self.record['name']}: diverged in epoch {trainer.epoch}.")
                return records.DIVERGED
            if trainer.epoch in config.keep_checkpoints and self.may_write():
                kept = {"fingerprint": self.record["fingerprint"], "epoch": trainer.epoch, "model": trainer.model.state_dict()}
                checkpoint.save(self.folder, kept, trainer.epoch)  # before the checkpoint: a run that continues after it finds them there
            if trainer.epoch % config.checkpoint_interval == 0 or last:
                self._save()
        return records.FINISHED

    def _is_finite(self, row: Row) -> bool:
        """Whether training has ended with a finite loss on the test set; where it was not evaluated on any set, with finite weights."""
        measured_on, _, loss = reached(row)
        values = self.trainer.model.state_dict().values()
        return math.isfinite(loss) and (measured_on != "training" or all(bool(value.isfinite().all()) for value in values))

    def _after_step(self) -> None:
        self.unsaved = self.interrupts.waits = True
        if signum := self._asked_to_leave():
            self.interrupts.signum = signum
            self._save()  # here: outside, torch's random stream is not the epoch's any more
            raise Preempted(signum)
        every = self.trainer.config.checkpoint_steps
        if every and (self.trainer.epoch * self.trainer.steps_per_epoch + self.trainer.step) % every == 0:
            self._save()

    def _asked_to_leave(self) -> int:
        """The signal that any replica got, or 0: all leave after the same step."""
        own, replicas = self.interrupts.signum or 0, self.trainer.replicas
        return max(replicas.gather(own)) if replicas.sum_numbers([own])[0] else 0

    def _save_steps(self) -> None:
        """On leaving, wherever that is: no step that was done is lost."""
        self.interrupts.waits = True
        if self.unsaved:
            self._save()

    def _save(self) -> None:
        state = self.trainer.state_dict()  # all replicas call it
        if self.may_write():
            self.written = checkpoint.save(self.folder, {"fingerprint": self.record["fingerprint"], **state})
        self.unsaved = False

    def _note_end(self, status: str, reason: str) -> None:
        self.record |= {"status": status, "error": reason, "epochs": self.trainer.epoch, "seconds": self.trainer.seconds}
        self.record |= {"checkpoint_sha256": self.written, "metrics_sha256": self.metrics}
        with suppress(StorageError):
            records.write_run(self.folder, self.record)

    def _finish(self, status: str) -> dict[str, Any]:
        trainer, optimizer = self.trainer, self.trainer.optimizer
        self.may_write()  # or LockedError
        self.record |= {
            "status": status,
            "error": None,
            "ended": datetime.now().astimezone().isoformat(),
            "epochs": trainer.epoch,
            "diverged_epoch": trainer.epoch if status == records.DIVERGED else None,
            "checkpoint_sha256": self.written if status == records.FINISHED else None,
            "metrics_sha256": records.write_metrics(self.folder, trainer.rows),
            "seconds": trainer.seconds,
            "cost": {"forwards": round(optimizer.forwards), "backwards": round(optimizer.backwards), "skipped": int(optimizer.skipped)},
            **summary(trainer.rows, trainer.config.eval_interval),
        }
        records.write_run(self.folder, self.record)
        checkpoint.tidy(self.folder, records.PREVIOUS)
        return self.record

    def _warn_of_another_environment(self) -> None:
        """A continued run is bitwise the uninterrupted one only on the same kind of device, torch version and thread count."""
        places = [session["environment"] for session in self.record["segments"]]
        seen = [f"{place['device']}, torch {place['versions'].get('torch')}, {place['threads']} threads" for place in places]
        if len(set(seen)) > 1:
            where = "; then ".join(dict.fromkeys(seen))
            how = "in the last digits; between a CPU and a GPU in every draw"
            self.progress.say(f"warning: {self.record['name']}: continued elsewhere ({where}); results may differ {how}.")

    def take_part(self) -> dict[str, Any]:
        """`train` of a rank other than 0, which writes nothing."""
        self.record = {"name": identity.run_name(self.trainer.config)}
        try:
            return {"status": self._epochs()}
        except Preempted as signal:
            self._save_steps()
            self.trainer.replicas.wait()
            signal.told = True
            raise


def new_record(trainer: Trainer, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The record at the start of a session; `earlier`: what it was before."""
    config, images, here = trainer.config, trainer.data, environment(trainer.device)
    session = {"from_epoch": trainer.epoch, "from_step": trainer.step, "started": datetime.now().astimezone().isoformat()}
    session |= {"environment": here, "replicas": trainer.replicas.size}
    fresh = earlier is None or (trainer.epoch, trainer.step) == (0, 0)
    return {
        "format": 1,
        "numerics": records.NUMERICS if fresh else (earlier or {}).get("numerics"),  # of its first steps
        "name": identity.run_name(config),
        "fingerprint": identity.run_fingerprint(config),
        "setting": identity.setting(config),
        "status": records.RUNNING,
        "started": session["started"] if earlier is None else earlier["started"],
        "config": to_dict(config),
        "identity": identity.identity(config),
        "data": {"fingerprint": images.fingerprint, "notes": list(images.notes), "train_images": len(images.train_labels)},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "environment": here,
        "segments": [session] if fresh else [*(earlier or {}).get("segments", []), session],
    }


def _git(*arguments: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]  # another's, seen from a container
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None


def _processor() -> str:
    """Name and instruction set: one name ("AMD EPYC") stands for processors whose sums differ in their last digits."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def environment(device: torch.device) -> dict[str, Any]:
    """Collect versions, git commit (and whether the tree was modified), hardware, threads and the command line."""
    versions = {"torch": str(torch.__version__)}  # with the build, +cpu or +cu130, which a package's metadata may leave out
    versions |= {name: found[0].version for name in PACKAGES if (found := list(metadata.distributions(name=name)))}
    versions["python"] = platform.python_version()
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "modified": None if changed is None else bool(changed),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "host": platform.node(),
        "command": shlex.join(["python", *sys.argv]),
    }
