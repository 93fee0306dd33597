"""Kept checkpoints measured along the epochs: rows of their own, in kept.csv and in no table."""

import csv
import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import data
import sam.sharpness
from sam.evaluation import measuring, storing
from sam.evaluation.evaluate import Evaluation, evaluate, measured_epochs, trajectories
from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import OptimizerConfig
from sam.runs import checkpoint, records
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.sharpness.context import Context, Result
from sam.sharpness.settings import SharpnessConfig
from sam.training.loop import build_model
from sam.training.weights import load_weights

GAP = SharpnessConfig.of(notions=["gap"], batchnorm=["eval"])


@pytest.fixture(scope="module")
def trained(
    commands: Callable[[Sequence[Sequence[str]]], list[Any]], tiny_options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """SGD and SAM, three epochs, of which the first and the last are kept. Never write into it."""
    runs = tmp_path_factory.mktemp("kept") / "runs"
    line = ["train.py", "-m", "optimizer=sgd,sam", *tiny_options, "epochs=3", "keep_checkpoints=[1,3]", f"runs_dir={runs}"]
    (done,) = commands([line])
    assert done.code == 0, done.err
    return runs


def measured(runs: Path, **options: Any) -> Evaluation:
    return evaluate(EvaluateConfig(**({"runs_dir": str(runs), "sharpness": GAP, "threads": 1, "device": "cpu"} | options)))


def lines(runs: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((runs / "tables" / "kept.csv").read_text().splitlines()))


def test_a_notion_is_told_what_trained_the_network(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[str, int | None]]()

    def measure(context: Context) -> Result:
        told.append((context.optimizer.method, context.batch))
        return Result({})

    monkeypatch.setattr("sam.sharpness.ascent.measure", measure)
    config = SharpnessConfig.of(notions=["ascent"], batchnorm=["eval"])
    measured(Path(shutil.copytree(trained, tmp_path / "runs")), sharpness=config)
    batch = records.run_config(next(record for _, record in records.find_runs(trained))).batch_size
    assert sorted(told) == [("sam", batch), ("sgd", batch)]


def test_a_network_trained_in_groups_is_measured_on_batches_of_their_size() -> None:
    pending = measuring._Pending(Path("run"), {}, TrainConfig(batch_size=128, m=32), Path("run/checkpoint.pt"), None, {})
    assert pending.batch == 32


def test_every_epoch_is_a_line_and_no_table_knows(trained: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained, tmp_path / "runs"))
    alone = measured(runs)
    assert not (runs / "tables" / "kept.csv").exists()
    final = {path.parent.name: json.loads(path.read_text())["rows"] for path in runs.glob("*/sharpness.json")}
    both = measured(runs, kept=True)
    assert both.problems == [] and both.blocks == alone.blocks and runs / "tables" / "kept.csv" in both.files
    found = lines(runs)
    assert [(line["optimizer.method"], line["epoch"]) for line in found] == [("sgd", "1"), ("sgd", "3"), ("sam", "1"), ("sam", "3")]
    assert {"optimizer.rho", "folder", "seed", "test_loss"} <= set(found[0]) and not {"epochs", "optimizer.lr"} & set(found[0])
    assert [line["optimizer.rho"] for line in found] == ["", "", "0.05", "0.05"]
    for line, row in zip(found[1::2], both.runs, strict=True):
        assert line["folder"] == row.folder and float(line["test_loss"]) == row.measures["test_loss"]
    for line in found[::2]:
        folder = Path(line["folder"])
        record = records.read_run(folder)
        assert record is not None and len(json.loads((folder / "sharpness.json").read_text())["rows"]) == 2
        config = records.run_config(record)
        images = data.load(**to_dict(config.dataset))
        state = torch.load(folder / "checkpoint.epoch0001.pt", weights_only=True)["model"]
        model = build_model(config, images)
        load_weights(model, state, folder)
        expected = sam.sharpness.evaluate(model, images, notions=["gap"], batchnorm=["eval"])
        assert float(line["test_loss"]) == pytest.approx(expected["test_loss"], rel=1e-5)
        assert float(line["train_loss"]) != both.runs[0].measures["train_loss"]
    for name, rows in final.items():  # the final checkpoint was not measured anew
        assert rows.items() <= json.loads((runs / name / "sharpness.json").read_text())["rows"].items()
    stamps = {path: path.stat().st_mtime_ns for path in runs.glob("*/sharpness.json")}
    measured(runs, kept=True)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps and lines(runs) == found


