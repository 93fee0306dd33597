"""Measure every finished run below a folder, build the tables, and write them with figures and a page."""

import dataclasses
import itertools
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sam.config import ConfigError
from sam.core.files import number, read_bytes, told, write_atomic
from sam.evaluation import storing
from sam.evaluation.flat_files import as_csv, measured_epochs, run_lines, trajectories
from sam.evaluation.measuring import Run, measure_runs, part_of
from sam.evaluation.settings import EvaluateConfig
from sam.runs import records
from sam.runs.command import evaluate_command, hydra_value, train_command
from sam.runs.progress import progress_for
from sam.runs.tracking import mirror_sharpness
from sam.settings import TrainConfig
from sam.sharpness.context import Measures, Result
from sam.sharpness.derived import derived
from sam.tables import ledger, picks, render, sweep
from sam.tables import table as tables
from sam.tables.cells import Block
from sam.tables.columns import filled
from sam.tables.conditions import RunRow, check_select, conditions, is_number, selected, table_rows, varying
from sam.tables.latex import latex, latex_full
from sam.tables.settings import TableConfig
from sam.tables.statistics import is_finite


class Evaluation(NamedTuple):
    """The rows behind the tables, the tables, one sentence for each run that could not be measured, the files written, and the command
    lines of a sweep's final runs with the picked values."""

    runs: list[RunRow]
    blocks: list[Block]
    problems: list[str]
    files: list[Path]
    commands: list[str]

    @property
    def hidden(self) -> list[RunRow]:
        """The runs that no cell of any table shows."""
        shown = {folder for block in self.blocks for row in block.rows for cell in row for folder in cell.folders}
        return [run for run in self.runs if run.folder not in shown]


def measure_part(config: EvaluateConfig) -> tuple[str, list[str]]:
    """Measure one part of the runs, without a table: (summary line, a sentence for each run that could not be measured)."""
    assert config.part is not None
    runs = part_of(finished(config, []), config.part, config.parts, config.sharpness)
    problems: list[str] = []
    rows = measure_runs(runs, config, problems)
    done = sum(folder in rows for folder, _ in runs)
    return f"part {config.part} of {config.parts} (from 0): {done} of {len(runs)} runs are measured.", problems


def evaluate(config: EvaluateConfig, show: Callable[[list[Block]], None] = lambda _: None) -> Evaluation:
    """Measure what is not measured yet, build the tables and write them; then, after `show` had them, draw the figures and the page. Raises
    ConfigError if there is no finished run."""
    problems: list[str] = []
    _check(config.tables)
    claims = ledger.own_documents()
    done = finished(config, problems)
    rows = {} if config.stored else measure_runs(done, config, problems)
    measured = storing.of_final if config.stored else lambda folder, _: rows[folder]
    runs = _rows([run for run in done if config.stored or run[0] in rows], measured, problems)
    out = Path(config.out) if config.out else Path(config.runs_dir) / "tables"
    blocks, commands = _blocks(config, runs)
    blocks[CLAIMS] = ledger.of_runs(claims, runs)
    kept = measured_epochs(done, rows) if config.kept else None
    whole = {FINAL: "".join(f"{line}\n" for line in commands) or None} if commands or _is_ours(out, SWEEP) else {}
    whole |= {} if kept is None else {KEPT: trajectories(done, kept)}
    every = [block for group in blocks.values() for block in group]
    files = _write(out, itertools.chain(_tables(blocks, runs, out), whole.items()))
    show(every)
    files += _write(out, _pictures(every, runs, config, kept or {}, problems, out))
    found = lambda run: {name: value for name, value in run.measures.items() if name not in PAID}  # W&B has these
    mirror_sharpness(config.tracking, ((Path(run.folder), run.record, found(run)) for run in runs if run.is_finished))
    return Evaluation(runs, every, problems, files, commands)


