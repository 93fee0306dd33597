"""The record of a run: `run.json` (what it was and how it ended) and `metrics.csv` (one row an epoch), in the run's own folder. What is
read is checked: against the digest that was written with it (files of old have none), and against its shape."""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import hashlib
import io
import json
import math
import os
import sys
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.runs.identity import fingerprint
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.text import sentence

RUN, METRICS, CHECKPOINT, MEASURES = "run.json", "metrics.csv", "checkpoint.pt", "sharpness.json"
PREVIOUS = "checkpoint.previous.pt"  # kept while a run is under way, in case the newest turns out damaged
FINISHED, DIVERGED, RUNNING, PREEMPTED, FAILED = "finished", "diverged", "running", "preempted", "failed"
NUMERICS = 3  # raised when the arithmetic of training changes: runs of an older version are named when tables are built

TRACES = (RUN, CHECKPOINT, PREVIOUS, "checkpoint.epoch*.pt", METRICS, MEASURES)  # what only a run leaves in a folder
TYPES = (type, types.UnionType)
ABSENT = (FileNotFoundError, NotADirectoryError)

Row = dict[str, Any]


class StorageError(ValueError):
    """A file that could not be written; one sentence for the user."""


class DamagedError(ValueError):
    """A file that is not what was written there; one sentence for the user, which names it."""


class UnreadableError(DamagedError):
    """A file that may be whole, but cannot be read; one sentence for the user."""


def told(error: BaseException) -> str:
    """An error on one line: ours as it is, any other with its kind."""
    text = sentence(error).rstrip(".")
    ours = type(error).__module__.partition(".")[0] in ("sam", "data", "models")
    return text if ours else f"{type(error).__name__}: {text[:300]}".rstrip(": ")


def is_measure(value: Any) -> bool:
    """A number as `plain` writes it, or None."""
    return value in (None, "nan", "inf", "-inf") or (type(value) in (int, float) and abs(value) <= sys.float_info.max)


def check(value: Any, shape: Any, name: str = "it") -> None:
    """Raise DamagedError at the first part that lacks its shape: a type, a predicate, [shape of each item], {key: shape} (...: any key)."""
    if isinstance(shape, list) and isinstance(value, list):
        for item in value:
            check(item, shape[0], name)
    elif isinstance(shape, dict) and isinstance(value, dict):
        for key, inner in shape.items():
            for found in value if key is ... else [key]:
                if found not in value:
                    raise DamagedError(f"{name} lacks {found}")
                check(value[found], inner, found)
    elif not (isinstance(value, shape) and type(value) is not bool if isinstance(shape, TYPES) else callable(shape) and shape(value)):
        raise DamagedError(f"{name} must not be {str(value)[:40]!r}")


NAMED = {...: is_measure}  # numbers by name
_ENVIRONMENT = {"versions": dict, "device": str, "threads": int, "modified": (True, False, None).__contains__}
_RECORD = {
    **dict.fromkeys(("name", "fingerprint", "setting", "started"), str),
    "status": (FINISHED, DIVERGED, RUNNING, PREEMPTED, FAILED).__contains__,
    **dict.fromkeys(("config", "identity"), dict),
    "data": {"fingerprint": str, "notes": [str], "train_images": int},
    "parameters": int,
    "environment": _ENVIRONMENT,
    "segments": [{"environment": _ENVIRONMENT}],
}
_TRAINED = ("train_loss", "train_accuracy", "perturbed_loss")
_DONE = {"final": dict.fromkeys((*_TRAINED, ...), is_measure), "last5": NAMED, "best": dict, "epochs": int, "diverged_epoch": is_measure}


