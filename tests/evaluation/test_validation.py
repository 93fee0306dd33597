"""Runs with a validation set: tuned on it alone, and measured on both sets later."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import data
from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError
from sam.evaluation.evaluate import evaluate
from sam.evaluation.foreign import evaluate_checkpoint
from sam.evaluation.settings import EvaluateConfig
from sam.runs.run import run
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.settings import GapConfig, SharpnessConfig
from sam.training import cost

TABLE = """# @package tables.tuning
title: Tuning
row_header: Method
rows: [{label: SGD, match: {method: sgd}}]
columns:
  - {key: primary, header: Recalibrated, measure: "val_accuracy[bn=recalibrated]"}
  - {key: eval, header: Eval, measure: val_accuracy}
  - {key: loss, header: Loss, measure: val_loss}
  - {key: last5, header: Last5, measure: last5_val_accuracy}
  - {key: last5_loss, header: Last5 loss, measure: last5_val_loss}
"""


def test_a_share_that_holds_out_no_image_is_refused_and_what_was_trained_so_is_measured(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(epochs=1, dataset={"val_fraction": 0.0001})
    with pytest.raises(ConfigError, match=r"dataset\.val_fraction=0\.0001: holds out none of the 96 images"):
        run(config)
    monkeypatch.setattr(cost, "check", lambda config: data.describe(**to_dict(config.dataset)))  # as it was
    run(config)
    sharpness = SharpnessConfig.of(notions=["gap"])
    found = evaluate(EvaluateConfig(runs_dir=str(tmp_path), sharpness=sharpness, threads=1, device="cpu"))
    assert found.problems == [] and "test_loss" in found.runs[0].measures
    (file,) = tmp_path.rglob("checkpoint.pt")
    dataset, model = DatasetConfig(name="digits", val_fraction=0.0001), ModelConfig.of(depth=10, width=1)
    config = EvaluateConfig(checkpoint=str(file), dataset=dataset, model=model, sharpness=sharpness, threads=1, device="cpu")
    assert "test_loss" in evaluate_checkpoint(config).found.values


def stored(run: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads((run / "sharpness.json").read_text())["rows"]
    return rows


def test_tuning_and_then_the_test(
    commands: Callable[[Sequence[Sequence[str]]], list[Any]],
    tiny_options: tuple[str, ...],
    measure_options: tuple[str, ...],
    tmp_path: Path,
) -> None:
    runs, conf = tmp_path / "runs", tmp_path / "conf"
    (conf / "table").mkdir(parents=True)
    (conf / "table" / "tuning.yaml").write_text(TABLE)
    train = ["train.py", "optimizer=sgd", *tiny_options, "epochs=2", "dataset.val_fraction=0.5", f"runs_dir={runs}"]
    tune = [
        "evaluate_sharpness.py",
        f"--config-dir={conf}",
        f"runs_dir={runs}",
        "table=tuning",
        *measure_options,
        "sharpness.notions=[gap]",
    ]
    modes = "sharpness.batchnorm=[eval,recalibrated]"
    trained, tuned = commands([train, [*tune, modes, "sharpness.gap.splits=[val]"]])
    assert trained.code == tuned.code == 0, (trained, tuned)
    (run,) = (path.parent for path in runs.rglob("run.json"))
    before = stored(run)
    values = {name: value for row in before.values() for name, value in row["values"].items()}
    assert len(before) == 4 and not any(name.startswith(("test", "gap", "ece")) for name in values)
    with (run / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    table = csv.DictReader((runs / "tables" / "tuning.csv").read_text().splitlines())
    cells = {row["column"]: float(row["mean"]) for row in table if row["mean"]}
    mean = {name: sum(float(row[name]) for row in epochs) / 2 for name in ("val_accuracy", "val_loss")}
    expected = {"Recalibrated": values["val_accuracy[bn=recalibrated]"], "Eval": values["val_accuracy"], "Loss": values["val_loss"]}
    assert cells == pytest.approx(expected | {"Last5": mean["val_accuracy"], "Last5 loss": mean["val_loss"]})
    assert values["val_loss"] == pytest.approx(float(epochs[-1]["val_loss"]), rel=1e-5)
    assert values["val_accuracy"] == float(epochs[-1]["val_accuracy"])

    def measured(notions: list[str], **gap: Any) -> dict[str, float | None]:
        sharpness = SharpnessConfig.of(notions=notions, m=64, batchnorm=["eval", "recalibrated"], gap=GapConfig(**gap))
        (row,) = evaluate(EvaluateConfig(runs_dir=str(runs), sharpness=sharpness, threads=1, device="cpu")).runs
        return dict(row.measures)

    now = measured(["gap"])
    assert {"test_accuracy", "test_accuracy[bn=recalibrated]", "val_loss[bn=recalibrated]", "last5_test_loss"} <= set(now)
    after = stored(run)
    assert {key: after[key] for key in before} == before and len(after) == 6  # two rows of the test set, nothing else anew
    alone = measured(["average"])  # no notion measures the validation set: the values of the training stand there
    assert alone["val_loss"] == float(epochs[-1]["val_loss"]) and alone["val_accuracy"] == values["val_accuracy"]
