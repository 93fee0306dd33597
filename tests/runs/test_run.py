"""A run from its configuration to its record: continue, skip, redo, refuse, diverge, count."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import data
from sam.config import ConfigError
from sam.core.device import number_format
from sam.runs import checkpoint, identity, lock, records, sweep
from sam.runs.progress import Progress
from sam.runs.run import run
from sam.settings import TrainConfig
from sam.training import cost
from sam.training.loop import Trainer
from sam.training.rows import summary

Tiny = Callable[..., TrainConfig]
TIMES = ("train_seconds", "seconds")


class Stop(Exception):
    pass


def saved(config: TrainConfig) -> dict[str, Any]:
    return torch.load(identity.run_folder(config) / "checkpoint.pt", weights_only=True)


def columns(config: TrainConfig) -> list[dict[str, str]]:
    """metrics.csv as text, without the times."""
    with (identity.run_folder(config) / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def same(a: Any, b: Any) -> bool:
    """Bitwise, but for times; NaN equals NaN."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key not in TIMES)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """The epoch is trained, but lost: writing its metrics raises."""
    write = records.write_metrics

    def failing(folder: Path, rows: list[Any]) -> None:
        if len(rows) == epoch:
            raise Stop
        write(folder, rows)

    monkeypatch.setattr(records, "write_metrics", failing)


# ----------------------------------------------------------------------------------------------------------- continuing


@pytest.mark.contract
def test_continuing_is_bitwise_the_uninterrupted_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]) -> None:
    whole = tiny(optimizer=method, epochs=3, model={"dropout": 0.2}, runs="whole")
    pieces = tiny(optimizer=method, epochs=3, model={"dropout": 0.2}, runs="pieces")
    expected = run(whole)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        with pytest.raises(Stop):
            run(pieces)
    record = records.read_run(identity.run_folder(pieces))
    assert record is not None and record["status"] == "failed"
    assert len(saved(pieces)["rows"]) == len(columns(pieces)) == 1
    again = run(pieces)
    assert same(saved(whole), saved(pieces))
    assert columns(whole) == columns(pieces) and len(columns(pieces)) == 3
    assert again["cost"] == expected["cost"] and again["final"] == expected["final"] and again["best"] == expected["best"]


def test_continuing_after_a_stop_within_an_epoch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"optimizer": {"method": "rand_sam"}, "epochs": 3, "checkpoint_interval": 2}
    whole, pieces = (tiny(runs=name, **options) for name in ("whole", "pieces"))
    run(whole)
    advance, calls = Progress.advance, []

    def failing(self: Progress, units: float) -> None:
        calls.append(units)
        if len(calls) == 8:  # the second step of the third epoch
            raise KeyboardInterrupt
        advance(self, units)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", failing)
        with pytest.raises(KeyboardInterrupt):
            run(pieces)
    assert len(saved(pieces)["rows"]) == 2
    capsys.readouterr()
    run(pieces)
    assert "continuing after epoch 2" in capsys.readouterr().err
    assert same(saved(whole), saved(pieces)) and columns(whole) == columns(pieces)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_checkpoint_starts_the_run_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keep: float
) -> None:
    whole, pieces = tiny(runs="whole"), tiny(runs="pieces")
    run(whole)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        with pytest.raises(Stop):
            run(pieces)
    path = identity.run_folder(pieces) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    capsys.readouterr()
    run(pieces)
    message = capsys.readouterr().err
    assert "warning" in message and str(path) in message and "from the beginning" in message
    assert same(saved(whole), saved(pieces)) and columns(whole) == columns(pieces)


def test_a_finished_run_is_skipped_and_force_redoes_it(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tiny())
    folder = identity.run_folder(tiny())
    stamp = (folder / "metrics.csv").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tiny())["final"] == first["final"]
    assert "finished already" in capsys.readouterr().err
    assert (folder / "metrics.csv").stat().st_mtime_ns == stamp
    again = run(tiny(force=True))
    assert (folder / "metrics.csv").stat().st_mtime_ns > stamp
    assert (again["final"], again["cost"]) == (first["final"], first["cost"])


def test_force_that_is_interrupted_does_not_fall_back_on_the_old_checkpoint(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny())
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 1)
        with pytest.raises(Stop):
            run(tiny(force=True))
    steps: list[float] = []
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda self, units: (steps.append(units), advance(self, units))[1])
    assert run(tiny())["status"] == "finished"
    assert steps == [2.0] * 6  # trained anew: 3 steps in each of 2 epochs


@pytest.mark.parametrize(
    ("begun", "change", "trained"),
    [
        ({"force": True}, {}, 1),
        ({"force": True}, {"status": "running"}, 1),  # killed: nobody said goodbye
        ({"force": True}, {"status": "preempted"}, 1),
        ({}, {}, 3),
        ({"force": True}, {"config": {"replicas": 2}}, 3),  # which this process could not continue
    ],
)
def test_force_continues_what_it_has_begun(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, begun: dict[str, Any], change: dict[str, Any], trained: int
) -> None:
    """And no other unfinished run; a finished one is redone. The plan says the same."""
    config, whole = tiny(epochs=3, force=True), tiny(epochs=3, runs="whole")
    folder = identity.run_folder(config)
    run(whole)
    if begun:
        run(config)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3)
        with pytest.raises(Stop):
            run(tiny(epochs=3, **begun))
    record = records.read_run(folder)
    assert record is not None
    records.write_run(folder, record | change | {"config": record["config"] | change.get("config", {})})
    assert sweep._status(config, folder) == ("to continue" if trained == 1 else "to run") and sweep.unfinished([config]) == [0]
    steps: list[float] = []
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda self, units: (steps.append(units), advance(self, units))[1])
    for epochs in (trained, 3):
        steps.clear()
        assert len(run(config)["segments"]) == 1 + (epochs == 1) and len(steps) == 3 * epochs
        assert same(saved(whole), saved(config)) and columns(whole) == columns(config)
        assert sweep._status(config, folder) == "to run"


def test_a_folder_that_holds_another_run_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    first = run(tiny(run_dir=str(tmp_path / "mine")))
    with pytest.raises(ConfigError, match="this folder holds another run") as error:
        run(tiny(run_dir=str(tmp_path / "mine"), seed=1, force=True))
    assert first["name"] in str(error.value)
    assert run(tiny(run_dir=str(tmp_path / "mine")))["final"] == first["final"]


def of_a_plug_in(path: Path) -> None:
    record = json.loads(path.read_text())
    own = record["identity"] = record["identity"] | {"plugins": {"not_loaded": "1"}}
    record |= {"fingerprint": identity.fingerprint(own), "setting": identity.fingerprint({k: own[k] for k in own if k != "seed"})}
    records.write_run(path.parent, {key: value for key, value in record.items() if key != "digest"})


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("hide", "says"),
    [(of_a_plug_in, "which is not loaded; name it: plugins=not_loaded."), (lambda path: (path.unlink(), path.mkdir()), "is not a file.")],
)
def test_what_may_be_a_whole_run_is_refused(tiny: Tiny, tmp_path: Path, hide: Callable[[Path], object], says: str, force: bool) -> None:
    """Nobody can tell whose it is: `force` does not replace it, and is not advised."""
    run(tiny(run_dir=str(tmp_path / "mine")))
    hide(tmp_path / "mine" / "run.json")
    before = {path.name: path.is_file() and path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(ConfigError) as error:
        run(tiny(run_dir=str(tmp_path / "mine"), seed=1, force=force))
    assert str(error.value).endswith(says) and "force" not in str(error.value)
    assert {path.name: path.is_file() and path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


# ------------------------------------------------------------------------------------------------------------- diverging


@pytest.mark.parametrize("name", ["sgd", "sam", "rand_sam", "xsam"])
def test_a_diverged_run_says_when(tiny: Tiny, name: str) -> None:
    config = tiny(optimizer={"method": name, "lr": 1e12}, epochs=4)
    record = run(config)
    assert record["status"] == "diverged"
    epoch = record["diverged_epoch"]
    assert epoch == record["epochs"] < 4
    text = (identity.run_folder(config) / "run.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    stored = json.loads(text, parse_constant=refuse)  # strict JSON: no bare NaN
    assert stored["status"] == "diverged" and stored["diverged_epoch"] == epoch
    rows = records.read_metrics(identity.run_folder(config))
    assert [math.isfinite(row["train_loss"]) for row in rows] == [True] * (epoch - 1) + [False]
    assert run(config)["diverged_epoch"] == epoch  # done: it is not tried again


def test_weights_that_become_infinite_in_the_last_step_are_no_finished_run(tiny: Tiny) -> None:
    """One step an epoch: the loss as met is finite, and the weights that it leaves are not."""
    config = tiny(batch_size=96, epochs=1, optimizer={"method": "sgd", "lr": 1e38, "weight_decay": 1e3})
    record = run(config)
    assert not math.isfinite(record["final"]["test_loss"])
    assert record["status"] == "diverged" and record["diverged_epoch"] == 1


# ------------------------------------------------------------------------------------------------------------- counting

COSTS = {  # (optimizer, other keys) -> forwards and backwards of 2 epochs of 3 steps
    "sgd": ({"method": "sgd"}, {}, 6, 6),
    "rand_sam": ({"method": "rand_sam"}, {}, 6, 6),
    "sam": ({"method": "sam"}, {}, 12, 12),
    "sam_n5": ({"method": "sam", "ascent_steps": 5}, {}, 36, 36),
    "sam in groups of 16": ({"method": "sam"}, {"m": 16}, 12, 12),
    "sam, whole batches only": ({"method": "sam"}, {"drop_last": True}, 8, 8),
    "xsam: a search an epoch": ({"method": "xsam"}, {}, 12 + 2 * 21, 12),
    "xsam: one in 2 of 3 steps": ({"method": "xsam", "alpha_refresh": 0.5}, {}, 12 + 3 * 21, 12),
    "xsam: each step": ({"method": "xsam", "alpha_refresh": 0.01, "alpha_grid": [0.0, 1.0]}, {}, 12 + 6 * 2, 12),
    "xsam: one search in all": ({"method": "xsam", "alpha_refresh": 9.0, "ascent_steps": 2}, {}, 18 + 21, 18),
    "xsam: in groups of 16": ({"method": "xsam"}, {"m": 16}, 12 + 2 * 21, 12),
    "xsam: constant": ({"method": "xsam", "alpha": 0.5}, {}, 12, 12),
    "late: the second epoch": ({"method": "late_sam", "start": 0.5}, {}, 9, 9),
}


@pytest.mark.parametrize("case", COSTS)
def test_passes_are_as_predicted(tiny: Tiny, case: str) -> None:
    optimizer, other, forwards, backwards = COSTS[case]
    config = tiny(optimizer=optimizer, **other)
    expected = cost.cost(config, cost.check(config))
    assert (expected.forwards, expected.backwards) == (forwards, backwards)
    record = run(config)
    assert record["cost"] == {"forwards": forwards, "backwards": backwards, "skipped": 0}
    last = columns(config)[-1]
    assert (last["forwards"], last["backwards"]) == (str(forwards), str(backwards))


def test_xsams_search_is_in_the_metrics(tiny: Tiny) -> None:
    config = tiny(optimizer={"method": "xsam", "alpha_grid": [0.0, 0.5, 1.0, 1.5]})
    run(config)
    for row in columns(config):
        probes = [float(value) for value in row["probe_losses"].split(";")]
        assert len(probes) == 4 and all(map(math.isfinite, probes))
        assert float(row["alpha"]) == [0.0, 0.5, 1.0, 1.5][probes.index(max(probes))]
    numbers = records.read_metrics(identity.run_folder(config))[0]
    assert 0 < numbers["psi"] < math.pi and "probe_losses" not in numbers


# -------------------------------------------------------------------------------------------------------------- summaries


def row(epoch: int, test: float, val: float | None = None) -> dict[str, Any]:
    base = {
        "epoch": epoch,
        "test_accuracy": test,
        "test_loss": test / 100,
        "train_loss": 0.5,
        "train_accuracy": 60.0,
        "perturbed_loss": 0.7,
    }
    return base if val is None else base | {"val_accuracy": val, "val_loss": val / 100}


def test_summary_by_hand() -> None:
    made = summary([row(i + 1, test) for i, test in enumerate([10.0, 80.0, 50.0, 60.0, 80.0, 70.0, 40.0])])
    assert made["final"] == {"test_loss": 0.4, "test_accuracy": 40.0, "train_loss": 0.5, "train_accuracy": 60.0, "perturbed_loss": 0.7}
    assert made["last5"] == pytest.approx({"test_loss": 0.6, "test_accuracy": 60.0})
    first = {"epoch": 2, "test_loss": 0.8, "test_accuracy": 80.0}  # of equals
    assert made["best"] == {"selected_on": "test", "interval": 1} | first
    short = summary([row(1, 20.0), row(2, 40.0)])
    assert short["last5"]["test_accuracy"] == 30.0


def test_the_best_epoch_is_selected_on_the_validation_set_if_there_is_one() -> None:
    made = summary([row(1, 90.0, 10.0), row(2, 20.0, 70.0), row(3, 50.0, 30.0)])
    assert made["best"] == {
        "selected_on": "val",
        "interval": 1,
        "epoch": 2,
        "test_loss": 0.2,
        "test_accuracy": 20.0,
        "val_loss": 0.7,
        "val_accuracy": 70.0,
    }


def test_a_validation_run(tiny: Tiny) -> None:
    config = tiny(dataset={"val_fraction": 0.25}, epochs=3)
    record = run(config)
    rows = records.read_metrics(identity.run_folder(config))
    best = max(rows, key=lambda r: r["val_accuracy"])
    assert record["best"]["selected_on"] == "val" and record["best"]["epoch"] == best["epoch"]
    assert record["best"]["test_accuracy"] == best["test_accuracy"]
    assert record["final"]["val_loss"] == rows[-1]["val_loss"]
    assert record["data"]["train_images"] == 72
    for kind in ("loss", "accuracy"):
        assert record["last5"][f"test_{kind}"] == pytest.approx(sum(r[f"test_{kind}"] for r in rows) / 3)


def test_each_seed_trains_on_its_own_images_and_validates_on_the_same(tiny: Tiny, trainer: Callable[[TrainConfig], Trainer]) -> None:
    """The whole run against a trainer that is given the images: in the tests of the data they are drawn by hand."""
    own = {"sample": "seed", "val_size": 50, "label_noise": 0.2, "mean": [0.3], "std": [0.4]}
    for seed in (0, 3):
        config = tiny(dataset=own, seed=seed, epochs=1)
        images = data.load(name="digits", train_size=96, **own, seed=seed)
        by_hand = trainer(config)
        by_hand.data = images
        with number_format("fp32", 1):
            expected = by_hand.run_epoch(lambda _: None)
        final = run(config)["final"]
        assert (final["train_loss"], final["val_loss"]) == (expected["train_loss"], expected["val_loss"])
    for method in ("sgd", "xsam"):
        made = trainer(tiny(optimizer={"method": method}, dataset=own, seed=3)).data
        assert torch.equal(made.train_images, images.train_images) and torch.equal(made.train_labels, images.train_labels)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\xff"), lambda path: path.write_text("{}")])
def test_what_training_knew_is_not_replaced(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]) -> None:
    """A folder with a checkpoint and no record that can be read is refused, in a sweep's plan "damaged", and redone with force=true."""
    config = tiny()
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        with pytest.raises(Stop):
            run(config)
    folder = identity.run_folder(config)
    damage(folder / "run.json")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"run\.json: .*; restore the file, or redo the run with force=true\.$"):
        run(config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sweep.unfinished([config]) == [0] and sweep._status(config, folder) == "damaged"
    assert run(tiny(force=True))["status"] == "finished"


def test_only_a_damaged_checkpoint_is_passed_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped bit of a weight: the checkpoint before it is continued from, which is said. One that cannot be read, or of another run,
    is left where it is."""
    expected = run(tiny(runs="whole", epochs=3))
    config = tiny(epochs=3)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3)
        with pytest.raises(Stop):
            run(config)
    path = identity.run_folder(config) / "checkpoint.pt"
    whole = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt: is not a file"):
        run(config)
    path.rmdir()
    torch.save(torch.load(io.BytesIO(whole), weights_only=True) | {"fingerprint": "other"}, path)
    with pytest.raises(checkpoint.CheckpointError, match="is of run other, not run"):
        run(config)
    at = whole.index(b"data/0") + 200
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    capsys.readouterr()
    assert run(config)["final"] == expected["final"]
    said = capsys.readouterr().err
    assert "checkpoint.pt: the checkpoint is damaged or truncated (the checksum of" in said and "continuing after epoch 1." in said


# ------------------------------------------------------------------------------------------------------------------ files


def test_the_record_and_the_checkpoint(tiny: Tiny) -> None:
    config = tiny()
    run(config)
    folder = identity.run_folder(config)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "metrics.csv", "run.json"]
    record = records.read_run(folder)
    assert record is not None
    assert (record["name"], record["status"], record["epochs"], record["diverged_epoch"]) == (folder.name, "finished", 2, None)
    assert records.run_config(record) == config
    assert record["fingerprint"] == identity.run_fingerprint(config) and record["setting"] == identity.setting(config)
    assert record["environment"]["versions"]["torch"] == torch.__version__
    assert record["checkpoint_sha256"] == hashlib.sha256((folder / "checkpoint.pt").read_bytes()).hexdigest()
    assert record["parameters"] == sum(value.numel() for name, value in saved(config)["model"].items() if not is_buffer(name))


def test_a_run_that_lost_its_lock_leaves_the_record_to_its_new_owner(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, advance = identity.run_folder(tiny()), Progress.advance

    def robbed(self: Progress, units: float) -> None:
        (folder / lock.LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs"}))
        advance(self, units)

    monkeypatch.setattr(Progress, "advance", robbed)
    with pytest.raises(lock.LockedError, match="the lock was lost to another process"):
        run(tiny())
    record = records.read_run(folder)
    assert record is not None and record["status"] == "running"
    assert sorted(path.name for path in folder.iterdir()) == ["lock.json", "run.json"]


def test_the_hash_is_that_of_the_file_whenever_the_run_was_stopped(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last checkpoint and its record, too; a diverged run has none."""
    config, write = tiny(), records.write_run

    def failing(folder: Path, record: dict[str, Any]) -> None:
        if record["status"] == "finished":
            raise Stop
        write(folder, record)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_run", failing)
        with pytest.raises(Stop):
            run(config)
    path = identity.run_folder(config) / "checkpoint.pt"
    stopped, before = records.read_run(path.parent), saved(config)
    assert len(before["rows"]) == 2 and stopped is not None and stopped["status"] == "failed"
    assert run(config)["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(saved(config), before)
    assert run(tiny(optimizer={"lr": 1e12}, epochs=4))["checkpoint_sha256"] is None


def is_buffer(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_checkpoints_come_at_their_interval_and_at_the_end(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sam.runs.checkpoint.save", lambda folder, state: seen.append(len(state["rows"])))
    run(tiny(epochs=5, checkpoint_interval=2))
    assert seen == [2, 4, 5]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_number_format_is_put_back(precision: str) -> None:
    def flags() -> tuple[bool, bool, bool, int]:
        return (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.deterministic,
            torch.get_num_threads(),
        )

    found = flags()
    try:
        for outside in ((False, True, False), (True, False, True)):
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = outside
            with pytest.raises(Stop), number_format(precision, 2):
                assert flags() == (precision == "tf32", precision == "tf32", True, 2)
                raise Stop
            assert flags() == (*outside, found[3])
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = found[:3]


def test_a_run_leaves_torchs_generator_alone(tiny: Tiny) -> None:
    before = torch.get_rng_state()
    run(tiny(model={"dropout": 0.3}, optimizer={"method": "rand_sam"}))
    assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------------- refused before anything is built or written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 97}, "batch_size=97: must not exceed the 96 training images"),
        ({"init_from": "nowhere.pt"}, "init_from=nowhere.pt: cannot be read (No such file or directory)."),
        ({"model": {"name": "vgg11_bn"}}, "vgg11_bn cannot take 8x8 images"),
        ({"augmentation": {"cutout": 16}}, "augmentation.cutout=16"),
        ({"augmentation": {"crop_padding": 8}}, "augmentation.crop_padding=8"),
        ({"dataset": {"train_size": 1001}}, "dataset.train_size=1001"),
        ({"dataset": {"val_size": 905}}, "dataset.train_size=96: must be between 1 and 95"),
        ({"dataset": {"std": [1.0, 1.0, 1.0]}}, "dataset.std=[1.0, 1.0, 1.0]: must hold one number for each of the 1 channels"),
        ({"init_from": "nowhere.pt"}, "init_from=nowhere.pt: cannot be read (No such file or directory)."),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.load", lambda **_: pytest.fail("the data were read"))
    with pytest.raises(ValueError) as error:
        run(tiny(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
