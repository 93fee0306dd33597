"""The record of a run: `run.json` (what it was and how it ended) and `metrics.csv` (one row an epoch), in the run's own folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.config import TrainConfig, from_dict

RUN, METRICS, CHECKPOINT, MEASURES = "run.json", "metrics.csv", "checkpoint.pt", "sharpness.json"
PREVIOUS = "checkpoint.previous.pt"  # kept while a run is under way, in case the newest turns out damaged
FINISHED, DIVERGED, RUNNING, PREEMPTED, FAILED = "finished", "diverged", "running", "preempted", "failed"
NUMERICS = 3  # raised when the arithmetic of training changes: runs of an older version are named when tables are built

Row = dict[str, Any]


class StorageError(ValueError):
    """A file that could not be written; one sentence for the user."""


def write_atomic(path: Path, content: str | bytes, *, keep: Path | None = None) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, whole. `keep`: where the old one goes.

    StorageError if the disk is full or the folder cannot be written; the old file is then still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        size = f"{len(content) / 1e6:.1f} MB"
        raise StorageError(f"{path}: {size} could not be written ({error.strerror}); everything saved before is still there.") from error


def plain(value: Any) -> Any:
    """JSON without NaN: non-finite numbers become strings ("nan", "inf"), which `number` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def number(value: Any) -> float | None:
    """The number behind a JSON or CSV field, or None."""
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def reached(values: Mapping[str, Any]) -> tuple[str, float, float]:
    """(name of a set, accuracy in percent, loss) of a row of metrics or a record's `final`: of the test set where it was evaluated, else of
    the validation set, else of the training set as met in training."""
    for split, name in (("test", "test"), ("val", "validation"), ("train", "training")):
        accuracy, loss = (number(values.get(f"{split}_{kind}")) for kind in ("accuracy", "loss"))
        if accuracy is not None and loss is not None:
            return name, accuracy, loss
    return "training", math.nan, math.nan


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomic(folder / RUN, json.dumps(plain(record), indent=1, allow_nan=False) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The run's record; None if there is none, or if it is damaged."""
    try:
        record = json.loads((folder / RUN).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "fingerprint" in record else None


def is_done(record: Mapping[str, Any] | None) -> bool:
    """Finished or diverged: there is nothing left to run."""
    return record is not None and record.get("status") in (FINISHED, DIVERGED)


def can_continue(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from."""
    return (folder / CHECKPOINT).exists() or (folder / PREVIOUS).exists()


def run_config(record: Mapping[str, Any]) -> TrainConfig:
    return from_dict(TrainConfig, record["config"])


def write_metrics(folder: Path, rows: Sequence[Row]) -> None:
    """Columns in the order in which they first appear; lists are joined by ';'."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: ";".join(map(repr, v)) if isinstance(v, list) else "" if v is None else v for k, v in row.items()})
    write_atomic(folder / METRICS, buffer.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The numeric columns of metrics.csv, one dictionary an epoch."""
    try:
        text = (folder / METRICS).read_text("utf-8")
    except OSError:
        return []
    rows = []
    for row in csv.DictReader(io.StringIO(text)):
        values = {key: number(value) for key, value in row.items()}
        rows.append({key: value for key, value in values.items() if value is not None})
    return rows


def find_runs(runs_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every run below `runs_dir`, in the order of their folders' names."""
    for path in sorted(runs_dir.rglob(RUN)):
        record = read_run(path.parent)
        if record is not None:
            yield path.parent, record
