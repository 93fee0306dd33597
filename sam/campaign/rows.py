"""The record of a campaign in small files that can leave the machine: rows.json, rows.csv, curves.csv. Checkpoints stay in runs/."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.campaign import plan
from sam.campaign.campaign import Campaign
from sam.campaign.plan import Planned
from sam.config import TrainConfig
from sam.results import identity, records

ROWS, TABLE, CURVES = "rows.json", "rows.csv", "curves.csv"

Row = dict[str, Any]

NOT_INTERPRETABLE = (
    "bf16 autocast: a random perturbation of this length is mostly rounding (its realised norm and direction are not those "
    "intended), so this row is not interpretable"
)
TEN_BITS = "{} rounds the weights inside convolutions to 10 bits, so that the perturbation that a pass sees is not exactly of length rho"


def read(out: Path) -> dict[str, Row]:
    """Rows by label; none if there is no file."""
    path = out / ROWS
    return {row["label"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def from_run(run: Planned, config: TrainConfig, record: Mapping[str, Any], commit: str | None = None) -> Row:
    """The row of a run that has ended, not yet measured. commit: what to believe where the run itself could ask no git."""
    segments = record["segments"]
    return {
        "label": run.label,
        "table": run.table,
        "dataset": run.dataset,
        "model": config.model.label,
        "method": plan.method_label(config.optimizer),
        "optimizer": run.optimizer,
        "rho": config.optimizer.rho if "rho" in config.optimizer.used_keys else None,
        "seed": run.seed,
        "status": record["status"],
        "diverged_epoch": record.get("diverged_epoch"),
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "test_accuracy": record["final"]["test_accuracy"],
        "test_loss": record["final"]["test_loss"],
        "train_loss_as_met": record["final"]["train_loss"],
        "last5_test_accuracy": record["last5"]["test_accuracy"],
        "seconds": record["seconds"],
        "forwards": record["cost"]["forwards"],
        "backwards": record["cost"]["backwards"],
        "parameters": record["parameters"],
        "measures": {},
        "measured": [],
        "notes": [*_notes(config), *record["data"]["notes"]],
        "name": record["name"],
        "fingerprint": record["fingerprint"],
        "data_fingerprint": record["data"]["fingerprint"],
        "numerics": record["numerics"],
        "segments": len(segments),
        "device": _distinct(segment["environment"]["device"] for segment in segments),
        "commit": _distinct(_commit(segment["environment"], commit) for segment in segments),
        "torch": _distinct(segment["environment"]["versions"].get("torch") for segment in segments),
        "started": record["started"],
        "ended": record["ended"],
    }


def _notes(config: TrainConfig) -> list[str]:
    """What must be said beside a run's numbers because of the arithmetic it was trained in."""
    if config.optimizer.method != "rand_sam":
        return []
    if config.precision == "bf16":
        return [NOT_INTERPRETABLE]
    return [TEN_BITS.format(config.precision)] if config.precision in ("tf32", "fp16") else []


def _distinct(values: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values))


def _commit(environment: Mapping[str, Any], given: str | None) -> str:
    if environment["commit"] is None:
        return f"{given} (as given by hand)" if given else "unknown"
    return f"{environment['commit']}{' (modified)' if environment['modified'] else ''}"


def write(campaign: Campaign, rows: Mapping[str, Row]) -> None:
    """All rows as JSON and CSV, and the curves of every run that has any, in the campaign's order."""
    out = campaign.out
    order = {run.label: position for position, run in enumerate(campaign.runs)}
    listed = sorted(rows.values(), key=lambda row: (order.get(row["label"], len(order)), row["label"]))
    records.write_atomic(out / ROWS, json.dumps({"format": 1, "rows": records.plain(listed)}, indent=1, allow_nan=False) + "\n")
    flat = [{key: value for key, value in row.items() if key not in ("measures", "measured")} | row["measures"] for row in listed]
    records.write_atomic(out / TABLE, _csv(flat))
    records.write_atomic(out / CURVES, _csv(_curves(campaign)))


def _curves(campaign: Campaign) -> list[Row]:
    """Each run's metrics.csv with its label; the curves of a run whose folder is no longer here are kept as they were written."""
    path, kept = campaign.out / CURVES, dict[str, list[Row]]()
    if path.exists():
        for row in csv.DictReader(io.StringIO(path.read_text())):
            kept.setdefault(row["label"], []).append({key: value for key, value in row.items() if value != ""})
    for run in campaign.runs:
        metrics = identity.run_folder(campaign.config(run)) / records.METRICS
        if metrics.exists():
            own = csv.DictReader(io.StringIO(metrics.read_text()))
            kept[run.label] = [{"label": run.label, **{key: value for key, value in row.items() if value != ""}} for row in own]
    return [row for rows in kept.values() for row in rows]


def _csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "; ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()})
    return buffer.getvalue()
