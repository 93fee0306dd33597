"""What became of the runs: finished, diverged, running (with an estimate and the host), preempted, failed (with its last error), missing,
damaged (with the file that cannot be used).

    python scripts/status.py runs_dir=runs/table2                        # every run found there
    python scripts/status.py experiment=table2                           # the whole grid of an experiment, the missing ones too
    python scripts/status.py optimizer=sgd,sam 'seed=range(3)' dataset=digits
    python scripts/status.py runs_dir=runs/table2 sort=rho               # or run, state, method, N, seed
    python scripts/status.py runs_dir=runs/table2 'select={optimizer.method: sam, seed: [0,1]}'

The arguments are those of `train.py -m`; with nothing but runs_dir, no grid is assumed. Exit status: 0 when nothing is failed, missing or
damaged, 1 when something is, 2 for wrong arguments.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arguments import parse, script
from hydra.core.override_parser.overrides_parser import OverridesParser

from sam.core.files import told
from sam.runs import identity, lock, records
from sam.runs.progress import clock
from sam.runs.sweep import planned
from sam.runs.tracking import top_level
from sam.settings import TrainConfig
from sam.tables.conditions import check_select, selected
from sam.text import printable
from sam.training.rows import reached

COLUMNS = ("run", "state", "method", "N", "rho", "seed", "")  # the last says what else is known


def row(folder: Path, config: TrainConfig | None) -> dict[str, Any]:
    """The cells of a run by COLUMNS; what nobody knows is None. `config`: as planned; None: as recorded."""
    try:
        record = records.read_run(folder)
        found, detail = state(folder, record)
        config = config or (records.run_config(record) if record else None)
    except Exception as error:
        found, detail = "damaged", told(error)
    own = top_level(config.optimizer) if config else {}
    cells = (folder.name, found, own.get("method"), own.get("n"), own.get("rho"), config.seed if config else None, detail)
    return dict(zip(COLUMNS, cells, strict=True)) | {"config": config}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of aligned columns, below a line of their names."""
    texts = [COLUMNS, *(["-" if row[name] is None else f"{row[name]}" for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    widths[1] = len(records.PREEMPTED)  # the longest: a run that goes on moves no column
    return [printable("  ".join(map(str.ljust, line, widths)).rstrip()) for line in texts]


def state(folder: Path, record: dict[str, Any] | None) -> tuple[str, str]:
    """(state, what to know about it) of one run. DamagedError if its metrics cannot be used."""
    if record is None:
        return "missing", ""
    status, rows = str(record["status"]), records.read_metrics(folder, record)
    if status == records.FINISHED:
        measured_on, accuracy, _ = reached(record["final"])
        return status, f"{measured_on} accuracy {accuracy:.2f}%"
    if status == records.DIVERGED:
        return status, f"in epoch {record['diverged_epoch']}"
    epochs, holder = records.run_config(record).epochs, lock.owner(folder)
    left = f", about {clock((epochs - len(rows)) * rows[-1]['seconds'] / len(rows))} of work left" if rows else ""
    progress = f"epoch {len(rows)} of {epochs}{left}"
    if holder is not None and lock.is_alive(holder):
        return "running", f"{progress} on {holder['host']}" + (f", job {holder['job']}" if holder["job"] else "")
    if status == records.RUNNING:  # no process is at it, and none said goodbye: killed
        return records.PREEMPTED, f"{progress}; its process is gone"
    reason = str(record.get("error") or "")
    return status, reason if status == records.FAILED else f"{progress}; {reason}"


@script
def main(arguments: list[str]) -> int:
    own, overrides = parse({"runs_dir": "runs", "sort": COLUMNS[:-1], "select": "{}"}, arguments, hydra=True)
    select = OverridesParser.create().parse_overrides([f"select={own['select']}"])[0].value()
    if not isinstance(select, dict):
        raise ValueError(f"select={own['select']}: must hold keys and values, as in: 'select={{optimizer.method: sam, seed: [0,1]}}'.")
    check_select(select)
    if not overrides:
        given = OverridesParser.create().parse_overrides([f"runs_dir={own['runs_dir']}"])[0]
        places = [str(place) for place in (given.sweep_iterator() if given.is_sweep_override() else [given.value()])]
        runs: dict[Path, TrainConfig | None] = dict.fromkeys(folder for place in places for folder in records.run_folders(Path(place)))
    else:
        grid = planned([word for word in arguments if not word.startswith(("sort=", "select="))])
        runs = {identity.run_folder(config): config for _, config in grid}
    if not runs:
        print("There is no run here.", file=sys.stderr)
        return 1
    rows, by = [row(folder, config) for folder, config in runs.items()], own["sort"]
    rows = [row for row in rows if not select or (row["config"] is not None and selected(row["config"], select))]
    if not rows:
        raise ValueError(f"select={own['select']}: no run here has these settings.")
    rows = rows if by == "run" else sorted(rows, key=lambda row: (row[by] is None, row[by]))  # as they lie in the folder where they tie
    print("\n".join(table(rows)))
    counts = Counter(row["state"] for row in rows)
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    return int(bool(counts["missing"] + counts["damaged"] + counts[records.FAILED]))
