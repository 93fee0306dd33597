"""`eval_interval`: which epochs are evaluated, that nothing else changes, and that whatever reads a record bears what is missing."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sam.config import ConfigError
from sam.runs import identity, records
from sam.runs.run import run
from sam.runs.tracking import WandbTracker
from sam.settings import TrainConfig
from sam.training import loop
from sam.training.rows import headline, reached, summary
from scripts import status

Tiny = Callable[..., TrainConfig]
SPLIT = {"dataset": {"val_fraction": 0.25}}
TEST = ("test_loss", "test_accuracy")
VAL = ("val_loss", "val_accuracy")


def table(config: TrainConfig) -> list[dict[str, str]]:
    """metrics.csv as text, without the times."""
    with (identity.run_folder(config) / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in csv.DictReader(file)]


def header(config: TrainConfig) -> str:
    return (identity.run_folder(config) / "metrics.csv").read_text().splitlines()[0]


def evaluated(config: TrainConfig, column: str) -> list[int]:
    return [int(row["epoch"]) for row in table(config) if row[column]]


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"),
    [
        (9, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (9, 2, [2, 4, 5, 6, 7, 8, 9]),
        (12, 3, [3, 6, 8, 9, 10, 11, 12]),
        (7, 100, [3, 4, 5, 6, 7]),
        (3, 100, [1, 2, 3]),
    ],
)
def test_which_epochs_are_evaluated(epochs: int, interval: int, expected: list[int]) -> None:
    config = TrainConfig(epochs=epochs, eval_interval=interval)
    never = TrainConfig(epochs=epochs, eval_interval=0)
    for epoch in range(1, epochs + 1):
        assert config.evaluated_after(epoch) == (("test", "val") if epoch in expected else ())
        assert never.evaluated_after(epoch) == (("val",) if epoch > epochs - 5 else ())


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"eval_interval=-1: must be a finite number >= 0"):
        TrainConfig(eval_interval=-1)


def test_fewer_evaluations_change_nothing_else(tiny: Tiny) -> None:
    """The same run: identity, weights, columns, and every number that is there; the cells of the other epochs are empty."""
    configs = {i: tiny(runs=f"every {i}", epochs=7, eval_interval=i, **SPLIT) for i in (1, 2, 0)}
    made = {i: run(config) for i, config in configs.items()}
    assert len({identity.run_fingerprint(config) for config in configs.values()}) == 1
    states = [torch.load(identity.run_folder(config) / "checkpoint.pt", weights_only=True) for config in configs.values()]
    for state in states[1:]:
        assert all(torch.equal(value, states[0]["model"][name]) for name, value in state["model"].items())
    full = table(configs[1])
    for interval, test, val in ((1, range(1, 8), range(1, 8)), (2, [2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]), (0, [], [3, 4, 5, 6, 7])):
        config = configs[interval]
        assert header(config) == header(configs[1])
        expected = [
            {key: "" if (key in TEST and i not in test) or (key in VAL and i not in val) else value for key, value in row.items()}
            for i, row in enumerate(full, 1)
        ]
        assert table(config) == expected
    assert made[2]["final"] == made[1]["final"] and made[2]["last5"] == made[1]["last5"]
    for part in ("final", "last5"):
        assert made[0][part] == made[1][part] | dict.fromkeys(TEST)
    late = max((row for row in records.read_metrics(identity.run_folder(configs[1])) if row["epoch"] > 2), key=lambda r: r["val_accuracy"])
    assert made[0]["best"] == {
        "selected_on": "val",
        "interval": 0,
        "epoch": late["epoch"],
        **dict.fromkeys(TEST),
        **{key: late[key] for key in VAL},
    }
    assert [made[i]["best"]["interval"] for i in (1, 2)] == [1, 2]


def test_without_a_validation_set_nothing_is_evaluated(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "DatasetLoss", lambda *args, **options: pytest.fail("a set was evaluated"))
    config = tiny(eval_interval=0)
    record = run(config)
    assert record["status"] == "finished" and record["final"]["train_loss"] > 0
    assert [record[part][key] for part in ("final", "last5", "best") for key in TEST] == [None] * 6
    assert (record["best"]["selected_on"], record["best"]["epoch"]) == ("test", None)
    assert evaluated(config, "test_loss") == [] and header(config).split(",").count("test_loss") == 1


@pytest.mark.parametrize("interval", [0, 1])
def test_weights_that_become_infinite_in_the_last_step_are_no_finished_run(tiny: Tiny, interval: int) -> None:
    """As a run that evaluates the test set; whether it does is no part of what the run is."""
    config = tiny(batch_size=96, epochs=1, eval_interval=interval, optimizer={"method": "sgd", "lr": 1e38, "weight_decay": 1e3})
    record = run(config)
    assert record["status"] == "diverged" and record["diverged_epoch"] == 1
    assert math.isfinite(record["final"]["train_loss"])


def test_a_run_that_diverges_before_anything_was_evaluated(tiny: Tiny) -> None:
    record = run(tiny(epochs=20, eval_interval=10, optimizer={"lr": 1e12}, **SPLIT))
    assert record["status"] == "diverged" and record["diverged_epoch"] < 10
    assert [record[part][key] for part in ("final", "last5", "best") for key in (*TEST, *VAL)] == [None] * 12


def test_a_finished_run_is_the_same_run_at_any_interval(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tiny(eval_interval=1))
    assert run(tiny(eval_interval=0)) == records.read_run(identity.run_folder(tiny()))
    assert "finished already" in capsys.readouterr().err and first["final"]["test_accuracy"] is not None


def test_a_continued_run_keeps_its_rows(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in epoch 4 and continued at another interval: each epoch as it was evaluated, bitwise the same otherwise."""
    whole, pieces = tiny(runs="whole", epochs=9), tiny(runs="pieces", epochs=9, eval_interval=3)
    run(whole)
    write = records.write_metrics

    def failing(folder: Path, rows: list[Any]) -> None:
        if len(rows) == 4:
            raise KeyboardInterrupt
        write(folder, rows)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_metrics", failing)
        with pytest.raises(KeyboardInterrupt):
            run(pieces)
    again = tiny(runs="pieces", epochs=9, eval_interval=0)
    record = run(again)
    assert evaluated(again, "test_accuracy") == [3]
    assert [row["train_loss"] for row in table(again)] == [row["train_loss"] for row in table(whole)]
    assert (record["best"]["epoch"], record["best"]["test_loss"]) == (3, float(table(whole)[2]["test_loss"]))
    assert record["last5"]["test_loss"] is None and record["status"] == "finished"


