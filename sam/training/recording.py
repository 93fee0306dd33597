"""What a run's record holds: where it started, how it stands, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sam.config import to_dict
from sam.results import identity, records
from sam.results.records import Row
from sam.training.environment import environment
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
