"""Store rows of measurements in a JSON file beside the checkpoint: one row per notion and its settings."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import data
from sam.core.files import ABSENT, NAMED, DamagedError, StorageError, check, is_number, number, plain, read_json, told, write_atomic
from sam.runs import identity, lock, records
from sam.sharpness.context import Context, Notion, Result, merge
from sam.sharpness.settings import SharpnessConfig


def keys(
    checkpoint_hash: str, data_fingerprint: str, sharpness: SharpnessConfig, splits: Collection[str], loss: str, **more: object
) -> dict[Notion, str]:
    """Notion (or part of one) -> key of its row, a hash of the checkpoint's bytes, the data, and every setting that affects its numbers.
    splits: the evaluation sets that exist; loss: what the model was trained with. Raises DataError."""
    origin = {"checkpoint": checkpoint_hash, "data": data_fingerprint, **more}
    rows = [row for name in sharpness.chosen for row in Notion(name).rows(sharpness, splits)]
    return {row: _key(origin, row.name, row.settings(sharpness, loss)) for row in rows}


def _key(origin: Mapping[str, object], name: object, settings: object) -> str:
    return identity.fingerprint({"notion": name, **origin, "settings": settings})


def measure(context: Context, missing: Mapping[Notion, str], path: Path, note: Callable[[str], None], run: str | None = None) -> Result:
    """Measure the missing notions (notion -> row key) and store each as soon as it is measured. `note` receives each name first."""
    data.usable_folder(path.parent, "folder of the rows")
    results = []
    for notion, key in missing.items():
        note(str(notion))
        results.append(notion.measure(context))
        store(path, key, notion.name, results[-1], notion.settings(context.config, context.loss_name), run)
    return merge(results)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        check(content, {"rows": dict})
    except ABSENT:
        return {}
    except DamagedError as error:
        raise DamagedError(f"{path}: cannot be used ({told(error)}); delete it to measure anew.") from error
    return dict(content["rows"])


def stored(path: Path, run: str | None = None) -> dict[str, Result]:
    """Read a file's rows, by key. Raises DamagedError if one was changed, or belongs to another run (fingerprint)."""
    rows = {}
    for key, row in _read(path).items():
        try:
            check(row, {"values": NAMED, "series": {...: {...: [is_number]}}})
            if row.get("digest") not in (None, _digest(key, row)):
                raise DamagedError("it was changed after it was written: its digest differs")
            if run is not None and row.get("run", run) != run:
                raise DamagedError(f"it is of run {row['run']}")
        except DamagedError as error:
            raise DamagedError(f"{path}: row {key} cannot be used ({error}); delete the file to measure anew.") from error
        values = {name: number(value) for name, value in row["values"].items()}
        series = {name: {column: list(map(number, of)) for column, of in curve.items()} for name, curve in row["series"].items()}
        rows[key] = Result(values, series)
    return rows


def of_final(folder: Path, record: Mapping[str, Any]) -> Result:
    """Every row stored of a run's final checkpoint, whatever was asked for; of two with one name the later. Raises DamagedError."""
    path, sha256 = folder / records.MEASURES, record.get("checkpoint_sha256")
    raw = _read(path)
    if not raw or record["status"] == records.DIVERGED:
        return Result()
    known = sha256 or data.file_fingerprint(folder / records.CHECKPOINT, "checkpoint")
    origin = {"checkpoint": str(known)[:16], "data": record["data"]["fingerprint"]}
    own = lambda row: _key(origin, row.get("notion"), row.get("settings"))
    return merge(result for key, result in stored(path, record["fingerprint"]).items() if own(raw[key]) == key)


def _digest(key: str, row: Mapping[str, Any]) -> str:
    return identity.fingerprint({"key": key} | {name: value for name, value in row.items() if name != "digest"})


def store(path: Path, key: str, name: str, result: Result, settings: Mapping[str, object], run: str | None = None) -> None:
    """Add a row to the file. run: fingerprint of the measured run. Raises StorageError, DamagedError."""
    row = plain({"notion": name, "settings": settings, **vars(result)} | ({"run": run} if run else {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock.alone(path):  # of two that read, add and write at once, one would lose its row
            rows = {other: old for other, old in _read(path).items() if other != key} | {key: row | {"digest": _digest(key, row)}}
            content = json.dumps({"format": 2, "rows": rows}, indent=1, allow_nan=False)  # the newest last: of_final takes it
            write_atomic(path, content + "\n")
    except OSError as error:
        raise StorageError(f"{path}: could not be written ({error.strerror}).") from error
