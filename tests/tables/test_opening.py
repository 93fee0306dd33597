"""What the campaign's README shows: the points of its opening figure, its table of arms, and its grid of cells."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest

from sam.optimizers.settings import OptimizerConfig
from sam.settings import TrainConfig
from sam.tables.conditions import RunRow
from sam.training import graphs, loop


@pytest.fixture(scope="module")
def opening() -> Any:
    return made_up.program("campaign/opening.py")


def run(accuracy: float, seed: int = 0, epochs: int = 40, **keys: Any) -> RunRow:
    row = made_up.run(OptimizerConfig.of(**keys), seed, accuracy, epochs=epochs)
    return replace(row, measures={"accuracy": accuracy, "loss": 10.0**seed})


def test_arms_with_another_rule_are_no_point(opening: Any) -> None:
    plain = [{"method": "sgd"}, {"method": "sam"}, {"method": "sam", "ascent_steps": 5}, {"method": "xsam"}, {"method": "rand_sam"}]
    assert [opening.name_of(run(1.0, **keys)) for keys in plain] == ["SGD", "SAM N=1", "SAM N=5", "XSAM", "Rand-SAM"]
    other = [{"method": "sam", "radius": "uniform"}, {"method": "xsam", "alpha": 0.0}, {"method": "sam", "ascent_steps": 2}]
    assert [opening.name_of(run(1.0, **keys)) for keys in other] == ["", "", ""]


def test_the_arms_are_those_at_sgds_pick(opening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [run(1.0, lr=lr, weight_decay=decay, **keys) for lr in (0.1, 0.2) for decay in (0.0, 1e-3) for keys in ({"method": "sgd"}, {})]
    monkeypatch.setattr(opening, "stored_runs", lambda config, problems: [*every, replace(every[7], status="diverged")])
    found = opening.arms(Path("runs"), 0.2, 1e-3)
    assert found == {("SGD", 0.0, 40): {0: every[6]}, ("SAM N=1", 0.05, 40): {0: every[7]}}


def test_two_settings_of_one_name_are_not_one_point(opening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [
        replace(row, config=replace(row.config, batch_size=size)) for size in (64, 128) for row in [run(1.0, lr=0.2, weight_decay=0.0)]
    ]
    monkeypatch.setattr(opening, "stored_runs", lambda config, problems: twice)
    with pytest.raises(ValueError, match="2 runs of 1 seeds"):
        opening.arms(Path("runs"), 0.2, 0.0)


def test_a_queue_with_graphs_trains_the_runs_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, met = made_up.program("campaign/one_queue.py"), list[TrainConfig]()
    monkeypatch.setattr(loop, "steps_for", None)  # and back after the test
    monkeypatch.setattr(graphs, "steps_for", lambda config, *parts: met.append(config))
    monkeypatch.setattr(queue, "run", lambda config: [met.append(config), loop.steps_for(config)])
    queue.run_graphed(made_up.BASE)
    assert met == [made_up.BASE, replace(made_up.BASE, cuda_graph=True)]  # by the plan's name, and its steps as graphs


def test_a_point_is_the_mean_difference_at_equal_seeds_or_the_mean_itself(opening: Any) -> None:
    sgd = {seed: run(50.0 + seed, seed, method="sgd") for seed in (0, 1, 2)}
    twice = {seed: run(51.0 + seed, seed, 80, method="sgd") for seed in (0, 1, 2)}
    sam = {seed: run(52.0 + seed + 0.1 * seed, seed, rho=0.2) for seed in range(4)}  # seed 3 has no partner
    found = {("SGD", 0.0, 40): sgd, ("SGD", 0.0, 80): twice, ("SAM N=1", 0.2, 40): sam}
    (point,) = opening.points(found, "accuracy", 1.0, "SAM N=1", True)
    assert (point["rho"], point["n"]) == (0.2, 3) and point["mean"] == pytest.approx(2.1)
    assert (point["low"], point["high"]) == pytest.approx((2.1 - 4.302653 * 0.1 / 3**0.5, 2.1 + 4.302653 * 0.1 / 3**0.5), rel=1e-6)
    (point,) = opening.points(found, "accuracy", 1.0, "SGD", True)  # of SGD only the one that was trained longer
    assert (point["epochs"], point["mean"]) == (80, 1.0)
    assert math.isnan(point["low"]) and math.isnan(point["high"])  # equal in all seeds: nothing says how far it scatters
    (point,) = opening.points(found, "loss", 1000.0, "SAM N=1", False)
    assert point["n"] == 4 and point["mean"] == pytest.approx(1000 * 1000**0.5)  # of 1, 10, 100 and 1000


def test_the_table_of_arms_and_its_differences() -> None:
    arms = made_up.program("campaign/arms.py")
    keys = [
        {"method": "sam", "ascent_steps": 5, "rho": 0.05},
        {"method": "xsam", "rho": 0.1, "alpha": 0.0},
        {"method": "rand_sam", "radius": "uniform"},
    ]
    assert [arms.name_of(run(1.0, **one)) for one in keys] == ["SAM, N = 5 at 0.05", "XSAM at 0.1, alpha 0", "Rand-SAM at U[0, 0.05]"]
    made: dict[str, list[RunRow]] = {"SGD": [], "SAM at 0.05": [], "SAM, N = 5 at 0.05": []}
    for name, gain in zip(made, (0.0, 1.0, 3.0), strict=True):
        for seed in range(3):
            row = {arms.ACCURACY: 50.0 + seed + gain + 0.1 * seed * gain, arms.LOSS: 0.5, arms.SHARPNESS: 0.01 * (1 + gain)}
            row[arms.TEST_LOSS] = 2.0 - 0.1 * row[arms.ACCURACY]
            made[name].append(replace(run(1.0, seed), measures=row))
    _, _, sgd, sam, many, _, told = arms.lines(made)
    assert sgd == "| SGD | 3 | 51.00 |  |  |  | 0.5000 | 10.00 |"
    # t 19.05 of 2 degrees of freedom: p 0.0027 in both, times 2 by Holm, and the second no smaller
    assert sam == "| SAM at 0.05 | 3 | 52.10 | +1.10 [+0.85, +1.35] | 0.005 | -0.11 [-0.13, -0.09] | 0.5000 | 20.00 |"
    assert many.startswith("| SAM, N = 5 at 0.05 | 3 | 54.30 | +3.30 [+2.55, +4.05] |")  # half widths: 4.303 sd / sqrt 3, sd 0.1 and 0.3
    assert told == "- SAM, N = 5 at 0.05 minus N = 1: accuracy +2.20 [+1.70, +2.70] points; log(L^Asc - L) +0.69 (n 3)."


def test_the_readmes_table_is_the_one_made_of_the_rows() -> None:
    made, page = ((made_up.ROOT / "results/campaign" / name).read_text("utf-8") for name in ("stage1/arms.md", "README.md"))
    assert made.partition("\n\n")[0] in page


def test_the_grid_pairs_sam_with_the_sgd_of_its_own_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = made_up.program("campaign/cells.py")
    made = []
    for flip, noise, size, gain in ((True, 0.0, 1000, 1.0), (False, 0.2, 4000, -2.0), (False, 0.0, 1000, 0.5)):
        for seed in range(3):
            for keys in ({"method": "sgd"}, {"rho": 0.05}):
                row = run(1.0, seed, **keys)
                better = gain + 0.1 * seed if "rho" in keys else 0.0
                dataset = replace(row.config.dataset, label_noise=noise, train_size=size)
                config = replace(row.config, dataset=dataset, augmentation=replace(row.config.augmentation, flip=flip, crop_padding=0))
                reached = {cells.ACCURACY: 40.0 + 3 * seed + better, cells.LOSS: 0.5, cells.SHARPNESS: 0.01}
                made.append(replace(row, config=config, measures=reached))
    monkeypatch.setattr(cells, "stored_runs", lambda config, problems: made)
    cells.main(tmp_path, tmp_path / "cells")
    _, _, *lines = (tmp_path / "cells.md").read_text().splitlines()
    assert lines[0] == "| none | 0% | 1,000 | 3 | 43.00 | +0.60 [+0.35, +0.85] | 0.5, 0.5 | 10.00, 10.00 |"
    assert lines[1].startswith("| none | 20% | 4,000 | 3 | 43.00 | -1.90 [-2.15, -1.65] |")  # half widths: 4.303 x 0.1 / sqrt 3
    assert lines[2].startswith("| flip | 0% | 1,000 | 3 | 43.00 | +1.10 [+0.85, +1.35] |")
    assert (tmp_path / "cells.csv").read_text().splitlines()[1].startswith("none,0.0,1000,0.05,3,0.6")
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".png", ".pdf"}
