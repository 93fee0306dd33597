"""The record of a run on disk: whole or not at all, NaN included, damage ignored."""

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sam.core import files
from sam.core.files import DamagedError
from sam.runs import records
from sam.schema import from_dict, to_dict
from sam.settings import TrainConfig

(FIXTURE,) = (Path(__file__).parents[1] / "fixtures/runs/finished").glob("*/run.json")
RECORD = json.loads(FIXTURE.read_text()) | {
    "final": {"test_loss": float("nan"), "test_accuracy": 1.0, "train_loss": float("-inf"), "train_accuracy": 1.0, "perturbed_loss": None},
    "l": [0.1, None],
}


def test_a_record_comes_back_and_is_strict_json(tmp_path: Path) -> None:
    records.write_run(tmp_path / "new", RECORD)
    text = (tmp_path / "new" / "run.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)
    record = records.read_run(tmp_path / "new")
    assert record is not None
    assert (record["fingerprint"], record["status"], record["l"]) == (RECORD["fingerprint"], "finished", [0.1, None])
    assert math.isnan(files.number(record["final"]["test_loss"]) or 0)
    assert files.number(record["final"]["train_loss"]) == -math.inf


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 1e-300, 123456789.123456789, 5e-324]
    records.write_run(tmp_path, RECORD | {"values": values})
    assert (records.read_run(tmp_path) or {})["values"] == values


@pytest.mark.parametrize(
    ("field", "value"),
    [("1.5", 1.5), ("nan", math.nan), ("inf", math.inf), ("", None), (None, None), ("a", None), ("1;2", None), ([], None)],
)
def test_number(field: object, value: float | None) -> None:
    assert repr(files.number(field)) == repr(value)


@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(moment, fail)
        with pytest.raises(files.StorageError, match="No space left on device"):
            files.write_atomic(path, "new")
    assert path.read_text() == "old"
    files.write_atomic(path, b"newer")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["file"]


