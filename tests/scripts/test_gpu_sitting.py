"""Campaigns: calls of any length, stopped and killed anywhere, that end in the rows of one uninterrupted call."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sam.campaign import plan, rows, stages, timing
from sam.campaign.call import sit
from sam.campaign.clock import CallClock, TimeUp
from sam.campaign.options import parse
from sam.campaign.plan import TABLE2, TABLE3, Planned, compose
from sam.config import TrainConfig
from sam.results import identity, records
from sam.training.run import run as train
from sam.training.sweep import planned

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_sitting.py"
SMALL_FILES = ("README.md", "campaign.json", "curves.csv", "log.txt", "rows.csv", "rows.json")
TIMES = ("seconds", "train_seconds")
LABELS = [f"arrays/{optimizer}/s0" for optimizer in (*TABLE3, *TABLE2)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 24 test images of 8 x 8 pixels in 3 classes that can be told apart."""
    path, random = tmp_path_factory.mktemp("arrays") / "tiny.npz", np.random.default_rng(0)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 3
        return np.clip(random.normal(60 + 60 * labels[:, None, None, None], 40, (n, 8, 8, 3)), 0, 255).astype(np.uint8), labels

    (train_images, train_labels), (test_images, test_labels) = split(64), split(24)
    np.savez(path, train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels)
    return path


def first(arrays: Path, out: Path, *more: str) -> list[str]:
    """What a first call says, beside its minutes."""
    keys = ["dataset=arrays", f"dataset.path={arrays}", "model=wrn_10_1", "batch_size=32", "min_epochs=2", "budget_minutes=0", "subset=48"]
    return [*keys, "seeds=1", "threads=1", "device=cpu", f"out={out}", *more]


def call(*arguments: str) -> int:
    return sit(parse(arguments), time.monotonic())


def content(out: Path) -> dict:
    return json.loads((out / "campaign.json").read_text())


def run_folders(out: Path) -> dict[str, Path]:
    """Folders by label."""
    named = {row["name"]: row["label"] for row in rows.read(out).values()}
    return {named[folder.name]: folder for folder, _ in records.find_runs(out / "runs") if folder.name in named}


def end_of(folder: Path) -> tuple[dict, list[dict]]:
    """(weights, buffers and momenta; metrics without times) of a run."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    momenta = {f"momentum {k}": v["momentum_buffer"] for k, v in state["optimizer"]["base"]["state"].items()}
    with (folder / "metrics.csv").open() as file:
        metrics = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return state["model"] | momenta, metrics


def assert_same_run(a: Path, b: Path) -> None:
    (tensors, metrics), (others, other_metrics) = end_of(a), end_of(b)
    assert tensors.keys() == others.keys() and len(tensors) > 20
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert metrics == other_metrics and len(metrics) > 0


# ------------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def uninterrupted(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert call("minutes=10", *first(arrays, out)) == 0
    return out


@pytest.fixture(scope="module")
def pieces(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The same campaign in calls without time, each of which does one step or one measurement, until four rows are measured, and one
    long call; with the campaign's settings after every call."""
    out, settings = tmp_path_factory.mktemp("pieces") / "out", []
    for k in range(60):
        assert call("minutes=0", *(first(arrays, out) if k == 0 else [f"out={out}", "seeds=1", "threads=1", "device=cpu"])) == 0
        settings.append(content(out)["settings"])
        if len(rows.read(out)) >= 2:
            break
    assert len(rows.read(out)) == 2 and rows.read(out)["arrays/sgd/s0"]["measured"]  # calls without time do get somewhere
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 0
    return out, [*settings, content(out)["settings"]]


