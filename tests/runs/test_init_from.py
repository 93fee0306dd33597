"""A run that starts from a file of weights: what it starts with, what it is called, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import data
from sam.config import ConfigError
from sam.evaluation.evaluate import evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity, records, session
from sam.runs.records import FINISHED
from sam.runs.run import run
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.training.loop import Trainer
from sam.training.weights import CheckpointError

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def weights(tiny: Tiny, trainer: Make, tmp_path: Path) -> dict[str, Tensor]:
    """Of a network with another seed, running statistics that no fresh network has, and its file as the public ones are: w.th."""
    state = trainer(tiny(seed=7)).model.state_dict()
    for name, value in state.items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    state = {name: value.clone() for name, value in state.items() if "num_batches" not in name}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec1": 91.78}, tmp_path / "w.th")
    return state


def test_the_model_starts_there_and_all_else_is_the_seeds(
    tiny: Tiny, trainer: Make, weights: dict[str, Tensor], tmp_path: Path, method: dict[str, Any]
) -> None:
    started = trainer(tiny(optimizer=method, init_from=str(tmp_path / "w.th")))
    plain = trainer(tiny(optimizer=method))
    plain.model.load_state_dict(weights, strict=False)
    assert not any(plain.model.state_dict()[name].any() for name in plain.model.state_dict().keys() - weights.keys())  # counters, at 0
    assert equal(started.model.state_dict(), plain.model.state_dict())
    rows = [t.run_epoch(lambda _: None) for t in (started, plain)]
    assert rows[0]["train_loss"] == rows[1]["train_loss"] and equal(started.model.state_dict(), plain.model.state_dict())
    assert not equal(trainer(tiny(optimizer=method)).model.state_dict(), weights)


def test_force_does_not_delete_the_weights_that_the_run_starts_from(tiny: Tiny, trainer: Make, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    torch.save(trainer(tiny(seed=7)).model.state_dict(), tmp_path / "here" / "checkpoint.pt")
    config = tiny(init_from=str(tmp_path / "here" / "checkpoint.pt"), run_dir=str(tmp_path / "here"), force=True)
    with pytest.raises(ConfigError, match=r"is missing, though checkpoint\.pt is there.*move init_from=\S+ to another folder"):
        run(config)
    assert (tmp_path / "here" / "checkpoint.pt").is_file()


def test_a_runs_own_checkpoint_will_do(tiny: Tiny, trainer: Make) -> None:
    first = tiny(epochs=1)
    run(first)
    file = identity.run_folder(first) / "checkpoint.pt"
    second = trainer(tiny(seed=1, init_from=str(file)))
    assert equal(second.model.state_dict(), torch.load(file, weights_only=True)["model"])
    assert second.epoch == 0 and not second.optimizer.base.state  # a new run, without the other one's momentum


def test_it_counts_by_its_bytes(tiny: Tiny, weights: dict[str, Tensor], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "w.th", tmp_path / "copy.th")
    torch.save({name: value + 1 for name, value in weights.items()}, tmp_path / "other.th")
    first, copy, other = (tiny(init_from=str(tmp_path / f"{name}.th")) for name in ("w", "copy", "other"))
    assert identity.run_fingerprint(first) == identity.run_fingerprint(copy)
    assert len({identity.run_fingerprint(config) for config in (first, other, tiny())}) == 3
    assert identity.identity(first)["init_from"] == data.file_fingerprint(tmp_path / "w.th")
    assert identity.setting(first) == identity.setting(tiny(init_from=first.init_from, seed=3)) != identity.setting(tiny())
    drawn = tiny(init_from=first.init_from, model={"init": "torch"})  # and replaced
    assert identity.run_fingerprint(drawn) == identity.run_fingerprint(first)


def test_a_stopped_run_continues_bitwise(tiny: Tiny, weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = (tiny(runs=name, init_from=str(tmp_path / "w.th"), epochs=3) for name in ("whole", "pieces"))
    expected = run(whole)

    def stop(folder: Path, rows: list[Any], write: Callable[..., None] = records.write_metrics) -> None:
        if len(rows) == 2:
            raise KeyboardInterrupt
        write(folder, rows)

    with monkeypatch.context() as patch:
        patch.setattr(session.records, "write_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            run(pieces)
    shutil.move(tmp_path / "w.th", tmp_path / "moved.th")
    again = run(tiny(runs="pieces", init_from=str(tmp_path / "moved.th"), epochs=3))
    assert (again["final"], again["status"]) == (expected["final"], FINISHED)
    assert len(again["segments"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.zeros(3)}, "does not fit WideResNet"),
        ([1, 2], "holds a list and no state_dict"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tiny: Tiny, tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message) as error:
        run(tiny(init_from=str(tmp_path / "w.pt")))
    assert str(error.value).startswith(f"init_from={tmp_path / 'w.pt'}: ") and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_a_trained_run_is_measured_when_the_file_has_gone(tiny: Tiny, weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Its record has the hash: runs that started alike stand together, wherever their files lay."""
    shutil.copy(tmp_path / "w.th", tmp_path / "w2.th")
    configs = [tiny(epochs=1, seed=seed, init_from=str(tmp_path / name)) for seed, name in ((0, "w.th"), (1, "w2.th"))]
    for config in (*configs, tiny(epochs=1)):
        run(config)
    for file in tmp_path.glob("*.th"):
        file.unlink()
    row = {"label": "SAM", "match": {"method": "sam"}}
    column = {"key": "accuracy", "header": "Accuracy", "measure": "test_accuracy"}
    table = {"title": "T", "rows": [row], "columns": [column]}
    settings = {"runs_dir": str(tmp_path / "runs"), "sharpness": {"notions": ["gap"]}, "device": "cpu", "threads": 1}
    found = evaluate(from_dict(EvaluateConfig, settings | {"tables": {"t": table}}))
    label = "digits, 96 training images, WRN-10-1, 1 epoch, protocol tiwary2024"
    assert found.problems == []
    assert [block.title for block in found.blocks] == [f"T, {label}", f"T, {label}, started from w.th"]
    assert [block.rows[0][-1].summary.n for block in found.blocks] == [1, 2]  # type: ignore[union-attr]
