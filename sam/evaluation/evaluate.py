"""Every finished run below a folder -> one row of measurements each -> the tables."""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam.config import ConfigError, EvaluateConfig, TableConfig
from sam.evaluation.kept import KEPT, trajectories
from sam.evaluation.measuring import measure_runs, part_of
from sam.report.page import report
from sam.runs import records
from sam.runs.tracking import mirror_sharpness
from sam.sharpness.context import Measures, Result
from sam.tables import render
from sam.tables import table as tables
from sam.tables.filling import filled
from sam.tables.table import Block, RunRow


@dataclass(frozen=True)
class Evaluation:
    """runs: what the tables were made of; problems: one sentence for each run that could not be measured; files: what was written."""

    runs: list[RunRow]
    blocks: list[Block]
    problems: list[str]
    files: list[Path]


def measure_part(config: EvaluateConfig) -> tuple[str, list[str]]:
    """Measure what is not measured yet of one part of the runs; rows are stored beside them, no table is made. The tables name the runs
    that cannot take part at all. Returns one line about the part, and one sentence for each of its runs that could not be measured.
    Raises ConfigError if there is no finished run."""
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
    measured = []
    for folder, record in done:
        try:
            measured += [(folder, record, _row(folder, record, rows[folder]))] if folder in rows else []
        except Exception as error:
            problems.append(f"{folder.name}: {records.told(error)}.")
    runs = [row for _, _, row in measured]
    rhos = config.sharpness.rho
    wanted = {name: filled(table, config.sharpness, runs) for name, table in config.tables.items()}
    config = dataclasses.replace(config, tables={name: table for name, table in wanted.items() if table is not None})
    blocks = {name: [] if table is None else tables.build(table, runs, rhos) for name, table in wanted.items()}
    out = Path(config.out) if config.out else Path(config.runs_dir) / "tables"
    files = _write(out, blocks, runs, rhos)
    if config.kept:
        records.write_atomic(out / KEPT, trajectories(done, rows))
        files.append(out / KEPT)
    by_folder = {row.folder: record for _, record, row in measured}
    records.write_atomic(out / "report.html", report(runs, blocks, config, by_folder, problems))
    files.append(out / "report.html")
    finished = ((folder, record, row.measures) for folder, record, row in measured if row.status == records.FINISHED)
    mirror_sharpness(config.tracking, finished)
    return Evaluation(runs, [b for group in blocks.values() for b in group], problems, files)


def _check(wanted: Mapping[str, TableConfig]) -> None:
    """Refuse a wrong table before hours of measuring, not after. Raises ConfigError."""
    titles = [table.title for table in wanted.values()]
    for name, table in wanted.items():
        if records.traces([f"{name}.csv"]) or f"{name}.csv" == KEPT:
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


# --------------------------------------------------------------------------------------------------------------------- rows


def _finished(config: EvaluateConfig, problems: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The runs to measure, in the order in which they were started; every other one becomes a problem. ConfigError if there is none."""
    damaged: dict[Path, str] = {}
    found = list(records.find_runs(Path(config.runs_dir), damaged)) if os.path.isdir(config.runs_dir) else []
    problems += [f"{folder.name}: {told}" for folder, told in damaged.items()]
    done = sorted(((f, r) for f, r in found if records.is_done(r)), key=lambda run: (run[1]["started"], run[0]))
    if not done:
        others = "; ".join([*[f"{len(found)} unfinished"][: len(found)], *damaged.values()])
        raise ConfigError(
            f"runs_dir={config.runs_dir}: holds no finished run{others and f' ({others})'}; train first, for example: "
            "python train.py -m experiment=demo"
        )
    if config.seeds is not None:
        done = [(folder, record) for folder, record in done if record["config"].get("seed", 0) in config.seeds]
        if not done:
            raise ConfigError(f"seeds={config.seeds}: no finished run below {config.runs_dir} has one of these seeds.")
    problems += [f"{folder.name}: not finished, left out." for folder, record in found if not records.is_done(record)]
    old = [folder.name for folder, record in done if record.get("numerics") != records.NUMERICS]
    problems += [f"{name}: trained by an older version of the arithmetic; its row may differ from a new run's." for name in old]
    return done


def _row(folder: Path, record: dict[str, Any], measured: Result) -> RunRow:
    """The measures of a run, with what only the training saw: the gap against the training loss as met, at w and at the perturbed point;
    means over the last epochs; and validation values, where they were not measured."""
    seen = {"val_loss": record["final"].get("val_loss"), "val_accuracy": record["final"].get("val_accuracy")}
    seen |= {f"last5_{name}": value for name, value in record["last5"].items()}
    values: Measures = {name: number for name, value in seen.items() if (number := records.number(value)) is not None}
    values |= measured.values
    for name, column in (("gap_running", "train_loss"), ("gap_perturbed", "perturbed_loss")) if "test_loss_channel" in values else ():
        test, met = values["test_loss_channel"], records.number(record["final"].get(column))
        values[name] = None if test is None or met is None else test - met
    epochs = records.read_metrics(folder, record)
    for name in ("eps_over_rho", "cos_g_eps"):  # of the perturbations met in training; a method without any has no such column
        if curve := [row[name] for row in epochs if name in row]:
            values |= {name: curve[-1], f"mean_{name}": math.fsum(curve) / len(curve)}  # epochs have as many steps each
    return RunRow(
        config=records.run_config(record),
        setting=record["setting"],
        status=record["status"],
        diverged_epoch=record["diverged_epoch"],
        measures=values,
        series=measured.series,
        epochs=epochs,
        folder=str(folder),
        fingerprint=record["fingerprint"],
        data_fingerprint=record["data"]["fingerprint"],
        data_notes=tuple(record["data"]["notes"]),
        init_from=record["identity"].get("init_from"),
    )


# ------------------------------------------------------------------------------------------------------------------ writing


def _write(out: Path, blocks: dict[str, list[Block]], runs: Sequence[RunRow], rhos: Sequence[float]) -> list[Path]:
    """Each table as Markdown, CSV and LaTeX, and one figure. The files of a table that has nothing to show now are removed: what an
    earlier call wrote would be taken for the numbers of this one."""
    files = []
    for name, group in blocks.items():
        for suffix, form in ((".md", render.markdown), (".csv", render.csv), (".tex", render.latex)):
            if group:
                records.write_atomic(out / f"{name}{suffix}", form(group))
                files.append(out / f"{name}{suffix}")
            else:
                (out / f"{name}{suffix}").unlink(missing_ok=True)
    if any(run.status == records.FINISHED for run in runs):
        from sam.report.overview import overview

        picture = io.BytesIO()
        overview(runs, rhos, picture)
        records.write_atomic(out / "overview.png", picture.getvalue())
        files.append(out / "overview.png")
    return files