def write_atomic(path: Path, content: str | bytes, *, keep: Path | None = None) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, whole. `keep`: where the old one goes.

    StorageError if the disk is full or the folder cannot be written; the old file is then still there.
    """
    temporary = path.with_name(f"{uuid.uuid4().hex[:12]}.{path.name}.tmp")  # another process may be at the same file
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


def read_bytes(path: Path) -> bytes:
    """UnreadableError if it cannot be read, or is no file (a pipe would never end). Raises one of ABSENT if there is none."""
    try:
        if path.exists() and not path.is_file():
            raise UnreadableError(f"{path}: is not a file.")
        return path.read_bytes()
    except ABSENT:
        raise
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror}).") from error


def read_json(path: Path) -> dict[str, Any]:
    """As `read_bytes`; DamagedError if it is no JSON object, or holds text that could not be written again."""
    content = read_bytes(path)
    try:
        value: dict[str, Any] = json.loads(content.decode())
        check(value, dict)
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")  # paths of a C locale are such text
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path}: is damaged ({told(error)}).") from error
    return value


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    values = plain(record)
    write_atomic(folder / RUN, json.dumps(values | {"digest": fingerprint(values)}, indent=1, allow_nan=False) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The run's record, checked: its fields may be used without a look. None if there is no run. DamagedError if the record cannot be used,
    or if there is none beside what a run leaves."""
    path = folder / RUN
    try:
        record = read_json(path)
    except ABSENT as error:
        if folder.is_dir() and (left := traces(os.listdir(folder))):
            raise DamagedError(f"{path}: is missing, though {left[0]} is there.") from error
        return None
    try:
        if record.pop("digest", None) not in (None, fingerprint(record)):
            raise DamagedError("it was changed after it was written: its digest differs")
        check(record, _RECORD | (_DONE if is_done(record) else {}))
        if is_done(record) and record["last5"].keys() != record["final"].keys() - set(_TRAINED):
            raise DamagedError("last5 and final are not of the same sets")
        own = record["identity"]
        if (record["fingerprint"], record["setting"]) != (fingerprint(own), fingerprint({k: own[k] for k in own if k != "seed"})):
            raise DamagedError("its identity is not that of its fingerprint")
        run_config(record)
    except Exception as error:
        raise DamagedError(f"{path}: cannot be used ({told(error)}).") from error
    return record


def traces(names: Iterable[str]) -> list[str]:
    """Those of a folder's names that only a run leaves there."""
    return [name for name in sorted(names) if any(fnmatch.fnmatchcase(name, trace) for trace in TRACES)]


def is_done(record: Mapping[str, Any] | None) -> bool:
    """Finished or diverged: there is nothing left to run."""
    return record is not None and record.get("status") in (FINISHED, DIVERGED)


def can_continue(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from."""
    return (folder / CHECKPOINT).exists() or (folder / PREVIOUS).exists()


def run_config(record: Mapping[str, Any]) -> TrainConfig:
    return from_dict(TrainConfig, record["config"])


def write_metrics(folder: Path, rows: Sequence[Row]) -> str:
    """Columns in the order in which they first appear; lists are joined by ';'. Returns the SHA-256 of the file."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: ";".join(map(repr, v)) if isinstance(v, list) else "" if v is None else v for k, v in row.items()})
    content = buffer.getvalue().encode()
    write_atomic(folder / METRICS, content)
    return hashlib.sha256(content).hexdigest()


def read_metrics(folder: Path, record: Mapping[str, Any] | None = None) -> list[dict[str, float]]:
    """The numeric columns of metrics.csv, one dictionary an epoch; empty if there is no file. DamagedError if it holds anything but
    numbers, or is not the file that the run's record names."""
    path, record = folder / METRICS, record or {}
    try:
        content = read_bytes(path)
    except ABSENT:
        content = b""
    rows = []
    try:
        if record.get("metrics_sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise DamagedError("its SHA-256 is not that of run.json")
        lines = list(csv.reader(io.StringIO(content.decode()), strict=True))
        if len(lines) < 2 and path.exists():
            raise DamagedError("it holds no epoch")
        for epoch, line in enumerate(lines[1:], 1):
            cells = {name: [float(v) for v in cell.split(";")] if cell else [] for name, cell in zip(lines[0], line, strict=True)}
            rows.append({name: values[0] for name, values in cells.items() if len(values) == 1})
            if rows[-1].get("epoch") != epoch:
                raise DamagedError(f"its row {epoch} is not of epoch {epoch}")
        if is_done(record) and len(rows) != record.get("epochs", len(rows)):
            raise DamagedError(f"it has {len(rows)} epochs, and run.json {record['epochs']}")
        for name, value in record["final"].items() if is_done(record) and rows else ():
            if str(rows[-1].get(name)) != str(number(value)):  # as text: NaN is NaN
                raise DamagedError(f"its last {name} is {rows[-1].get(name)}, and run.json's {value}")
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path}: cannot be used ({told(error)}).") from error
    return rows


def run_folders(runs_dir: Path) -> list[Path]:
    """The folders below `runs_dir` that hold a run, or what is left of one, or that cannot be read; in the order of their names."""
    hidden: list[OSError] = []
    found = {Path(folder) for folder, inner, files in os.walk(runs_dir, onerror=hidden.append) if traces(inner + files)}
    found |= {Path(error.filename) for error in hidden if not isinstance(error, ABSENT)}
    return sorted(found, key=lambda folder: folder / RUN)


def find_runs(runs_dir: Path, damaged: dict[Path, str] | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every run below `runs_dir`. damaged: gets folder -> what is wrong with it; without it, the first such folder
    raises DamagedError."""
    for folder in run_folders(runs_dir):
        try:
            record = read_run(folder)
        except DamagedError as error:
            if damaged is None:
                raise
            damaged[folder] = str(error)
        else:
            if record is not None:
                yield folder, record
