"""What a run's row takes from its own record, beside what was measured of its weights."""

from pathlib import Path
from typing import Any

import pytest

from sam.evaluation.evaluate import _row
from sam.optimizers.settings import OptimizerConfig
from sam.runs import records
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.context import Result


def row_of(
    folder: Path, method: str, rows: list[dict[str, Any]], last5: float | None = 90.0, **measured: float | None
) -> dict[str, float | None]:
    """The measures of a made-up run whose weights' test loss is 0.5."""
    final = {"train_loss": 0.1, "perturbed_loss": 0.3}
    if rows:
        records.write_metrics(folder, [row | final for row in rows])
    record = {
        "config": to_dict(TrainConfig(optimizer=OptimizerConfig.of(method=method))),
        "setting": "s",
        "status": "finished",
        "epochs": len(rows),
        "diverged_epoch": None,
        "final": final,
        "last5": {"test_accuracy": last5},
        "fingerprint": "f",
        "identity": {},
        "data": {"fingerprint": "d", "notes": []},
    }
    return dict(_row(folder, record, Result({"test_loss_channel": 0.5} | measured)).measures)


def test_the_perturbations_of_training(tmp_path: Path) -> None:
    """Last epoch, and the mean over epochs."""
    rows = [{"epoch": i, "eps_over_rho": e, "cos_g_eps": c} for i, (e, c) in enumerate([(1.0, 0.25), (0.5, 0.5), (0.75, 0.9)], 1)]
    found = row_of(tmp_path, "sam", rows)
    assert {name: found[name] for name in found if "eps" in name} == pytest.approx(
        {"eps_over_rho": 0.75, "mean_eps_over_rho": 0.75, "cos_g_eps": 0.9, "mean_cos_g_eps": 0.55}
    )
    assert found["gap_running"] == pytest.approx(0.4) and found["gap_perturbed"] == pytest.approx(0.2)


def test_an_epoch_takes_the_median_of_its_training(tmp_path: Path) -> None:
    found = row_of(tmp_path, "sgd", [{"epoch": i, "train_seconds": s, "seconds": 100.0 * i} for i, s in enumerate([9.0, 2.0, 3.0], 1)])
    assert found["epoch_seconds"] == 3.0


def test_what_was_not_met_is_not_there(tmp_path: Path) -> None:
    """So that a table says "not measured": SGD perturbs nothing, and a run need not evaluate the test set while training."""
    found = row_of(tmp_path, "sgd", [{"epoch": 1}], last5=None)
    assert found.keys() == {"test_loss_channel", "gap_running", "gap_perturbed"}
    assert row_of(tmp_path / "none", "sgd", [])["last5_test_accuracy"] == 90.0


def test_curvature_stands_beside_the_loss_of_the_same_images(tmp_path: Path) -> None:
    tops = {"eigenvalue[k=1]": 3.0, "eigenvalue[k=1,subset=48]": 5.0, "eigenvalue[k=10]": 1.0, "eigenvalue[k=1,subset=9]": 1.0}
    losses = {"train_loss": 0.5, "train_loss[subset=48]": 0.25, "train_loss[subset=9]": 0.0}
    found = row_of(tmp_path, "sgd", [], **tops, **losses)
    assert {name: value for name, value in found.items() if name.startswith("lambda1")} == {
        "lambda1_over_loss": 6.0,
        "lambda1_over_loss[subset=48]": 20.0,
        "lambda1_over_loss[subset=9]": None,
    }
