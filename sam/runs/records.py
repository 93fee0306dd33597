"""The record of a run in its folder: `run.json` (settings, environment, results) and `metrics.csv` (one row an epoch). What is read is
checked against the digest written with it (old files have none), and against its shape."""

import csv
import fnmatch
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import data
from sam.config import ConfigError
from sam.core.files import ABSENT, DamagedError, UnreadableError, check, is_number, number, plain, read_bytes, read_json, told, write_atomic
from sam.registry import plugins
from sam.runs.identity import fingerprint, identity, run_fingerprint, run_folder
from sam.schema import defaults, flat, from_dict
from sam.settings import TrainConfig
from sam.text import csv_text, printable

RUN, METRICS, CHECKPOINT, MEASURES = "run.json", "metrics.csv", "checkpoint.pt", "sharpness.json"
PREVIOUS = "checkpoint.previous.pt"  # kept while a run is under way, in case the newest turns out damaged
FINISHED, DIVERGED, RUNNING, PREEMPTED, FAILED = "finished", "diverged", "running", "preempted", "failed"
NUMERICS = 3  # raised when the arithmetic of training changes: runs of an older version are named when tables are built

MOST_SIBLINGS = 24  # folders looked into by `another`
TRACES = (RUN, CHECKPOINT, PREVIOUS, "checkpoint.epoch*.pt", METRICS, MEASURES)  # what only a run leaves in a folder

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
_NUMBERS = {...: is_number}
_DONE = {"final": dict.fromkeys((*_TRAINED, ...), is_number), "last5": _NUMBERS, "best": dict, "epochs": int, "diverged_epoch": is_number}


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    values = plain(record)
    write_atomic(folder / RUN, json.dumps(values | {"digest": fingerprint(values)}, indent=1, allow_nan=False) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """Read and check the run's record; None if there is no run. DamagedError if it cannot be used, or is missing beside a run's files."""
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
        for module, version in own.get("plugins", {}).items():
            if (here := plugins().get(module)) != version:
                cure = f"and VERSION {here} of it is loaded" if here else f"which is not loaded; name it: plugins={module}"
                raise UnreadableError(f"{path}: needs the plug-in {module} (VERSION {version}), {cure}.")
        try:
            run_config(record)
        except ConfigError as error:  # of a newer version, say, and whole
            raise UnreadableError(f"{path}: cannot be used here ({told(error)}).") from error
    except UnreadableError:
        raise
    except Exception as error:
        raise DamagedError(f"{path}: cannot be used ({told(error)}).") from error
    return record


def traces(names: Iterable[str]) -> list[str]:
    """Those of a folder's names that only a run writes."""
    return [name for name in sorted(names) if any(fnmatch.fnmatchcase(name, trace) for trace in TRACES)]


def is_done(record: Mapping[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Finished or diverged: there is nothing left to run."""
    return record is not None and record.get("status") in (FINISHED, DIVERGED)


def force_began(config: TrainConfig, record: Mapping[str, Any] | None) -> bool:
    """Whether a command with `force`, and as many replicas, left this run unfinished: the same command continues it."""
    own = record["config"] if record is not None and not is_done(record) else {}
    return own.get("force") is True and (own.get("replicas") or 1) == (config.replicas or 1)


def can_continue(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / PREVIOUS).exists()


def existing(config: TrainConfig) -> dict[str, Any] | None:
    """The record in the run's folder. ConfigError if that holds another run, or one without a readable record, not to be replaced."""
    try:
        record = read_run(run_folder(config))
    except UnreadableError as error:  # it may be whole, and anybody's: not for `force` to replace
        raise ConfigError(str(error)) from error
    except DamagedError as error:
        own = Path(config.init_from or "").expanduser().resolve().parent == run_folder(config).resolve()  # force would delete it
        if config.force and not own:
            return None
        cure = f"move init_from={config.init_from} to another folder" if own else "redo the run with force=true"
        raise ConfigError(f"{told(error)}; restore the file, or {cure}.") from error
    _refuse_foreign(config, record)
    return record


def _refuse_foreign(config: TrainConfig, record: Mapping[str, Any] | None) -> None:
    if record is not None and record["fingerprint"] != run_fingerprint(config):
        folder = run_folder(config)
        raise ConfigError(f"run_dir={folder}: this folder holds another run ({record['name']}); choose another, or leave run_dir out.")


def check_folder(config: TrainConfig) -> None:
    """DataError if an unfinished run's folder cannot be written; ConfigError if it holds another run. Damage is for `existing`."""
    folder = run_folder(config)
    try:
        record = read_run(folder)
        _refuse_foreign(config, record)
        done = is_done(record) and not config.force
    except DamagedError:
        done = os.path.isdir(folder)
    if not done:
        data.usable_folder(folder, "run_dir" if config.run_dir else "runs_dir")


def another(config: TrainConfig, planned: Collection[Path] = ()) -> str | None:
    """ "another run than FOLDER: epochs 3 instead of 2": of a run that has no record yet, while one whose name differs in the hash alone
    (and is not `planned`) was made with one other value. None if there is none, or nobody can tell."""
    folder = run_folder(config)
    if config.run_dir is not None or (folder / RUN).exists():
        return None
    own, usual = flat(identity(config)), flat(defaults(TrainConfig))
    pattern = f"{folder.name[:-8]}{8 * '[0-9a-f]'}"
    others = (path for path in sorted(folder.parent.glob(pattern)) if path != folder and path not in planned)
    for other in islice(others, MOST_SIBLINGS):
        with suppress(Exception):  # whatever is wrong there is not this run's concern
            theirs = flat(read_json(other / RUN)["identity"])
            (key,) = (key for key in own | theirs if own.get(key, usual.get(key)) != theirs.get(key, usual.get(key)))
            new, old = (printable(values.get(key, usual.get(key)))[:60] for values in (own, theirs))
            return f"another run than {other.name}: {key} {new} instead of {old}"
    return None


def run_config(record: Mapping[str, Any]) -> TrainConfig:
    return from_dict(TrainConfig, record["config"])


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which they first appear; lists are joined by ';'. Returns the SHA-256 of the file."""
    lines = [{name: ";".join(map(repr, value)) if isinstance(value, list) else value for name, value in row.items()} for row in rows]
    content = csv_text(lines).encode()
    write_atomic(folder / METRICS, content)
    return hashlib.sha256(content).hexdigest()


def read_metrics(folder: Path, record: Mapping[str, Any] | None = None) -> list[dict[str, float]]:
    """The numeric columns of metrics.csv, one dictionary an epoch; [] if there is no file. DamagedError if it is not as it was written."""
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
    links = [path for path in Path(runs_dir).rglob("*") if path.is_symlink() and os.path.isdir(path)]  # to runs that were moved
    walked = (step for top in (*links, runs_dir) for step in os.walk(top, onerror=hidden.append))
    found = set({os.path.realpath(folder): Path(folder) for folder, inner, files in walked if traces(inner + files)}.values())
    found |= {Path(error.filename) for error in hidden if not isinstance(error, ABSENT)}
    return sorted(found, key=lambda folder: folder / RUN)


def find_runs(runs_dir: Path, damaged: dict[Path, str] | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (folder, record) of every run below `runs_dir`. damaged: gets folder -> problem; without it, the first problem is raised."""
    for folder in run_folders(runs_dir):
        try:
            if (record := read_run(folder)) is not None:
                yield folder, record
        except DamagedError as error:
            if damaged is None:
                raise
            damaged[folder] = str(error)