def test_calls_without_time_take_one_step_each_and_end_bitwise_like_one_long_call(
    pieces: tuple[Path, list[dict]], uninterrupted: Path
) -> None:
    ours, theirs = run_folders(pieces[0]), run_folders(uninterrupted)
    assert list(ours) and ours.keys() == theirs.keys() == set(LABELS)
    for label in LABELS:
        assert_same_run(ours[label], theirs[label])
    segments = json.loads((ours["arrays/sgd/s0"] / "run.json").read_text())["segments"]
    starts = [(segment["from_epoch"], segment["from_step"]) for segment in segments]
    assert starts[:4] == [(0, 0), (0, 1), (0, 2), (1, 1)]  # a step each; epoch 1 closes in the call that takes the first step of the next


def test_measures_do_not_depend_on_the_calls(pieces: tuple[Path, list[dict]], uninterrupted: Path) -> None:
    ours, theirs = rows.read(pieces[0]), rows.read(uninterrupted)
    assert list(ours) == LABELS
    for label in LABELS:
        assert ours[label]["measures"] == theirs[label]["measures"]
        assert "gap" in ours[label]["measures"] and "sharpness[rho=0.05,bn=eval,batch=all]" in ours[label]["measures"]


def test_settings_are_fixed_by_the_first_call(pieces: tuple[Path, list[dict]]) -> None:
    _, settings = pieces
    assert len(settings) > 5 and all(one == settings[0] for one in settings)
    assert settings[0]["epochs"] == 2 and settings[0]["batch_size"] == 32 and settings[0]["precision"] == "fp32"