def _blocks(config: EvaluateConfig, runs: Sequence[RunRow]) -> tuple[dict[str, list[Block]], list[str]]:
    """Name -> blocks of every table, the sweep's first; and the command lines of its final runs. What no table's row matches stands below
    each table of its condition."""
    wanted = {name: filled(table, config.sharpness, runs) for name, table in config.tables.items()}
    chosen = [table for table in wanted.values() if table is not None]
    lost = tables.unmatched(chosen, runs)
    blocks, commands = dict[str, list[Block]](), list[str]()
    if config.sweep.show != "never":
        shown = config.sweep.show == "always" or needs_pivots(chosen, runs, lost)
        picked, commands = picks.build(runs, _final_command) if shown else ([], [])
        pivots = sweep.build(config.sweep, runs, config.sharpness.rho) if shown else []
        blocks[SWEEP] = [*pivots[:1], *picked, *pivots[1:]]
    for name, table in wanted.items():
        blocks[name] = [] if table is None else tables.build(table, runs, config.sharpness.rho, lost)
    return blocks, commands


def needs_pivots(tables: Sequence[TableConfig], runs: Sequence[RunRow], lost: Sequence[RunRow]) -> bool:
    """True if the layouts do not fit the runs: some match no row (`lost`), a row splits by settings, or conditions differ in a number of
    three or more values, or in two numbers."""
    found = conditions(runs)
    if lost or any(len(table_rows(spec, c.runs)) > 1 for table in tables for spec in table.rows for c in found):
        return True
    numbers = {name: {value for c in found if is_number(value := c.key[name])} for name in varying([c.key for c in found])}
    sizes = [len(values) for values in numbers.values() if len(values) > 1]
    return len(sizes) > 1 or any(size > 2 for size in sizes)


def _final_command(run: RunRow, seeds: Sequence[int]) -> str:
    """The command line of a run's settings with these seeds, trained on all training images, in a folder beside the sweep's."""
    everything = dataclasses.replace(run.config.dataset, val_fraction=0.0, val_size=None)
    words = shlex.split(train_command(dataclasses.replace(run.config, seed=TrainConfig.seed, dataset=everything)))
    if notes := run.config.protocol.notes:  # they belong below the final tables too
        words.append(f"protocol.notes={hydra_value(notes)}")
    parent = Path(run.folder).parent
    folder = f"{parent if parent.name.strip('.') else parent.resolve()}_final"
    return shlex.join([*words[:2], "-m", *words[2:], f"seed={','.join(map(str, seeds))}", f"runs_dir={hydra_value(folder)}"])


def stored_runs(config: EvaluateConfig, problems: list[str]) -> list[RunRow]:
    """The finished runs with every row stored of their final checkpoint; measures nothing."""
    return _rows(finished(config, problems), storing.of_final, problems)


def _rows(done: Sequence[Run], measured: Callable[[Path, dict[str, Any]], Result], problems: list[str]) -> list[RunRow]:
    runs = []
    for folder, record in done:
        try:
            runs.append(_row(folder, record, measured(folder, record)))
        except Exception as error:
            problems.append(f"{folder.name}: {told(error)}.")
    return runs


def _check(wanted: Mapping[str, TableConfig]) -> None:
    """Refuse a wrong table before hours of measuring, not after. Raises ConfigError."""
    titles = [table.title for table in wanted.values()]
    for name, table in wanted.items():
        full = name.endswith("_full") and name.removesuffix("_full") in wanted
        if full or records.traces([f"{name}.csv"]) or f"{name}.csv" in (KEPT, RUNS, f"{SWEEP}.csv", f"{CLAIMS}.csv"):
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


def finished(config: EvaluateConfig, problems: list[str]) -> list[Run]:
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
        found, done = ([run for run in of if run[1]["config"].get("seed", 0) in config.seeds] for of in (found, done))
        if not done:
            raise ConfigError(f"seeds={config.seeds}: no finished run below {config.runs_dir} has one of these seeds.")
    if select := config.select or {}:
        check_select(select)
        found, done = ([run for run in of if selected(records.run_config(run[1]), select)] for of in (found, done))
        if not done:
            raise ConfigError(f"select={select}: no finished run below {config.runs_dir} has these settings.")
    problems += [f"{folder.name}: not finished, left out." for folder, record in found if not records.is_done(record)]
    old = [folder.name for folder, record in done if record.get("numerics") != records.NUMERICS]
    problems += [f"{name}: trained by an older version of the arithmetic; its row may differ from a new run's." for name in old]
    return done


