"""Ten-second editions of `experiment=xsam_direction` and `experiment=rounding`: trained, measured and drawn as their files say."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SMALL = ("epochs=2", "dataset.train_size=64", "batch_size=32", "hydra/launcher=basic")


def test_the_direction_experiment_ends_in_figures(commands: Callable[[Sequence[Sequence[str]]], list[Any]], tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    train = ["train.py", "-m", "experiment=xsam_direction", *SMALL, "keep_checkpoints=[1]", "optimizer=sam,xsam", "seed=0", runs]
    few = ["sharpness.direction.batches=2", "sharpness.direction.batch_size=16", "sharpness.direction.steps=2", "sharpness.rho=[0.1]"]
    measure = ["evaluate_sharpness.py", runs, "notions=xsam_direction", "kept=true", *few, "threads=1"]
    for done in commands([train, measure]):
        assert done.code == 0, done.err
    tables = tmp_path / "runs" / "tables"
    kept = list(csv.DictReader((tables / "kept.csv").read_text().splitlines()))
    assert [row["epoch"] for row in kept] == ["1", "2"] * 2 and all(
        0 <= float(row["direction_wins[rho=0.1,reach=1,k=1]"]) <= 1 for row in kept
    )
    drawn = {path.stem for path in (tables / "figures").glob("*.pdf")}
    assert {"a-over-the-radius-rho-0.1", "alpha-over-the-radius-rho-0.1"} & drawn, drawn
    assert "exact quadratic" in (tables / "report.html").read_text()


def test_the_rounding_experiment_ends_in_warnings(commands: Callable[[Sequence[Sequence[str]]], list[Any]], tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    train = ["train.py", "-m", "experiment=rounding", *SMALL, "precision=bf16", "optimizer=rand_sam", "optimizer.rho=0.02,3", runs]
    for done in commands([train, ["evaluate_sharpness.py", runs, "notions=rounding", "threads=1"]]):
        assert done.code == 0, done.err
    (notes,) = {line for line in (tmp_path / "runs/tables/measures.md").read_text().splitlines() if "rounding the weights" in line}
    assert "Rand-SAM at rho 0.02 in bf16 autocast" in notes and "measured at the trained weights" in notes and "rho 3 " not in notes