def test_a_finished_campaign_repeats_nothing(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    before = {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()}
    table = (out / "rows.json").read_text()
    capsys.readouterr()
    assert call("minutes=1", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 0
    assert {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()} == before
    assert (out / "rows.json").read_text() == table
    assert "Everything planned is done" in capsys.readouterr().err


def test_what_one_call_leaves_unmeasured_a_later_one_measures(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    full = rows.read(out)
    lost = LABELS[1:3]
    bare = [row | ({"measures": {}, "measured": []} if label in lost else {}) for label, row in full.items()]
    (out / "rows.json").write_text(json.dumps({"rows": bare}))
    for label in lost:
        (run_folders(out)[label] / records.MEASURES).unlink()
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu", "notions=gap") == 0
    assert [rows.read(out)[label]["measured"] for label in lost] == [["gap"], ["gap"]]
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 0
    assert {label: row["measures"] for label, row in rows.read(out).items()} == {label: row["measures"] for label, row in full.items()}


def test_rows_and_curves_are_complete_and_say_where_they_come_from(uninterrupted: Path) -> None:
    listed = list(csv.DictReader((uninterrupted / "rows.csv").open()))
    assert [row["label"] for row in listed] == LABELS
    assert [row["method"] for row in listed[:4]] == ["SGD", "Rand-SAM", "SAM", "XSAM"] and listed[6]["method"] == "SAM (N = 5)"
    for row in listed:
        assert row["status"] == "finished" and row["epochs"] == "2" and row["precision"] == "fp32"
        for key in ("data_fingerprint", "commit", "torch", "device", "fingerprint", "test_accuracy", "gap"):
            assert row[key] not in ("", "None"), key
        absent = [name for name in ("average", "hessian") if timing.missing(name) is not None]
        assert all(f"{name}: not measured" in row["notes"] for name in absent)
    curves = list(csv.DictReader((uninterrupted / "curves.csv").open()))
    assert [(row["label"], row["epoch"]) for row in curves] == [(label, epoch) for label in LABELS for epoch in ("1", "2")]
    readme = (uninterrupted / "README.md").read_text()
    for said in ("2 epochs", "batch 32", "fp32", listed[0]["data_fingerprint"], listed[0]["commit"], "torch 2.", *LABELS):
        assert said in readme, said
    assert sorted(path.name for path in uninterrupted.iterdir() if path.is_file()) == sorted(SMALL_FILES)


def test_finished_runs_are_not_repeated_where_only_the_small_files_are(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    out.mkdir()
    for name in SMALL_FILES:
        shutil.copy(uninterrupted / name, out / name)
    curves = (out / "curves.csv").read_text()
    table = json.loads((out / "rows.json").read_text())["rows"]
    (out / "rows.json").write_text(json.dumps({"rows": table[:-1]}))  # as if the last run had not been done
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 0
    assert [folder.name for folder, _ in records.find_runs(out / "runs")] == [table[-1]["name"]]
    assert [row["label"] for row in rows.read(out).values()] == LABELS

    def without_times(text: str) -> list[dict]:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(text.splitlines())]

    assert without_times((out / "curves.csv").read_text()) == without_times(curves)


def test_a_killed_call_goes_on_from_its_last_checkpoint(arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = first(arrays, out, "epochs=20", "save_seconds=0")
    process = subprocess.Popen([sys.executable, str(SCRIPT), "minutes=10", *arguments], stderr=subprocess.DEVNULL, cwd=tmp_path)
    limit = time.monotonic() + 60
    while not any(len(path.read_text().splitlines()) > 2 for path in out.glob("runs/*/metrics.csv")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.kill()
    process.wait()
    ((folder, record),) = records.find_runs(out / "runs")
    assert record["status"] == "running"  # nobody said goodbye
    assert call("minutes=0", f"out={out}", "threads=1", "device=cpu") == 0
    again = records.read_run(folder)
    assert again is not None and again["segments"][1]["from_epoch"] >= 1
    config = records.run_config(again)
    record = train(config)
    (whole,) = [f for f, _ in records.find_runs(out / "runs") if f == folder]
    train(TrainConfig(**{**config.__dict__, "runs_dir": str(tmp_path / "reference"), "checkpoint_steps": None}))
    ((reference, _),) = records.find_runs(tmp_path / "reference")
    assert_same_run(whole, reference)


def test_a_signal_ends_a_call_with_75_and_everything_saved(arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = first(arrays, out, "epochs=200")
    for package in ("hydra", "omegaconf", "wandb"):  # as on a machine that has none of them
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError(__name__)")
    command = [sys.executable, str(SCRIPT), "minutes=10", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    while not list(out.glob("runs/*/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in err
    assert "to go on: python scripts/gpu_sitting.py minutes=10 out=" in err and "under way, in epoch" in err
    ((folder, record),) = records.find_runs(out / "runs")
    assert record["status"] == "preempted" and (folder / "checkpoint.pt").exists()


def test_a_run_that_fails_stops_no_other_and_is_tried_again(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    lost = ("arrays/rand_sam/s0", "arrays/sam/s0")
    for label, folder in run_folders(out).items():
        if label in lost:
            shutil.rmtree(folder)
    (out / "rows.json").write_text(json.dumps({"rows": [row for row in rows.read(out).values() if row["label"] not in lost]}))

    def unlucky(config: TrainConfig) -> dict:
        if config.optimizer.method == "rand_sam":
            raise RuntimeError("out of memory")
        return train(config)

    monkeypatch.setattr("sam.campaign.call.train", unlucky)
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 1
    assert "arrays/rand_sam/s0: failed (RuntimeError: out of memory)" in capsys.readouterr().err
    assert set(rows.read(out)) == set(LABELS) - {lost[0]}
    monkeypatch.undo()
    assert call("minutes=10", f"out={out}", "seeds=1", "threads=1", "device=cpu") == 0
    assert list(rows.read(out)) == LABELS


def test_failing_tests_are_told_once_by_the_exit_status_and_stop_nothing(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", list[str]()
    shutil.copytree(uninterrupted, out)

    def run_tests(*_: object) -> dict[str, object]:
        seen.append("tests")
        return {"status": "failed", "summary": "1 failed"}

    monkeypatch.setattr(stages, "run_tests", run_tests)
    statuses = [call("minutes=1", f"out={out}", "seeds=1", "threads=1", "device=cpu", "tests=true") for _ in range(2)]
    assert statuses == [3, 0] and seen == ["tests"]
    assert "| tests | failed; 1 failed |" in (out / "README.md").read_text()


def test_a_second_data_set_and_another_seed_come_after_what_is_done(uninterrupted: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "cifar100.npz"
    shutil.copytree(uninterrupted, out)
    images, labels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3)).astype(np.uint8), np.arange(100)
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:20], test_labels=labels[:20])
    assert call("minutes=0", f"out={out}", "seeds=2", "threads=1", "device=cpu", f"cifar100={path}") == 0
    begun = [record for _, record in records.find_runs(out / "runs") if record["status"] == "preempted"]
    assert [record["config"]["dataset"]["name"] for record in begun] == ["cifar100"]
    assert begun[0]["config"]["epochs"] == 2 and begun[0]["config"]["seed"] == 0


# --------------------------------------------------------------------------------------------------------------- refusals


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    import runpy

    main: Callable[[Sequence[str]], int] = runpy.run_path(str(SCRIPT))["main"]
    capfd.readouterr()
    assert main(list(arguments)) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith("."), lines
    return lines[0]


def test_another_setting_for_an_old_campaign_is_refused(uninterrupted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (uninterrupted / "campaign.json").read_text()
    for argument, kept in (("epochs=3", "epochs=2"), ("model=wrn_16_1", "model=wrn_10_1"), ("precision=bf16", "precision=fp32")):
        sentence = refused(capfd, f"out={uninterrupted}", argument)
        assert argument in sentence and f"created with {kept}" in sentence
    assert (uninterrupted / "campaign.json").read_text() == before


def test_a_campaign_of_older_arithmetic_is_refused(uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "campaign.json").write_text(json.dumps(content(uninterrupted) | {"numerics": 0}))
    assert "another version of the arithmetic" in refused(capfd, f"out={tmp_path}")


def test_other_images_under_an_old_campaign_are_refused(uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.npz"
    images, labels = np.full((64, 8, 8, 3), 7, np.uint8), np.arange(64) % 3
    images[::2] = 200
    np.savez(other, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    assert "is not the file that this campaign began with" in refused(capfd, f"out={uninterrupted}", f"dataset.path={other}")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("minuets=9", ("minuets=9", "unknown argument", "minutes")),
        ("path=x.npz", ("unknown argument", "dataset.path")),
        ("minutes=nine", ("minutes=nine", "number")),
        ("minutes=-1", ("minutes=-1", ">= 0")),
        ("epochs=0", ("epochs=0", "auto")),
        ("precision=fp8", ("precision=fp8", "fp32")),
        ("notions=ascent,hesian", ("hesian", "hessian")),
        ("dataset=digits", ("dataset=digits", "cifar10")),
        ("model=wrn_28_11", ("model=wrn_28_11", "wrn_28_10")),
        ("protocol=xsam", ("protocol=xsam", "needs Hydra")),
        ("dataset.path=nowhere.npz", ("nowhere.npz",)),
    ],
)
def test_a_mistake_is_one_sentence(argument: str, words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capfd, f"out={tmp_path / 'out'}", argument)
    assert all(word in sentence for word in words), sentence


def test_runs_without_their_campaign_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "runs").mkdir(parents=True)
    assert "holds runs but no campaign.json" in refused(capfd, f"out={tmp_path / 'out'}")


# ------------------------------------------------------------------------------------------------------------------ parts


def test_order_of_the_runs() -> None:
    labels = [run.label for run in plan.runs(["cifar10", "cifar100"], 2)]
    each = ["sgd", "rand_sam", "sam", "xsam", "sam_n2", "sam_n3", "sam_n5"]
    assert labels == [f"{name}/{optimizer}/s{seed}" for seed in (0, 1) for name in ("cifar10", "cifar100") for optimizer in each]


@pytest.mark.parametrize("protocol", ["tiwary2024", "foret", "wrn_classic"])
def test_a_run_is_what_train_py_composes(protocol: str) -> None:
    for optimizer in (*TABLE3, *TABLE2):
        ours = compose(Planned("cifar100", optimizer, 3), "wrn_16_4", protocol, {"root": "datasets"}, epochs=17, precision="tf32")
        arguments = [f"optimizer={optimizer}", "model=wrn_16_4", f"protocol={protocol}", "dataset=cifar100", "seed=3", "epochs=17"]
        ((_, theirs),) = planned([*arguments, "precision=tf32"])
        assert identity.identity(ours) == identity.identity(theirs)
        assert ours.protocol == theirs.protocol and identity.run_name(ours) == identity.run_name(theirs)


def test_epochs_that_fit_by_hand() -> None:
    """10 steps an epoch; 1 s a pass; 2 s to evaluate: SGD and Rand-SAM 12, SAM 22, XSAM 22 + 21 forwards of 1/3 s = 29; together 75 s."""
    times = timing.Timing("fp32", first=1.0, further=1.0, image=0.1, steps=10, test=20)
    table = [compose(Planned("cifar10", optimizer, 0), "wrn_28_10", "tiwary2024", {}) for optimizer in TABLE3]
    assert [times.epoch(config) for config in table] == pytest.approx([12, 12, 22, 29])
    assert timing.epochs_that_fit(times, table, 15 * 75 + 0.01) == 15
    assert timing.epochs_that_fit(times, table, 15 * 75 - 0.01) == 14
    assert timing.epochs_that_fit(times, table, -5) == 0


def test_rand_sam_in_bf16_says_that_it_is_not_interpretable() -> None:
    for optimizer, precision, expected in (("rand_sam", "bf16", 1), ("sam", "bf16", 0), ("rand_sam", "fp32", 0), ("rand_sam", "tf32", 1)):
        config = compose(Planned("cifar10", optimizer, 0), "wrn_28_10", "tiwary2024", {}, precision=precision)
        assert len(rows._notes(config)) == expected
    config = compose(Planned("cifar10", "rand_sam", 0), "wrn_28_10", "tiwary2024", {}, precision="bf16")
    assert "not interpretable" in rows._notes(config)[0]


def test_the_deadline_ends_measuring_unless_it_is_all_that_a_call_does(tmp_path: Path) -> None:
    clock = CallClock(time.monotonic(), 0.0, tmp_path / "log.txt")
    clock.begin("a", 10, 1.0, training=False, guaranteed=False)
    with pytest.raises(TimeUp):
        clock.advance(1)
    clock.begin("a", 10, 1.0, training=False, guaranteed=True)
    clock.advance(1)
    clock.signum = signal.SIGTERM
    with pytest.raises(TimeUp):
        clock.advance(1)


@pytest.mark.parametrize(("body", "status"), [("assert True", "passed"), ("assert False", "failed"), ("pytest.skip('no GPU')", "passed")])
def test_the_outcome_of_the_gpu_tests(body: str, status: str, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    asks = "cuda.is_" + "available"  # in two parts, so that this file is not taken for one that asks for a GPU
    (tests / "test_here.py").write_text(f"import pytest  # {asks}\n\n\ndef test_it():\n    {body}\n")
    (tests / "test_other.py").write_text("import a_module_that_is_not_here\n")
    clock = CallClock(time.monotonic(), 300.0, tmp_path / "log.txt")
    outcome = stages.run_tests(tmp_path, clock, tests)
    assert outcome["status"] == status and outcome["files"] == 1, (tmp_path / "tests.txt").read_text()


def test_a_benchmark_is_stopped_after_its_share_of_the_call(tmp_path: Path) -> None:
    slow = tmp_path / "benchmark.py"
    slow.write_text("import sys, time\nprint('begun', sys.argv[1:], flush=True)\ntime.sleep(60)\n")
    clock = CallClock(time.monotonic(), 4.5, tmp_path / "log.txt")
    outcome = stages.run_benchmark(tmp_path, clock, "cpu", slow)
    assert outcome["status"] == "stopped" and clock.left > 2
    assert "begun ['preset=cpu'" in (tmp_path / "log.txt").read_text()
    assert stages.run_benchmark(tmp_path, clock, "cpu", tmp_path / "nowhere.py")["status"] == "none"
