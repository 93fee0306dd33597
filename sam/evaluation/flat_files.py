"""Every number as data: one line a run, and one line a kept checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.evaluation.measuring import Run, kept_files
from sam.runs import records
from sam.sharpness.context import Measures, Result
from sam.sharpness.derived import derived
from sam.tables.conditions import RunRow, is_number, own_settings, value_text, varying
from sam.tables.render import inert
from sam.tables.sweep import METHOD
from sam.text import csv_text, printable


def run_lines(runs: Sequence[RunRow]) -> list[dict[str, Any]]:
    """One line a run: folder, seed, method and every setting that varies, how it ended, what it cost, every measure."""
    names, lines = dict.fromkeys([METHOD, *varying([run.own for run in runs])]), []
    for run in runs:
        cost = run.record.get("cost") or {}
        ended = {"status": run.status, "diverged_epoch": run.diverged_epoch}
        paid = {"forwards": cost.get("forwards"), "backwards": cost.get("backwards"), "seconds": run.record.get("seconds")}
        lines.append({"folder": run.folder, "seed": run.config.seed, **{n: run.own.get(n) for n in names}, **ended, **paid, **run.measures})
    return lines


def measured_epochs(done: Sequence[Run], rows: Mapping[Path, Result]) -> dict[str, dict[int, Measures]]:
    """Folder -> epoch -> measures of the checkpoint kept then, the final one included. rows: by folder (final checkpoint) and by file."""
    found: dict[str, dict[int, Measures]] = {}
    for folder, record in done:
        sources = {**kept_files(folder, record)}
        if record["status"] == records.FINISHED:
            sources[records.run_config(record).epochs] = folder
        own = {epoch: rows[source].values for epoch, source in sources.items() if epoch is not None and source in rows}
        found[str(folder)] = {epoch: values | derived(values) for epoch, values in own.items()}
    return found


def trajectories(done: Sequence[Run], kept: Mapping[str, Mapping[int, Measures]]) -> str:
    """Write the measures along the epochs as CSV: folder, seed, optimizer.method and other settings that vary, epoch, every measure (empty
    if not measured). Ordered as the runs are, then by epoch."""
    configs = {str(folder): records.run_config(record) for folder, record in done}
    known = {folder: own_settings(config) for folder, config in configs.items()}
    names, lines = dict.fromkeys([METHOD, *varying(list(known.values()))]), []
    for folder, own in known.items():
        first = {"folder": folder, "seed": configs[folder].seed, **{name: own.get(name) for name in names}}
        lines += [first | {"epoch": epoch} | dict(measures) for epoch, measures in kept[folder].items()]
    return as_csv(lines)


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as CSV: numbers at full precision, no value as an empty cell, text without formulas or control characters."""
    cell = lambda value: value if value is None or is_number(value) else inert(printable(value_text(value)))
    return csv_text([{name: cell(value) for name, value in line.items()} for line in lines])
