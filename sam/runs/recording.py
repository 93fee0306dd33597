"""What a run's record holds: where it started, how it stands, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sam.runs import identity, records
from sam.runs.environment import environment
from sam.runs.records import Row
from sam.schema import to_dict
from sam.training.loop import Trainer


def arithmetic(environment: dict[str, Any]) -> tuple[Any, ...]:
    """What two environments must share for their results to agree to the last digit."""
    return environment["device"], f"torch {environment['versions'].get('torch')}", f"{environment['threads']} threads"


def new_record(trainer: Trainer, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The record at the start of a stretch of a run; `earlier`: what it was before."""
    config, here = trainer.config, environment(trainer.device)
    segment = {"from_epoch": trainer.epoch, "from_step": trainer.step, "started": now(), "environment": here}
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


def now() -> str:
    return datetime.now().astimezone().isoformat()


def headline(name: str, row: Row, epochs: int) -> str:
    measured_on, accuracy, _ = records.reached(row)
    return f"{name} epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.3f}, {measured_on} {accuracy:.2f}%"


def summary(rows: Sequence[Row], interval: int = 1) -> dict[str, Any]:
    """final (last epoch), last5 (mean of the last five), best (and what it was selected on: the validation set, else the test set).

    best is the best of the epochs in which that set was evaluated, and names the `interval` at which it was (`eval_interval`). A number
    that was not measured is None, and so is a mean that lacks one.
    """
    splits = [split for split in ("test", "val") if f"{split}_accuracy" in rows[-1]]
    names = [f"{split}_{kind}" for split in splits for kind in ("loss", "accuracy")]
    tail = rows[-5:]
    judge = "val" if "val" in splits else "test"
    best = max((row for row in rows if row[f"{judge}_accuracy"] is not None), key=lambda row: row[f"{judge}_accuracy"], default={})
    return {
        "final": {name: rows[-1][name] for name in (*names, "train_loss", "train_accuracy", "perturbed_loss")},
        "last5": {name: _mean([row[name] for row in tail]) for name in names},
        "best": {"selected_on": judge, "interval": interval, "epoch": best.get("epoch"), **{name: best.get(name) for name in names}},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if len(present) == len(values) else None
