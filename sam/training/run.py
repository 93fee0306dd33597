"""One run, from its configuration to its record: skip what is finished, continue what is not, keep whatever was computed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import data
from sam.config import ConfigError, TrainConfig, to_dict
from sam.core.device import number_format, pick_device
from sam.results import identity, records
from sam.results.records import Row
from sam.training import checkpoint, cost
from sam.training.environment import environment
from sam.training.loop import Trainer
from sam.training.progress import Progress, in_sweep, progress_for
from sam.training.tracking import Tracker, make_tracker


def existing(config: TrainConfig) -> dict[str, Any] | None:
    """The record in the run's folder, if it is this run's. ConfigError if the folder holds another run."""
    folder = identity.run_folder(config)
    record = records.read_run(folder)
    if record is not None and record["fingerprint"] != identity.run_fingerprint(config):
        raise ConfigError(
            f"run_dir={folder}: this folder holds another run ({record['name']}); choose another folder, or leave run_dir out."
        )
    return record


def run(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the record. A finished (or diverged) run is returned as it is, unless `force`."""
    description = cost.check(config)
    record = existing(config)
    folder = identity.run_folder(config)
    if records.is_done(record) and not config.force:
        assert record is not None
        if not in_sweep():  # a sweep's plan has said it
            print(f"{record['name']}: {record['status']} already; nothing to do (force=true redoes it).", file=sys.stderr)
        return record
    device = pick_device(config.device)
    images = data.load(**to_dict(config.dataset))
    expected = cost.cost(config, description)
    with number_format(config.precision, config.threads), progress_for(expected.backwards, identity.run_name(config)) as progress:
        trainer = Trainer(config, images, device)
        if config.force:  # or an interruption would be continued from the old run's end
            (folder / records.CHECKPOINT).unlink(missing_ok=True)
        else:
            _resume(trainer, folder, progress)
        return _train(trainer, folder, progress)


def _resume(trainer: Trainer, folder: Path, progress: Progress) -> None:
    """Continue from the folder's checkpoint, if there is one that fits; otherwise start from the beginning and say so."""
    if not (folder / records.CHECKPOINT).exists():
        return
    try:
        state = checkpoint.load(folder, trainer.device)
    except checkpoint.CheckpointError as error:
        progress.say(f"warning: {error} Starting this run from the beginning.")
        return
    if state["fingerprint"] == identity.run_fingerprint(trainer.config):
        trainer.load_state_dict(state)
        progress.advance(trainer.optimizer.backwards)
        progress.say(f"{folder.name}: continuing after epoch {trainer.epoch}.")


def _train(trainer: Trainer, folder: Path, progress: Progress) -> dict[str, Any]:
    config = trainer.config
    record: dict[str, Any] = {
        "format": 1,
        "numerics": records.NUMERICS,
        "name": identity.run_name(config),
        "fingerprint": identity.run_fingerprint(config),
        "setting": identity.setting(config),
        "status": records.RUNNING,
        "started": _now(),
        "config": to_dict(config),
        "identity": identity.identity(config),
        "data": {
            "fingerprint": trainer.data.fingerprint,
            "notes": list(trainer.data.notes),
            "train_images": len(trainer.data.train_labels),
        },
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "environment": environment(trainer.device),
    }
    records.write_run(folder, record)
    tracker = make_tracker(config, record, folder)
    try:
        while trainer.epoch < config.epochs:
            row = trainer.run_epoch(progress.advance)
            records.write_metrics(folder, trainer.rows)
            tracker.log(row)
            progress.note(_headline(record["name"], row, config.epochs))
            last = trainer.epoch == config.epochs
            if not math.isfinite(row["train_loss"]) or (last and not math.isfinite(row["test_loss"])):
                return _finish(trainer, folder, record, tracker, records.DIVERGED)
            if trainer.epoch % config.checkpoint_interval == 0 or last:
                checkpoint.save(folder, {"fingerprint": record["fingerprint"], **trainer.state_dict()})
        return _finish(trainer, folder, record, tracker, records.FINISHED)
    except BaseException:
        tracker.finish(failed=True)
        raise


def _now() -> str:
    return datetime.now().astimezone().isoformat()


def _headline(name: str, row: Row, epochs: int) -> str:
    return f"{name} epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.3f}, test {row['test_accuracy']:.2f}%"


def _finish(trainer: Trainer, folder: Path, record: dict[str, Any], tracker: Tracker, status: str) -> dict[str, Any]:
    optimizer = trainer.optimizer
    record |= {
        "status": status,
        "ended": _now(),
        "epochs": trainer.epoch,
        "diverged_epoch": trainer.epoch if status == records.DIVERGED else None,
        "seconds": trainer.seconds,
        "cost": {"forwards": round(optimizer.forwards), "backwards": round(optimizer.backwards), "skipped": int(optimizer.skipped)},
        **summary(trainer.rows),
    }
    records.write_run(folder, record)
    tracker.summarize(record)
    tracker.finish(failed=False)
    return record


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


def load_trained(config: TrainConfig, folder: Path, images: data.ImageData, device: torch.device) -> torch.nn.Module:
    """The model of a finished run, with its checkpoint's weights. CheckpointError if the file is damaged or does not fit."""
    from sam.training.loop import build_model

    model = build_model(config, images).to(device)
    state = checkpoint.load(folder, device)
    checkpoint.load_weights(model, state["model"], folder / records.CHECKPOINT)
    return model
