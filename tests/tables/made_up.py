"""Made-up runs with everything that a report can show, for its tests."""

import importlib.util
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import OptimizerConfig
from sam.report.figures import gallery
from sam.report.page import report
from sam.runs.command import evaluate_command, train_command
from sam.runs.identity import run_fingerprint, run_name, setting
from sam.schema import from_dict
from sam.settings import ProtocolConfig, TrainConfig
from sam.sharpness.settings import SharpnessConfig
from sam.tables.conditions import RunRow
from sam.tables.settings import TableConfig
from sam.tables.table import build

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf" / "table"
RHOS = [0.05, 0.5]
BASE = TrainConfig(
    model=ModelConfig.of(depth=10, width=1),
    dataset=DatasetConfig(name="digits"),
    protocol=ProtocolConfig("demo", ["a note"]),
    epochs=12,
    batch_size=64,
)
GRID = [-1.0, -0.5, 0.0, 0.5, 1.0]


def run(optimizer: OptimizerConfig, seed: int, accuracy: float, *, lost_at: int | None = None, series: bool = True, **extra: Any) -> RunRow:
    """A run that ends with that accuracy; its sharpness falls and its curves rise with it."""
    config = replace(BASE, optimizer=optimizer, seed=seed, **extra)
    draw = random.Random(f"{optimizer}{seed}").random
    measures: dict[str, float | None] = {"test_accuracy": accuracy, "gap": 1 - accuracy / 100 + 0.02 * draw(), "train_loss": 0.1}
    for rho in RHOS:
        for place in (f"[rho={rho},bn=eval,batch=all]", f"[rho={rho},bn=train,batch=m]"):
            measures[f"sharpness{place}"] = rho**2 * (100.5 - accuracy)
        measures[f"sharpness_stderr[rho={rho},bn=train,batch=m]"] = 0.001
    epochs = []
    for e in range(1, (lost_at or config.epochs) + 1):
        row = {"epoch": float(e), "test_accuracy": accuracy * (1 - math.exp(-e)), "train_loss": 2.3 * math.exp(-e / 4) + 0.1 * draw()}
        epochs.append(row | ({"alpha": round(draw(), 1)} if optimizer.method == "xsam" else {}))
    finished, folder = lost_at is None, f"runs/demo/{run_name(config)}"
    return RunRow(
        config=config,
        setting=setting(config),
        status="finished" if finished else "diverged",
        diverged_epoch=lost_at,
        measures=measures if finished else {},
        epochs=epochs,
        folder=folder,
        fingerprint=run_fingerprint(config),
        data_fingerprint="b17d6df724a37303",
        data_notes=("8 x 8 pictures",),
        series=_series(accuracy) if finished and series else {},
        command=train_command(config),
        files={"Checkpoint": f"{folder}/checkpoint.pt", "Measures": f"{folder}/sharpness.json"} if finished else {},
        record=RECORD,
    )


def _series(accuracy: float) -> dict[str, dict[str, list[float | None]]]:
    sharp = 100.5 - accuracy
    t = [-1 + 0.25 * k for k in range(9)]
    plane = {"x": [x for x in GRID for _ in GRID], "y": [y for _ in GRID for y in GRID]}
    loss = [0.1 + sharp * x * x + y * y if x + y < 1.9 else None for x in GRID for y in GRID]
    return {
        "spectrum_density[subset=512]": {"eigenvalue": [0.0, 1.0, sharp, 2 * sharp], "density": [1.0, 0.1, 1e-3, 0.0]},
        "spectrum_ritz[subset=512]": {"probe": [1.0], "eigenvalue": [1.0], "weight": [1.0]},
        "line_gradient[subset=512]": {"t": [*t], "loss": [0.1 + sharp * v * v for v in t]},
        "plane_xsam[rho=0.05,subset=512]": {**plane, "loss": loss},
        "arc_xsam[rho=0.05,subset=512]": {
            "alpha": [0.0, 0.5, 1.0, 1.5],
            "x": [1.0, 0.9, 0.7, 0.2],
            "y": [0.0, 0.4, 0.7, 0.9],
            "loss": [1.0] * 4,
        },
        "marks_xsam[rho=0.05,subset=512]": {
            "x": [0.0, None, 0.5],
            "y": [0.0, None, 0.5],
            "alpha": [None, 0.0, 0.7],
            "loss": [0.1, None, 0.2],
        },
    }


def runs() -> list[RunRow]:
    """SGD, SAM at two radii (one seed lost, one seed alone) and XSAM; the rows of N = 2, 3, 5 were not run."""
    sgd = [run(OptimizerConfig.of(method="sgd"), seed, 91.0 + seed) for seed in range(3)]
    sam = [run(OptimizerConfig.of(), seed, 95.0 + seed / 2, lost_at=4 if seed == 2 else None) for seed in range(3)]
    wide = [run(OptimizerConfig.of(rho=0.2), 0, 96.8)]
    return [*sgd, *sam, *wide, *(run(OptimizerConfig.of(method="xsam"), seed, 96.0 + seed / 4) for seed in range(2))]


ENVIRONMENT = {
    "versions": {"torch": "2.13.0+cpu", "python": "3.11.7"},
    "commit": "a7befeea9c86",
    "modified": False,
    "device": "a processor",
    "threads": 1,
    "cores": 2,
    "command": "python train.py -m experiment=demo",
}
RECORD = {"environment": ENVIRONMENT, "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T04:05:06+00:00"}


def program(name: str) -> Any:
    """A program of results/, by its path there, as a module."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_").removesuffix(".py"), ROOT / "results" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str) -> TableConfig:
    return from_dict(TableConfig, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))  # type: ignore[arg-type]


def page(rows: list[RunRow], problems: tuple[str, ...] = (), /, **changes: Any) -> str:
    """The report of these runs with every table; `changes`: to table3."""
    tables = {name: load(name) for name in ("table2", "table3", "measures")}
    tables["table3"] = replace(tables["table3"], **changes)
    config = EvaluateConfig(runs_dir="runs/demo", tables=tables, sharpness=SharpnessConfig.of(rho=RHOS))
    blocks = [block for table in tables.values() for block in build(table, rows, RHOS)]
    return report(rows, blocks, config.sharpness, evaluate_command(config), problems, gallery(rows, {}))