def _row(folder: Path, record: dict[str, Any], measured: Result) -> RunRow:
    """Join a run's measures with what only its training saw: gaps to the running training losses, means over epochs, the values of the last
    epoch where they were not measured, the mean of the last five and the best of all epochs."""
    epochs = records.read_metrics(folder, record)
    seen = {name: record["final"].get(name) for name in ("test_loss", "test_accuracy", "val_loss", "val_accuracy")}
    seen |= {f"last5_{name}": value for name, value in record["last5"].items()}
    for name, best in (("test_accuracy", max), ("val_accuracy", max), ("val_loss", min)):
        seen[f"best_{name}"] = best([row[name] for row in epochs if is_finite(row.get(name))], default=None)
    values: Measures = {name: found for name, value in seen.items() if (found := number(value)) is not None}
    values |= measured.values
    for name, column in (("gap_running", "train_loss"), ("gap_perturbed", "perturbed_loss")) if "test_loss_channel" in values else ():
        test, met = values["test_loss_channel"], number(record["final"].get(column))
        values[name] = None if test is None or met is None else test - met
    values |= derived(values)
    for name in ("eps_over_rho", "cos_g_eps"):  # of the perturbations met in training; a method without any has no such column
        if curve := [row[name] for row in epochs if name in row]:
            values |= {name: curve[-1], f"mean_{name}": math.fsum(curve) / len(curve)}  # epochs have as many steps each
    paid = {"backwards": (record.get("cost") or {}).get("backwards"), "seconds": record.get("seconds")}
    paid["epoch_seconds"] = median(times) if (times := [row["train_seconds"] for row in epochs if row.get("train_seconds")]) else None
    values |= {name: value for name, value in paid.items() if value is not None}  # of the training alone: the median over epochs
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


def _write(out: Path, files: Iterable[tuple[str, str | bytes | None]]) -> list[Path]:
    """Write what has content, and return where; remove what has none, which an earlier call wrote."""
    written = []
    for name, content in files:
        if content is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_atomic(out / name, content)
            written.append(out / name)
    return written


def _is_ours(out: Path, name: str) -> bool:
    """Whether an earlier call wrote this table there, in all forms: its CSV tells. Other files of a table's name are somebody's own."""
    path = out / f"{name}.csv"
    return path.is_file() and read_bytes(path).startswith(",".join(render.CSV_HEADER[:4]).encode())


def _tables(blocks: Mapping[str, list[Block]], runs: Sequence[RunRow], out: Path) -> Iterator[tuple[str, str | None]]:
    for name, made in ((name, made) for name, made in blocks.items() if made or _is_ours(out, name)):
        yield from ((f"{name}{suffix}", form(made) if made else None) for suffix, form in FORMATS.items())
        yield f"{name}.tex", latex(made, name) if made else None
    yield RUNS, as_csv(run_lines(runs))


def _pictures(
    blocks: list[Block], runs: Sequence[RunRow], config: EvaluateConfig, along: Mapping[str, Any], problems: Sequence[str], out: Path
) -> Iterator[tuple[str, str | bytes | None]]:
    from sam.report import drawing, figures, page  # import matplotlib, when the tables are there already

    gallery = figures.gallery(runs, along)
    panels = list(figures.every(gallery))
    with progress_for(len(panels) + 1, "figures and report", quiet=not sys.stderr.isatty()) as shown:
        for name, content in drawing.files(panels, out / "figures"):
            yield f"figures/{name}", content
            shown.advance(1 / len(drawing.ENDINGS))
    yield "report.html", page.report(runs, blocks, None if config.stored else config.sharpness, evaluate_command(config), problems, gallery)


FORMATS = {".md": render.markdown, ".csv": render.csv, "_full.tex": latex_full}
PAID = ("backwards", "seconds", "epoch_seconds")
KEPT, RUNS, SWEEP, CLAIMS, FINAL = "kept.csv", "runs.csv", "sweep", "claims", "final_runs.sh"