def damaged(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record with each of its values, at any depth, replaced by others of another type, or taken away."""
    for key, value in record.items():
        yield {k: v for k, v in record.items() if k != key}
        for other in (None, [], {}, "text", True, -1.5, [None], {"a": None}):
            if type(other) is not type(value):
                yield record | {key: other}
        if isinstance(value, dict):
            yield from (record | {key: inner} for inner in damaged(value))


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoint.pt", "checkpoint.epoch0001.pt", "checkpoint.previous.pt", "sharpness.json"])
def test_what_a_run_left_without_its_record_is_damaged(tmp_path: Path, name: str) -> None:
    records.write_run(tmp_path / "a", RECORD)
    (tmp_path / "b").mkdir()
    assert records.read_run(tmp_path / "b") is None
    (tmp_path / "b" / name).touch()
    with pytest.raises(DamagedError, match=rf"b/run\.json: is missing, though {name} is there"):
        list(records.find_runs(tmp_path))
    found: dict[Path, str] = {}
    assert [folder.name for folder, _ in records.find_runs(tmp_path, found)] == ["a"] and list(found) == [tmp_path / "b"]


CONTENTS = [
    "",
    "{",
    '{"fingerprint": "0123"',
    "[1, 2]",
    "null",
    '{"status": "finished"}',
    '"fingerprint"',
    "\x00\x01",
    "\xff\xfe",
    "[" * 10**5,
]


@pytest.mark.parametrize("content", [*CONTENTS, "1" * 5000, json.dumps(RECORD | {"name": "\ud800"})])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    for name in ("a", "b", "c"):
        records.write_run(tmp_path / name, RECORD)
    (tmp_path / "b" / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DamagedError, match=r"b/run\.json: (is damaged|cannot be used) \(") as error:
        records.read_run(tmp_path / "b")
    found: dict[Path, str] = {}
    assert [folder.name for folder, _ in records.find_runs(tmp_path, found)] == ["a", "c"]
    assert found == {tmp_path / "b": str(error.value)} and "\n" not in str(error.value)


def test_a_record_that_is_no_file_is_named(tmp_path: Path) -> None:
    """A folder; a pipe, which would never end; a link in a circle; and a link to nowhere."""
    for name, make in {"a": Path.mkdir, "b": os.mkfifo, "c": lambda path: path.symlink_to(path)}.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "run.json")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").symlink_to("nowhere")
    found: dict[Path, str] = {}
    assert not list(records.find_runs(tmp_path, found)) and [folder.name for folder in found] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("sealed", [True, False])
def test_no_changed_value_is_taken(tmp_path: Path, sealed: bool) -> None:
    """With the digest every change is seen; without one, of old, what is used is of its type: nothing is raised but DamagedError."""
    records.write_run(tmp_path, json.loads(FIXTURE.read_text()))
    whole = json.loads((tmp_path / "run.json").read_text())
    digest = whole.pop("digest")
    assert records.read_run(tmp_path) == whole
    taken = set()
    for record in damaged(whole):
        (tmp_path / "run.json").write_text(json.dumps(record | ({"digest": digest} if sealed else {})))
        try:
            found = records.read_run(tmp_path)
        except DamagedError:
            continue
        taken |= {key for key in whole if key not in record or record[key] != whole[key]}
        assert found is not None and all(type(found[key]) is type(whole[key]) for key in ("name", "data", "final", "segments", "epochs"))
    # Of old, what no result hangs on is not looked at, what a configuration lacks is filled in, and any number may be null.
    unused = "format numerics config environment error ended diverged_epoch seconds cost best final last5"
    assert taken == (set() if sealed else set(unused.split()))


def test_runs_are_found_at_any_depth_in_the_order_of_their_folders(tmp_path: Path) -> None:
    for name in ("z", "b/deeper/x", "a"):
        records.write_run(tmp_path / name, RECORD)
    assert [str(folder.relative_to(tmp_path)) for folder, _ in records.find_runs(tmp_path)] == ["a", "b/deeper/x", "z"]
    assert list(records.find_runs(tmp_path / "nowhere")) == []
    (tmp_path / "elsewhere").mkdir()
    for name, there in {"moved": "../z", "twice": "../b", "loop": "."}.items():
        (tmp_path / "elsewhere" / name).symlink_to(there)
    assert sorted(f.name for f, _ in records.find_runs(tmp_path / "elsewhere")) == ["moved", "x"]
    assert sorted(f.name for f, _ in records.find_runs(tmp_path)) == ["a", "x", "z"]  # each once
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (tmp_path / "empty" / "deep" / "linked").symlink_to(tmp_path / "z")
    assert [f.name for f, _ in records.find_runs(tmp_path / "empty")] == ["linked"]
    assert records.read_run(tmp_path) is None


@pytest.mark.parametrize(("status", "done"), [("finished", True), ("diverged", True), ("running", False), (None, False)])
def test_done(status: str | None, done: bool) -> None:
    assert records.is_done({"status": status}) == done
    assert not records.is_done(None)


def test_metrics_round_trip(tmp_path: Path) -> None:
    rows = [
        {"epoch": 1, "train_loss": 1 / 3, "alpha": None, "probe_losses": [0.1, 0.25], "psi": 1e-17},
        {"epoch": 2, "train_loss": float("nan"), "alpha": 0.7, "probe_losses": [], "psi": float("inf"), "val_loss": 2.5},
    ]
    records.write_metrics(tmp_path, rows)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,alpha,probe_losses,psi,val_loss"
    assert lines[1].split(",")[3] == "0.1;0.25"
    back = records.read_metrics(tmp_path)
    assert repr(back) == repr(
        [
            {"epoch": 1.0, "train_loss": 1 / 3, "psi": 1e-17},
            {"epoch": 2.0, "train_loss": math.nan, "alpha": 0.7, "psi": math.inf, "val_loss": 2.5},
        ]
    )
    assert records.read_metrics(tmp_path / "nowhere") == []


METRICS = "epoch,train_loss,probe_losses\n1,0.5,0.1;0.2\n2,0.25,0.1;0.2\n"


BROKEN = [
    (".25", "text"),
    ("0.1;", "text;"),
    ("\n2", "\n3"),
    ("epoch,", ""),
    ("0.5", '"0.5'),
    ("0.5", "null"),
    ("5,0", "\xff"),
    ("2\n", "2\n\n"),
]


@pytest.mark.parametrize("content", ["", "\x00", METRICS[:-9], *(METRICS.replace(*pair) for pair in BROKEN)])
def test_damaged_metrics_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert len(records.read_metrics(tmp_path)) == 2
    (tmp_path / "metrics.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DamagedError, match=r"metrics\.csv: cannot be used \("):
        records.read_metrics(tmp_path)


def test_metrics_are_those_that_the_record_names(tmp_path: Path) -> None:
    record = {
        "status": "finished",
        "epochs": 2,
        "metrics_sha256": records.write_metrics(tmp_path, [{"epoch": 1}, {"epoch": 2}]),
        "final": {},
    }
    assert len(records.read_metrics(tmp_path, record)) == 2
    for change in ({"epochs": 3}, {"metrics_sha256": "0" * 64}):
        with pytest.raises(DamagedError):
            records.read_metrics(tmp_path, record | change)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(DamagedError):
        records.read_metrics(tmp_path, record)


@pytest.mark.parametrize(
    ("name", "value"), [("train_loss", None), ("train_loss", 0.3), ("test_loss", 0.0), ("test_loss", "nan"), ("x", 1.0)]
)
def test_without_any_digest_a_record_is_held_against_its_metrics(tmp_path: Path, name: str, value: float | str | None) -> None:
    """train_loss NaN, as of a run that diverged; no test_loss, as of one that never saw the test set."""
    records.write_metrics(tmp_path, [{"epoch": 1, "train_loss": 0.1}, {"epoch": 2, "train_loss": math.nan, "test_loss": None}])
    record = {"status": "diverged", "epochs": 2, "final": {"train_loss": "nan", "test_loss": None}}
    assert len(records.read_metrics(tmp_path, record)) == 2
    with pytest.raises(DamagedError, match=f"its last {name} is"):
        records.read_metrics(tmp_path, record | {"final": record["final"] | {name: value}})


def test_a_configuration_comes_back_from_a_record(tmp_path: Path) -> None:
    config = from_dict(TrainConfig, {"optimizer": {"method": "xsam", "alpha_grid": [0, 1]}, "dataset": {"name": "digits"}, "epochs": 3})
    records.write_run(tmp_path, RECORD | {"config": to_dict(config)})
    assert records.run_config(records.read_run(tmp_path) or {}) == config


def test_a_record_of_a_newer_version_is_not_to_be_replaced(tmp_path: Path) -> None:
    record = json.loads(FIXTURE.read_text())
    record.pop("digest", None)
    records.write_run(tmp_path, record | {"config": record["config"] | {"a_later_key": 1}})
    with pytest.raises(files.UnreadableError, match=r"run\.json: cannot be used here \(a_later_key: unknown key"):
        records.read_run(tmp_path)
