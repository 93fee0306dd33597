"""Rows of measurements in a JSON file beside their checkpoint: one for every notion and way of measuring it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import data
from sam.config import SharpnessConfig
from sam.results import identity, records
from sam.sharpness.notions import Notion
from sam.sharpness.subject import Result, Subject, merge


def keys(
    checkpoint_hash: str, data_fingerprint: str, sharpness: SharpnessConfig, splits: Collection[str] = ("test",), **more: object
) -> dict[Notion, str]:
    """Notion, or part of one -> key of its row: the checkpoint's bytes, the data, and all that can change its numbers.

    splits: the sets that there are beside the training set. Raises DataError.
    """
    origin = {"checkpoint": checkpoint_hash, "data": data_fingerprint, **more}
    rows = [row for name in sharpness.chosen for row in Notion(name).rows(sharpness, splits)]
    return {row: identity.fingerprint({"notion": row.name, **origin, "settings": row.settings(sharpness)}) for row in rows}


def measure(subject: Subject, missing: Mapping[Notion, str], path: Path, note: Callable[[str], None]) -> Result:
    """Measure the notions of `missing` (with their keys); each is stored as soon as it is known; `note` is told its name before."""
    data.usable_folder(path.parent, "folder of the rows")
    results = []
    for notion, key in missing.items():
        note(str(notion))
        results.append(notion.measure(subject))
        store(path, key, notion.name, results[-1], notion.settings(subject.config))
    return merge(results)


def _read(path: Path) -> dict[str, Any]:
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return rows if isinstance(rows, dict) else {}


def stored(path: Path) -> dict[str, Result]:
    """The rows of a file, by key; damaged ones are left out."""
    rows = {}
    for key, row in _read(path).items():
        try:
            values = {name: records.number(value) for name, value in row["values"].items()}
            series = {
                name: {column: [records.number(v) for v in column_values] for column, column_values in curve.items()}
                for name, curve in row["series"].items()
            }
        except (KeyError, TypeError, AttributeError):
            continue
        rows[key] = Result(values, series)
    return rows


def store(path: Path, key: str, name: str, result: Result, settings: Mapping[str, object]) -> None:
    """Add this row to those of the file."""
    row = {"notion": name, "settings": settings, "values": records.plain(result.values), "series": records.plain(result.series)}
    with _alone(path.parent):
        content = json.dumps({"format": 2, "rows": _read(path) | {key: row}}, indent=1, allow_nan=False)
        records.write_atomic(path, content + "\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: of two that read, add and write at once, one would lose its row."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
