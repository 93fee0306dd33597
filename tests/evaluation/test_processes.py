"""Checkpoints measured side by side, and only those of some seeds: the same rows, the same sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam.config import ConfigError
from sam.evaluation.evaluate import evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.sharpness.settings import SharpnessConfig

Run = Callable[..., Any]
NOTIONS = "sharpness.notions=[ascent,gap,average]"


def copied(runs: Path, target: Path) -> Path:
    shutil.copytree(runs, target, ignore=shutil.ignore_patterns("sharpness.json", "tables"))
    return target


def rows(runs: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text())["rows"] for path in runs.glob("*/sharpness.json")}


def test_processes_store_the_rows_that_one_would(swept: Any, command: Run, measure_options: tuple[str, ...], tmp_path: Path) -> None:
    one, two = copied(swept.runs, tmp_path / "one"), copied(swept.runs, tmp_path / "two")
    damaged = sorted(two.glob("*/checkpoint.pt"))[0]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    alone = command("evaluate_sharpness.py", f"runs_dir={one}", NOTIONS, *measure_options)
    together = command("evaluate_sharpness.py", f"runs_dir={two}", NOTIONS, "processes=2", *measure_options)
    assert alone.code == 0, alone.err
    assert together.code == 1
    assert together.err.count("damaged or truncated") == 2  # once as it happens, once at the end
    expected = rows(one)
    del expected[damaged.parent.name]
    assert rows(two) == expected


def test_only_some_seeds(swept: Any, tmp_path: Path) -> None:
    runs = copied(swept.runs, tmp_path / "runs")
    sharpness = SharpnessConfig.of(notions=["gap"])
    found = evaluate(EvaluateConfig(runs_dir=str(runs), sharpness=sharpness, seeds=[1], threads=1, device="cpu"))
    assert [row.config.seed for row in found.runs] == [1] * 4
    assert len(rows(runs)) == 4
    try:
        evaluate(EvaluateConfig(runs_dir=str(runs), sharpness=sharpness, seeds=[7]))
    except ConfigError as error:
        assert "seeds=[7]" in str(error)
    else:
        raise AssertionError("no run has seed 7")
