"""Measure every finished run below a folder, build the tables, and write them with a figure and a page."""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam.config import ConfigError
from sam.core.files import number, told, write_atomic
from sam.evaluation.measuring import Run, kept_files, measure_runs, part_of
from sam.evaluation.settings import EvaluateConfig
from sam.report.page import report
from sam.runs import records
from sam.runs.command import evaluate_command, train_command
from sam.runs.tracking import mirror_sharpness
from sam.settings import TrainConfig
from sam.sharpness.context import Measures, Result
from sam.tables import render
from sam.tables import table as tables
from sam.tables.cells import Block
from sam.tables.columns import filled
from sam.tables.conditions import RunRow, settings, value_text
from sam.tables.latex import latex, latex_full
from sam.tables.render import inert
from sam.tables.settings import TableConfig
from sam.text import printable


@dataclass(frozen=True)
class Evaluation:
    """The rows behind the tables, the tables, one sentence for each run that could not be measured, and the files written."""

    runs: list[RunRow]
    blocks: list[Block]
    problems: list[str]
    files: list[Path]


def measure_part(config: EvaluateConfig) -> tuple[str, list[str]]:
    """Measure one part of the runs, without a table: (summary line, a sentence for each run that could not be measured)."""
    assert config.part is not None
    runs = part_of(_finished(config, []), config.part, config.parts, config.sharpness)
    problems: list[str] = []
    rows = measure_runs(runs, config, problems)
    done = sum(folder in rows for folder, _ in runs)
    return f"part {config.part} of {config.parts} (from 0): {done} of {len(runs)} runs are measured.", problems


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure what is not measured yet, build the tables and write them. Raises ConfigError if there is no finished run."""
    problems: list[str] = []
    _check(config.tables)
    done = _finished(config, problems)
    rows = measure_runs(done, config, problems)
    runs: list[RunRow] = []
    for folder, record in done:
        try:
            runs += [_row(folder, record, rows[folder])] if folder in rows else []
        except Exception as error:
            problems.append(f"{folder.name}: {told(error)}.")
    out = Path(config.out) if config.out else Path(config.runs_dir) / "tables"
    wanted = {name: filled(table, config.sharpness, runs) for name, table in config.tables.items()}
    blocks = {name: [] if table is None else tables.build(table, runs, config.sharpness.rho) for name, table in wanted.items()}
    kept = trajectories(done, rows) if config.kept else None
    files = []
    for name, content in _files(blocks, runs, config, kept, problems):
        if content is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_atomic(out / name, content)
            files.append(out / name)
    mirror_sharpness(config.tracking, ((Path(run.folder), run.record, run.measures) for run in runs if run.is_finished))
    return Evaluation(runs, [b for group in blocks.values() for b in group], problems, files)


def _check(wanted: Mapping[str, TableConfig]) -> None:
    """Refuse a wrong table before hours of measuring, not after. Raises ConfigError."""
    titles = [table.title for table in wanted.values()]
    for name, table in wanted.items():
        full = name.endswith("_full") and name.removesuffix("_full") in wanted
        if full or records.traces([f"{name}.csv"]) or f"{name}.csv" == KEPT:
            raise ConfigError(f"tables.{name}: its file {name}.csv would be taken for another one of that name; choose another name.")
        parts: dict[str, tuple[object, str]] = {"": (table, "title rows columns")}
        parts |= {f"rows[{i}].": (row, "label") for i, row in enumerate(table.rows)}
        parts |= {f"columns[{i}].": (column, "header measure") for i, column in enumerate(table.columns)}
        for missing in (f"{at}{key}" for at, (part, keys) in parts.items() for key in keys.split() if not getattr(part, key)):
            raise ConfigError(f"tables.{name}.{missing}: is missing or empty; a table needs it.")
        try:
            tables.check(table)
        except ConfigError as error:
            raise ConfigError(f"tables.{name}: {error}") from None
        if titles.count(table.title) > 1:
            raise ConfigError(f"tables.{name}.title={table.title}: each table needs a title of its own.")


def _finished(config: EvaluateConfig, problems: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """Find the runs to measure, ordered by their start; report every other one as a problem. Raises ConfigError if there is none."""
    damaged: dict[Path, str] = {}
    found = list(records.find_runs(Path(config.runs_dir), damaged)) if os.path.isdir(config.runs_dir) else []
    problems += [f"{folder.name}: {told}" for folder, told in damaged.items()]
    done = sorted(((f, r) for f, r in found if records.is_done(r)), key=lambda run: (run[1]["started"], run[0]))
    if not done:
        others = "; ".join([*[f"{len(found)} unfinished"][: len(found)], *damaged.values()])
        none = f"runs_dir={config.runs_dir}: holds no finished run{others and f' ({others})'}"
        raise ConfigError(f"{none}; train first, for example: python train.py -m experiment=demo")
    if config.seeds is not None:
        done = [(folder, record) for folder, record in done if record["config"].get("seed", 0) in config.seeds]
        if not done:
            raise ConfigError(f"seeds={config.seeds}: no finished run below {config.runs_dir} has one of these seeds.")
    problems += [f"{folder.name}: not finished, left out." for folder, record in found if not records.is_done(record)]
    old = [folder.name for folder, record in done if record.get("numerics") != records.NUMERICS]
    problems += [f"{name}: trained by an older version of the arithmetic; its row may differ from a new run's." for name in old]
    return done


def _row(folder: Path, record: dict[str, Any], measured: Result) -> RunRow:
    """Join a run's measures with what only its training saw: gaps to the running training losses, means over epochs, validation values."""
    seen = {"val_loss": record["final"].get("val_loss"), "val_accuracy": record["final"].get("val_accuracy")}
    seen |= {f"last5_{name}": value for name, value in record["last5"].items()}
    values: Measures = {name: found for name, value in seen.items() if (found := number(value)) is not None}
    values |= measured.values
    for name, column in (("gap_running", "train_loss"), ("gap_perturbed", "perturbed_loss")) if "test_loss_channel" in values else ():
        test, met = values["test_loss_channel"], number(record["final"].get(column))
        values[name] = None if test is None or met is None else test - met
    for name in [name for name in values if name.startswith(("eigenvalue[k=1]", "eigenvalue[k=1,"))]:
        where = "" if name.endswith("[k=1]") else name.replace("eigenvalue[k=1,", "[")
        top, loss = values[name], values.get(f"train_loss{where}")  # on the same images
        values[f"lambda1_over_loss{where}"] = top / loss if top is not None and loss else None
    epochs = records.read_metrics(folder, record)
    for name in ("eps_over_rho", "cos_g_eps"):  # of the perturbations met in training; a method without any has no such column
        if curve := [row[name] for row in epochs if name in row]:
            values |= {name: curve[-1], f"mean_{name}": math.fsum(curve) / len(curve)}  # epochs have as many steps each
    config, finished = records.run_config(record), record["status"] == records.FINISHED
    files = {"Checkpoint": records.CHECKPOINT, "Measures": records.MEASURES}
    return RunRow(
        config=config,
        **{key: record[key] for key in ("setting", "status", "diverged_epoch", "fingerprint")},
        measures=values,
        series=measured.series,
        epochs=epochs,
        folder=str(folder),
        data_fingerprint=record["data"]["fingerprint"],
        data_notes=tuple(record["data"]["notes"]),
        init_from=record["identity"].get("init_from"),
        started_from=started_from(config),
        command=train_command(config),
        files={name: str(folder / file) for name, file in files.items() if finished},
        record=record,
    )


