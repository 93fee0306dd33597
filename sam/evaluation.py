"""Every finished run below a folder -> one row of measurements each -> the tables."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
from data.image_data import ImageData
from sam.config import ConfigError, EvaluateConfig, SharpnessConfig, TableConfig, TrainConfig, to_dict
from sam.core.device import number_format, pick_device
from sam.results import identity, records, render, tables
from sam.results.tables import Block, RunRow
from sam.sharpness.measure import Measures, measure, settings, work
from sam.training import checkpoint
from sam.training.progress import Progress, progress_for
from sam.training.run import load_trained
from sam.training.tracking import mirror_sharpness

VERSION = 1  # raised when a measure's definition or arithmetic changes, so that no old row is reused


@dataclass(frozen=True)
class Evaluation:
    """runs: what the tables were made of; problems: one sentence for each run that could not be measured; files: what was written."""

    runs: list[RunRow]
    blocks: list[Block]
    problems: list[str]
    files: list[Path]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure what is not measured yet, build the tables and write them. Raises ConfigError if there is no finished run."""
    runs_dir = Path(config.runs_dir)
    found = list(records.find_runs(runs_dir))
    done = sorted(((f, r) for f, r in found if records.is_done(r)), key=lambda run: (run[1]["started"], run[0]))  # as they were run
    if not done:
        running = f" ({len(found)} unfinished)" if found else ""
        raise ConfigError(
            f"runs_dir={config.runs_dir}: holds no finished run{running}; train first, for example: python train.py -m experiment=demo"
        )
    problems = [f"{folder.name}: not finished, left out." for folder, record in found if not records.is_done(record)]
    old = [folder.name for folder, record in done if record.get("numerics") != records.NUMERICS]
    problems += [f"{name}: trained by an older version of the arithmetic; its row may differ from a new run's." for name in old]
    done = _readable(done, problems)
    measures = _measure_all(done, config, problems)
    measured = [(folder, record, _row(folder, record, measures[folder])) for folder, record in done if folder in measures]
    runs = [row for _, _, row in measured]
    rhos = config.sharpness.rho
    blocks = {name: tables.build(_fill(table, config.sharpness), runs, rhos) for name, table in config.tables.items()}
    out = Path(config.out) if config.out else runs_dir / "tables"
    files = _write(out, blocks, runs, rhos)
    finished = ((folder, record, row.measures) for folder, record, row in measured if row.status == records.FINISHED)
    mirror_sharpness(config.tracking, finished)
    return Evaluation(runs, [b for group in blocks.values() for b in group], problems, files)


def _fill(table: TableConfig, sharpness: SharpnessConfig) -> TableConfig:
    """The table with "{m}" in its headers and notes replaced by the batch size that was measured with."""
    m = str(sharpness.m)
    columns = [dataclasses.replace(column, header=column.header.replace("{m}", m)) for column in table.columns]
    return dataclasses.replace(table, columns=columns, notes=[note.replace("{m}", m) for note in table.notes])


# ---------------------------------------------------------------------------------------------------------------- measuring


