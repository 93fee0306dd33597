"""Runs dealt out to several processes: every run in one part, the parts alike in cost, nothing measured twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.settings import ModelConfig
from sam.evaluation.measuring import part_of
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.settings import SharpnessConfig

Run = Callable[..., Any]


def run(name: str, parameters: int, images: int = 1000, status: str = "finished") -> tuple[Path, dict[str, Any]]:
    config = to_dict(TrainConfig(model=ModelConfig.of(depth=10)))
    return Path(name), {"status": status, "config": config, "parameters": parameters, "data": {"train_images": images}}


@pytest.mark.parametrize("parts", [1, 2, 3, 20])
def test_the_parts_are_disjoint_and_whole_and_alike_in_cost(parts: int) -> None:
    runs = [run(f"run{k}", 100 + 37 * k % 90, 1000 + 100 * (k % 3)) for k in range(13)]
    sharpness = SharpnessConfig.of(notions=["ascent", "gap", "landscape"])
    dealt = [part_of(runs, part, parts, sharpness) for part in range(parts)]
    names = [str(folder) for part in dealt for folder, _ in part]
    assert sorted(names) == sorted(str(folder) for folder, _ in runs)
    loads = [sum(record["parameters"] * record["data"]["train_images"] for _, record in part) for part in dealt]
    assert max(loads) - min(loads) <= 1.05 * max(record["parameters"] * record["data"]["train_images"] for _, record in runs)
    again = [part_of(runs[::-1], part, parts, sharpness) for part in range(parts)]
    assert [{folder for folder, _ in part} for part in dealt] == [{folder for folder, _ in part} for part in again]


def test_one_large_run_weighs_as_much_as_many_small_ones() -> None:
    runs = [run("large", 1000), *(run(f"small{k}", 250) for k in range(4)), run("diverged", 1000, status="diverged")]
    dealt = [[folder.name for folder, _ in part_of(runs, part, 2, SharpnessConfig.of())] for part in range(2)]
    assert dealt == [["large"], ["small0", "small1", "small2", "small3"]]


def measured(runs: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.rglob("sharpness.json")}


def unmeasured(swept: Any, target: Path) -> Path:
    return Path(shutil.copytree(swept.runs, target, ignore=shutil.ignore_patterns("sharpness.json", "tables")))


def test_two_parts_and_then_the_tables_measure_nothing_twice(
    commands: Run, swept: Any, tmp_path: Path, measure_options: tuple[str, ...]
) -> None:
    """One part, both as a sweep, then the tables; and a sweep with a damaged run, which its part names while the other goes on."""
    runs, damaged = unmeasured(swept, tmp_path / "runs"), unmeasured(swept, tmp_path / "damaged")
    min(damaged.glob("*/run.json")).with_name("checkpoint.pt").write_bytes(b"damaged")
    line = ["evaluate_sharpness.py", f"runs_dir={runs}", *measure_options]
    (first,) = commands([[*line, "part=0", "parts=2"]])
    assert first.code == 0 and "part 0 of 2 (from 0): 4 of 4 runs are measured." in first.out, first
    before = measured(runs)
    assert len(before) == 4 and not (runs / "tables").exists()

    sweep = ["evaluate_sharpness.py", "-m", *measure_options, "part=range(2)", "parts=2"]
    both, tables, broken = commands([[*sweep, f"runs_dir={runs}"], line, [*sweep, f"runs_dir={damaged}", "sharpness.notions=[gap]"]])
    assert both.code == tables.code == 0, (both, tables)
    after = measured(runs)
    assert len(after) == 8 and {name: after[name] for name in before} == before
    assert tables.out.split("Open: ")[0] == swept.measured.out.split("Open: ")[0]
    for path in runs.rglob("sharpness.json"):
        assert sorted(row["notion"] for row in json.loads(path.read_text())["rows"].values()) == ["ascent", "gap", "gap", "gap"]
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "damaged"}  # Hydra left nothing of its own

    assert broken.code == 1 and "damaged or truncated" in broken.err and len(measured(damaged)) == 7, broken
    assert "part 0 of 2 (from 0): 3 of 4 runs" in broken.out and "part 1 of 2 (from 0): 4 of 4 runs" in broken.out