def test_what_follows_from_measures_follows_at_every_epoch() -> None:
    """A share of the ball's maximum, and lambda_1 over the loss, at a kept checkpoint as at the final one."""
    folder, record = Path("run"), {"status": records.FINISHED, "config": to_dict(TrainConfig(epochs=3))}
    values = {"n_step[rho=1,n=5,rule=split]": 1.0, "maximum[rho=1]": 4.0, "eigenvalue[k=1]": 6.0, "train_loss": 2.0}
    (epochs,) = measured_epochs([(folder, record)], {folder: Result(values)}).values()
    assert epochs == {3: values | {"n_step_share[rho=1,n=5,rule=split]": 0.25, "lambda1_over_loss": 3.0}}


def test_another_runs_final_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained, tmp_path / "runs"))
    sam_run, sgd_run = sorted(path.parent for path in runs.glob("*/run.json"))
    shutil.copy(sgd_run / "checkpoint.pt", sam_run)  # which would fit
    found = measured(runs)
    prints = (json.loads((run / "run.json").read_text())["fingerprint"] for run in (sgd_run, sam_run))
    assert len(found.problems) == 1 and found.problems[0].endswith("checkpoint.pt: is of run {}, not run {}.".format(*prints))
    assert [row.folder for row in found.runs] == [str(sgd_run)]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_damaged_or_foreign_is_named_and_nothing_else_lost(trained: Path, tmp_path: Path, processes: int) -> None:
    runs = Path(shutil.copytree(trained, tmp_path / "runs"))
    sam_run, sgd_run = sorted(path.parent for path in runs.glob("*/run.json"))
    shutil.copy(sgd_run / "checkpoint.epoch0001.pt", sam_run / "checkpoint.epoch0002.pt")  # another run's, which would fit
    shutil.copy(sgd_run / "checkpoint.epoch0001.pt", sgd_run / "checkpoint.epoch0002.pt")  # its own, of another epoch
    (sgd_run / "checkpoint.epoch0001.pt").write_bytes(b"damaged")
    found = measured(runs, kept=True, processes=processes)
    assert [(row.status, "test_loss" in row.measures) for row in found.runs] == [("finished", True)] * 2
    named = {problem.partition(": ")[0]: problem for problem in found.problems}
    assert len(found.problems) == 3
    assert "damaged or truncated" in named[f"{sgd_run.name}/checkpoint.epoch0001.pt"]
    assert "is of epoch 1 of run" in named[f"{sgd_run.name}/checkpoint.epoch0002.pt"]
    assert "is of epoch 1 of run" in named[f"{sam_run.name}/checkpoint.epoch0002.pt"]
    epochs = {(line["optimizer.method"], line["epoch"]) for line in lines(runs)}
    assert epochs == {("sgd", "3"), ("sam", "1"), ("sam", "3")}


def test_a_diverged_run_shows_what_it_kept_and_values_that_are_undefined_are_empty(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    configs = [TrainConfig(epochs=5, optimizer=OptimizerConfig.of(method="sgd", lr=lr)) for lr in (0.1, 0.2)]
    done = [
        (folder, {"status": status, "config": to_dict(config), "fingerprint": folder.name})
        for folder, config, status in zip(folders, configs, ("finished", "diverged"), strict=True)
    ]
    for folder in folders:
        checkpoint.save(folder, {}, 2)
    values = {"gap": None, "train_loss": 0.5}
    rows = {folder: Result(values) for folder in folders}
    rows |= {folder / "checkpoint.epoch0002.pt": Result({"train_loss": 1.5}) for folder in folders}
    assert trajectories(done, measured_epochs(done, rows)).splitlines() == [
        "folder,seed,optimizer.method,optimizer.lr,epoch,train_loss,gap",
        f"{folders[0]},0,sgd,0.1,2,1.5,",
        f"{folders[0]},0,sgd,0.1,5,0.5,",
        f"{folders[1]},0,sgd,0.2,2,1.5,",
    ]


def _store(path: Path, worker: int) -> None:
    for k in range(20):
        storing.store(path, f"{worker}-{k}", "gap", Result({"loss": float(k)}), {})


def test_processes_that_store_rows_of_one_run_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "run" / "sharpness.json"
    workers = [multiprocessing.get_context("fork").Process(target=_store, args=(path, k)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(storing.stored(path)) == {f"{worker}-{k}" for worker in range(3) for k in range(20)}