def _readable(done: Sequence[tuple[Path, dict[str, Any]]], problems: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The runs whose recorded settings this version understands; every other one becomes a problem."""
    kept = []
    for folder, record in done:
        try:
            records.run_config(record)
        except (ConfigError, KeyError, TypeError) as error:
            problems.append(f"{folder.name}: its run.json cannot be used ({str(error).rstrip('.')}).")
        else:
            kept.append((folder, record))
    return kept


def _measure_all(done: Sequence[tuple[Path, dict[str, Any]]], config: EvaluateConfig, problems: list[str]) -> dict[Path, Measures]:
    """Rows by folder: those stored beside their run, and those measured now. A run that cannot be measured becomes a problem."""
    rows: dict[Path, Measures] = {}
    pending: list[tuple[Path, TrainConfig, str, dict[str, Any]]] = []
    for folder, record in done:
        if record["status"] == records.DIVERGED:
            rows[folder] = {}
            continue
        try:
            key = _cache_key(folder, record, config.sharpness)
        except data.DataError:
            problems.append(f"{folder.name}: {records.CHECKPOINT} is missing; the run is left out of the tables.")
            continue
        stored = None if config.force else _stored(folder, key)
        if stored is None:
            pending.append((folder, records.run_config(record), key, record))
        else:
            rows[folder] = stored
    if pending:
        device = pick_device(config.device)
        load = _data_loader(config)
        pending.sort(key=lambda run: json.dumps(to_dict(run[1].dataset), sort_keys=True))  # each data set is read once
        total = sum(work(record["data"]["train_images"], _test_size(run), config.sharpness) for _, run, _, record in pending)
        with number_format("fp32", config.threads), progress_for(total, f"measuring {len(pending)} checkpoints") as progress:
            for folder, run, key, record in pending:
                progress.note(folder.name)
                try:
                    images = load(run, record["data"]["fingerprint"])
                    model = load_trained(run, folder, images, device)
                    rows[folder] = measure(model, images.to(device), config.sharpness, progress=progress.advance)
                except (checkpoint.CheckpointError, data.DataError, ConfigError) as error:
                    _say(progress, problems, f"{folder.name}: {error}")
                    continue
                _store(folder, key, rows[folder], config.sharpness)
    return rows


def _say(progress: Progress, problems: list[str], sentence: str) -> None:
    problems.append(sentence)
    progress.say(f"error: {sentence}")


def _test_size(run: TrainConfig) -> int:
    try:
        return data.describe(**to_dict(run.dataset)).test_size
    except data.DataError:
        return 0  # only the progress bar wants it; loading will name the problem


def _data_loader(config: EvaluateConfig) -> Callable[[TrainConfig, str], ImageData]:
    """Data sets by their settings, read once each; `data_path` and `data_root` say where they lie now, if they have moved."""
    cache: dict[str, ImageData] = {}

    def load(run: TrainConfig, expected: str) -> ImageData:
        dataset = dataclasses.replace(run.dataset, path=config.data_path or run.dataset.path, root=config.data_root or run.dataset.root)
        key = json.dumps(to_dict(dataset), sort_keys=True)
        if key not in cache:
            cache.clear()  # one at a time in memory
            cache[key] = data.load(**to_dict(dataset))
        if cache[key].fingerprint != expected:
            raise ConfigError(
                f"the data differ from those it was trained on (fingerprint {cache[key].fingerprint}, trained on {expected})."
            )
        return cache[key]

    return load


def _cache_key(folder: Path, record: dict[str, Any], sharpness: SharpnessConfig) -> str:
    checkpoint_hash = data.file_fingerprint(folder / records.CHECKPOINT)
    parts = {"version": VERSION, "checkpoint": checkpoint_hash, "data": record["data"]["fingerprint"], "settings": settings(sharpness)}
    return identity.fingerprint(parts)


def _stored(folder: Path, key: str) -> Measures | None:
    try:
        stored = json.loads((folder / records.MEASURES).read_text())
        values = stored["rows"][key]["values"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name: records.number(value) for name, value in values.items()}


def _store(folder: Path, key: str, values: Measures, sharpness: SharpnessConfig) -> None:
    """Add this row to those stored beside the run (one for every way of measuring)."""
    try:
        rows = json.loads((folder / records.MEASURES).read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        rows = {}
    rows[key] = {"settings": settings(sharpness), "values": records.plain(values)}
    records.write_atomic(folder / records.MEASURES, json.dumps({"format": 1, "rows": rows}, indent=1, allow_nan=False) + "\n")


def _row(folder: Path, record: dict[str, Any], measures: Measures) -> RunRow:
    """The measures of a run, with what only the training saw: the gap against the training loss as met, at w and at the perturbed point."""
    values = dict(measures)
    test = values.get("test_loss_channel")
    for name, column in (("gap_running", "train_loss"), ("gap_perturbed", "perturbed_loss")):
        met = records.number(record["final"].get(column))
        values[name] = None if test is None or met is None else test - met
    values["last5_test_accuracy"] = records.number(record["last5"].get("test_accuracy"))
    return RunRow(
        config=records.run_config(record),
        setting=record["setting"],
        status=record["status"],
        diverged_epoch=record["diverged_epoch"],
        measures=values,
        epochs=records.read_metrics(folder),
        folder=str(folder),
        fingerprint=record["fingerprint"],
        data_fingerprint=record["data"]["fingerprint"],
        data_notes=tuple(record["data"]["notes"]),
    )


# ------------------------------------------------------------------------------------------------------------------ writing


def _write(out: Path, blocks: dict[str, list[Block]], runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Path]:
    """Each table as Markdown, CSV and LaTeX, and one figure."""
    files = []
    for name, group in blocks.items():
        for suffix, form in ((".md", render.markdown), (".csv", render.csv), (".tex", render.latex)):
            if group:
                records.write_atomic(out / f"{name}{suffix}", form(group))
                files.append(out / f"{name}{suffix}")
    if any(run.status == records.FINISHED for run in runs):
        from sam.results.figures import overview

        out.mkdir(parents=True, exist_ok=True)
        temporary = out / "overview.tmp.png"
        overview(runs, rhos, temporary)
        os.replace(temporary, out / "overview.png")
        files.append(out / "overview.png")
    return files
