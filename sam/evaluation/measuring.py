"""Every finished run -> one row of measurements, each notion measured once and stored beside the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data
from data.image_data import ImageData
from sam.config import ConfigError, EvaluateConfig, SharpnessConfig, TrainConfig, to_dict
from sam.core.device import number_format, pick_device
from sam.results import identity, records
from sam.sharpness.notions import Notion, work
from sam.sharpness.subject import Measures, Result, Series, Sizes, subject_of
from sam.training import checkpoint
from sam.training.progress import Progress, progress_for
from sam.training.run import load_trained

Run = tuple[Path, dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What is known of one run: the values and curves of all notions asked for."""

    values: Measures = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)


@dataclass
class _Pending:
    """A run and the notions that its stored rows lack."""

    folder: Path
    record: dict[str, Any]
    config: TrainConfig
    keys: dict[str, str]  # notion -> key of its row

    @property
    def sizes(self) -> Sizes:
        try:
            test = data.describe(**to_dict(self.config.dataset)).test_size
        except data.DataError:
            test = 0  # only the progress bar wants it; loading will name the problem
        return Sizes(self.record["data"]["train_images"], test, self.record["parameters"])


def measure_runs(done: Sequence[Run], config: EvaluateConfig, problems: list[str]) -> dict[Path, Measured]:
    """Rows by folder: what is stored beside the run, and what is measured now. A run that cannot be measured becomes a problem."""
    rows: dict[Path, Measured] = {}
    pending: list[_Pending] = []
    for folder, record in done:
        if record["status"] == records.DIVERGED:
            rows[folder] = Measured()
            continue
        try:
            checkpoint_hash = data.file_fingerprint(folder / records.CHECKPOINT)
        except data.DataError:
            problems.append(f"{folder.name}: {records.CHECKPOINT} is missing; the run is left out of the tables.")
            continue
        keys = {name: _key(name, checkpoint_hash, record, config.sharpness) for name in config.sharpness.chosen}
        stored = {} if config.force else _stored(folder)
        rows[folder] = _merge(stored[key] for key in keys.values() if key in stored)
        missing = {name: key for name, key in keys.items() if key not in stored}
        if missing:
            pending.append(_Pending(folder, record, records.run_config(record), missing))
    if pending:
        _measure(pending, config, rows, problems)
    return rows


def _measure(pending: list[_Pending], config: EvaluateConfig, rows: dict[Path, Measured], problems: list[str]) -> None:
    """Measure what is pending, run by run; every notion is stored as soon as it is known."""
    device, load = pick_device(config.device), _data_loader(config)
    pending.sort(key=lambda run: json.dumps(to_dict(run.config.dataset), sort_keys=True))  # each data set is read once
    total = sum(work(run.keys, run.sizes, config.sharpness) for run in pending)
    with number_format("fp32", config.threads), progress_for(total, f"measuring {len(pending)} checkpoints") as progress:
        for run in pending:
            try:
                images = load(run.config, run.record["data"]["fingerprint"])
                model = load_trained(run.config, run.folder, images, device)
                subject = subject_of(model, images, config.sharpness, optimizer=run.config.optimizer, progress=progress.advance)
                for name, key in run.keys.items():
                    progress.note(f"{run.folder.name}: {name}")
                    result = Notion(name).measure(subject)
                    _store(run.folder, key, name, result, Notion(name).settings(config.sharpness))
                    rows[run.folder] = _merge([rows[run.folder], result])
            except (checkpoint.CheckpointError, data.DataError, ConfigError) as error:
                rows.pop(run.folder)
                _say(progress, problems, f"{run.folder.name}: {error}")


def _say(progress: Progress, problems: list[str], sentence: str) -> None:
    problems.append(sentence)
    progress.say(f"error: {sentence}")


def _data_loader(config: EvaluateConfig) -> Callable[[TrainConfig, str], ImageData]:
    """Data sets by their settings, read once each; `data_path` and `data_root` say where they lie now, if they have moved."""
    cache: dict[str, ImageData] = {}

    def load(run: TrainConfig, expected: str) -> ImageData:
        dataset = dataclasses.replace(run.dataset, path=config.data_path or run.dataset.path, root=config.data_root or run.dataset.root)
        key = json.dumps(to_dict(dataset), sort_keys=True)
        if key not in cache:
            cache.clear()  # one at a time in memory
            cache[key] = data.load(**to_dict(dataset)).to(pick_device(config.device))
        if cache[key].fingerprint != expected:
            raise ConfigError(
                f"the data differ from those it was trained on (fingerprint {cache[key].fingerprint}, trained on {expected})."
            )
        return cache[key]

    return load


# ------------------------------------------------------------------------------------------------------------------ storing


def _key(name: str, checkpoint_hash: str, record: Mapping[str, Any], sharpness: SharpnessConfig) -> str:
    parts = {"notion": name, "checkpoint": checkpoint_hash, "data": record["data"]["fingerprint"]}
    return identity.fingerprint(parts | {"settings": Notion(name).settings(sharpness)})


def _merge(parts: Any) -> Measured:
    total = Measured()
    for part in parts:
        total.values.update(part.values)
        total.series.update(part.series)
    return total


def _read(folder: Path) -> dict[str, Any]:
    try:
        rows = json.loads((folder / records.MEASURES).read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _stored(folder: Path) -> dict[str, Measured]:
    """The rows stored beside a run, by key; damaged ones are left out."""
    rows = {}
    for key, row in _read(folder).items():
        try:
            values = {name: records.number(value) for name, value in row["values"].items()}
            series = {
                name: {column: [records.number(v) for v in column_values] for column, column_values in curve.items()}
                for name, curve in row["series"].items()
            }
        except (KeyError, TypeError, AttributeError):
            continue
        rows[key] = Measured(values, series)
    return rows


def _store(folder: Path, key: str, name: str, result: Result, settings: Mapping[str, object]) -> None:
    """Add this row to those stored beside the run (one for every notion and way of measuring it)."""
    row = {"notion": name, "settings": settings, "values": records.plain(result.values), "series": records.plain(result.series)}
    content = json.dumps({"format": 2, "rows": _read(folder) | {key: row}}, indent=1, allow_nan=False)
    records.write_atomic(folder / records.MEASURES, content + "\n")