def test_summary_of_missing_numbers_by_hand() -> None:
    base = {"train_loss": 0.5, "train_accuracy": 60.0, "perturbed_loss": 0.7}
    seen = {2: 80.0, 4: 30.0, 6: 70.0}
    rows = [base | {"epoch": e, "test_accuracy": seen.get(e), "test_loss": None if e not in seen else 0.1 * e} for e in range(1, 7)]
    made = summary(rows, 2)
    assert made["final"] == base | {"test_accuracy": 70.0, "test_loss": pytest.approx(0.6)}
    assert made["last5"] == {"test_accuracy": None, "test_loss": None}  # of five, two were not measured
    assert made["best"] == {"selected_on": "test", "interval": 2, "epoch": 2, "test_accuracy": 80.0, "test_loss": 0.2}


@pytest.mark.parametrize(
    ("values", "name", "accuracy"),
    [
        ({"test_accuracy": 91.0, "test_loss": 0.3, "val_accuracy": 90.0, "val_loss": 0.4}, "test", 91.0),
        ({"test_accuracy": None, "test_loss": None, "val_accuracy": 90.0, "val_loss": 0.4}, "validation", 90.0),
        ({"test_accuracy": None, "test_loss": None}, "training", 60.0),
        ({"test_accuracy": 10.0, "test_loss": "nan"}, "test", 10.0),  # a diverged run's, read back
    ],
)
def test_what_is_said_of_a_run(values: dict[str, Any], name: str, accuracy: float, tmp_path: Path) -> None:
    """On the progress line, in status.py; and in the closing line of train.py, from the same function."""
    full = {"epoch": 3, "train_loss": 0.5, "train_accuracy": 60.0} | values
    assert reached(full)[:2] == (name, accuracy)
    assert status.state(tmp_path, {"status": "finished", "final": full}) == ("finished", f"{name} accuracy {accuracy:.2f}%")
    if "nan" not in values.values():
        assert headline(full, 9) == f"{name} {accuracy:.2f}%, train loss 0.500, epoch 3/9"


def test_the_mirror_leaves_out_what_is_missing(tmp_path: Path) -> None:
    tracker, shown = object.__new__(WandbTracker), dict[str, Any]()
    tracker._run, tracker._folder = SimpleNamespace(summary=shown), tmp_path
    row = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 60.0, "perturbed_loss": 0.7, "test_accuracy": None, "test_loss": None}
    tracker._summarize({"status": "finished"} | summary([row], 0))
    named = {"final/train_loss": 0.5, "final/train_accuracy": 60.0, "final/perturbed_loss": 0.7, "best/interval": 0.0}
    assert shown == {"status": "finished", "best/selected_on": "test"} | named
