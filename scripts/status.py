"""What became of the runs: finished, diverged, running (with an estimate and the host), preempted, failed (with its last error), missing.

    python scripts/status.py runs_dir=runs/table2                        # every run found there
    python scripts/status.py experiment=table2                           # the whole grid of an experiment, the missing ones too
    python scripts/status.py optimizer=sgd,sam 'seed=range(3)' dataset=digits

The arguments are those of `train.py -m`; with nothing but runs_dir, no grid is assumed. Exit code: 0 when nothing is failed or missing.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sam.results import identity, records
from sam.training import lock
from sam.training.progress import clock
from sam.training.sweep import planned


def state(folder: Path, record: dict[str, Any] | None) -> tuple[str, str]:
    """(state, what to know about it) of one run."""
    if record is None:
        return "missing", ""
    status = str(record["status"])
    if status == records.FINISHED:
        measured_on, accuracy, _ = records.reached(record["final"])
        return status, f"{measured_on} accuracy {accuracy:.2f}%"
    if status == records.DIVERGED:
        return status, f"in epoch {record['diverged_epoch']}"
    holder = lock.owner(folder)
    if holder is not None and lock.is_alive(holder):
        return "running", f"{_progress(folder, record)} on {holder['host']}" + (f", job {holder['job']}" if holder["job"] else "")
    if status == records.RUNNING:  # no process is at it, and none said goodbye: killed
        return records.PREEMPTED, f"{_progress(folder, record)}; its process is gone"
    reason = str(record.get("error") or "")
    return status, reason if status == records.FAILED else f"{_progress(folder, record)}; {reason}"


def _progress(folder: Path, record: dict[str, Any]) -> str:
    epochs, rows = record["config"]["epochs"], records.read_metrics(folder)
    if not rows:
        return f"epoch 0 of {epochs}"
    left = (epochs - len(rows)) * rows[-1]["seconds"] / len(rows)
    return f"epoch {len(rows)} of {epochs}, about {clock(left)} of work left"


def main(arguments: list[str]) -> int:
    keys = {argument.partition("=")[0] for argument in arguments}
    if keys <= {"runs_dir"}:
        runs_dir = Path(arguments[0].partition("=")[2]) if arguments else Path("runs")
        found: list[tuple[Path, dict[str, Any] | None]] = list(records.find_runs(runs_dir))
    else:
        folders = dict.fromkeys(identity.run_folder(config) for _, config in planned(arguments))
        found = [(folder, records.read_run(folder)) for folder in folders]
    if not found:
        print("There is no run here.", file=sys.stderr)
        return 1
    rows = [(folder.name, *state(folder, record)) for folder, record in found]
    width = max(len(name) for name, _, _ in rows)
    for name, status, detail in rows:
        print(f"{name:<{width}}  {status:<9}  {detail}".rstrip())
    counts = Counter(status for _, status, _ in rows)
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    return int(bool(counts["missing"] + counts[records.FAILED]))


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