def started_from(config: TrainConfig) -> str | None:
    """Name of the file of initial weights, or None. A run's checkpoint is named by its folder, since all of them share one file name."""
    file = Path(config.init_from or "")
    return (file.parent.name if file.name == records.CHECKPOINT else "") or file.name or None


def _files(
    blocks: Mapping[str, list[Block]], runs: Sequence[RunRow], config: EvaluateConfig, kept: str | None, problems: Sequence[str]
) -> Iterator[tuple[str, str | bytes | None]]:
    """Name and content of every file: tables in each format, kept.csv, figure and page. None: remove what an earlier call wrote."""
    for name, made in blocks.items():
        yield from ((f"{name}{suffix}", form(made) if made else None) for suffix, form in FORMATS.items())
        yield f"{name}.tex", latex(made, name) if made else None
    if any(run.is_finished for run in runs):
        from sam.report.overview import overview

        picture = io.BytesIO()
        overview(runs, config.sharpness.rho, picture)
        yield "overview.png", picture.getvalue()
    if kept is not None:
        yield KEPT, kept
    every = [block for made in blocks.values() for block in made]
    yield "report.html", report(runs, every, config.sharpness, evaluate_command(config), problems)


FORMATS = {".md": render.markdown, ".csv": render.csv, "_full.tex": latex_full}
KEPT = "kept.csv"


def trajectories(done: Sequence[Run], rows: Mapping[Path, Result]) -> str:
    """Write the measures along the epochs as CSV: folder, seed, optimizer.method and other settings that vary, epoch, every measure (empty
    if not measured). rows: by folder (final checkpoint) and by file. Ordered as the runs are, then by epoch."""
    known = {folder: _settings(records.run_config(record)) for folder, record in done}
    names = dict.fromkeys(name for values in known.values() for name in values)
    varying = [name for name in names if name == "optimizer.method" or len({values.get(name) for values in known.values()}) > 1]
    lines = []
    for folder, record in done:
        config = records.run_config(record)
        own = {"folder": inert(printable(folder)), "seed": config.seed, **{name: known[folder].get(name, "") for name in varying}}
        measured = {epoch: rows.get(file) for epoch, file in kept_files(folder, record).items()}
        if record["status"] == records.FINISHED:
            measured[config.epochs] = rows.get(folder)
        lines += [own | {"epoch": epoch} | dict(found.values) for epoch, found in measured.items() if found is not None]
    columns = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _settings(config: TrainConfig) -> dict[str, str]:
    """Settings that the run reads, except its seed: dotted name -> text."""
    own = {f"optimizer.{key}": getattr(config.optimizer, key) for key in config.optimizer.used_keys}
    others = {name: value for name, value in settings(config).items() if not name.startswith("optimizer.")}
    return {name: inert(printable(value_text(value))) for name, value in (own | others).items()}
