"""What was measured along the epochs: a line for each kept checkpoint of every run, and for its final one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.config import TrainConfig, printable
from sam.evaluation.measuring import Run, kept_files
from sam.runs import records
from sam.sharpness.context import Result
from sam.tables.contexts import settings, word
from sam.tables.render_csv import inert

KEPT = "kept.csv"


def trajectories(done: Sequence[Run], rows: Mapping[Path, Result]) -> str:
    """CSV: folder, seed, optimizer.method and the other settings that vary over the runs, epoch, and every measure (empty where it was not
    measured). rows: by folder (the final checkpoint's) and by file. Run by run in the order given, then by epoch."""
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


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The run's settings by dotted names, as a label prints them: without its seed, and without what it does not read."""
    own = {f"optimizer.{key}": getattr(config.optimizer, key) for key in config.optimizer.used_keys}
    others = {name: value for name, value in settings(config).items() if not name.startswith("optimizer.")}
    return {name: inert(printable(word(value))) for name, value in (own | others).items()}
