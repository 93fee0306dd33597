"""The README's opening figure: which runs are a point of it, and what that point says."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest

from sam.optimizers.settings import OptimizerConfig
from sam.tables.conditions import RunRow

PATH = Path(__file__).resolve().parents[2] / "results/campaign/opening.py"


@pytest.fixture(scope="module")
def opening() -> Any:
    spec = importlib.util.spec_from_file_location("campaign_opening", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(accuracy: float, seed: int = 0, epochs: int = 40, **keys: Any) -> RunRow:
    row = made_up.run(OptimizerConfig.of(**keys), seed, accuracy, epochs=epochs)
    return replace(row, measures={"accuracy": accuracy, "loss": 10.0**seed})


def test_arms_with_another_rule_are_no_point(opening: Any) -> None:
    plain = [{"method": "sgd"}, {"method": "sam"}, {"method": "sam", "ascent_steps": 5}, {"method": "xsam"}, {"method": "rand_sam"}]
    assert [opening.name_of(run(1.0, **keys)) for keys in plain] == ["SGD", "SAM N=1", "SAM N=5", "XSAM", "Rand-SAM"]
    other = [{"method": "sam", "radius": "uniform"}, {"method": "xsam", "alpha": 0.0}, {"method": "sam", "ascent_steps": 2}]
    assert [opening.name_of(run(1.0, **keys)) for keys in other] == ["", "", ""]


def test_a_point_is_the_mean_difference_at_equal_seeds_or_the_mean_itself(opening: Any) -> None:
    sgd = {seed: run(50.0 + seed, seed, method="sgd") for seed in (0, 1, 2)}
    twice = {seed: run(51.0 + seed, seed, 80, method="sgd") for seed in (0, 1, 2)}
    sam = {seed: run(52.0 + seed + 0.1 * seed, seed, rho=0.2) for seed in range(4)}  # seed 3 has no partner
    found = {("SGD", 0.0, 40): sgd, ("SGD", 0.0, 80): twice, ("SAM N=1", 0.2, 40): sam}
    (point,) = opening.points(found, "accuracy", 1.0, "SAM N=1", True)
    assert (point["rho"], point["n"]) == (0.2, 3) and point["mean"] == pytest.approx(2.1)
    assert (point["low"], point["high"]) == pytest.approx((2.1 - 4.302653 * 0.1 / 3**0.5, 2.1 + 4.302653 * 0.1 / 3**0.5), rel=1e-6)
    (point,) = opening.points(found, "accuracy", 1.0, "SGD", True)  # of SGD only the one that was trained longer
    assert (point["epochs"], point["mean"], point["low"], point["high"]) == (80, 1.0, 1.0, 1.0)
    (point,) = opening.points(found, "loss", 1000.0, "SAM N=1", False)
    assert point["n"] == 4 and point["mean"] == pytest.approx(1000 * (1 + 10 + 100 + 1000) / 4)
