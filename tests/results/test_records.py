"""The record of a run on disk: whole or not at all, NaN included, damage ignored."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from sam.config import TrainConfig, from_dict, to_dict
from sam.results import records

RECORD = {
    "fingerprint": "0123456789abcdef",
    "status": "finished",
    "final": {"test_loss": float("nan"), "train_loss": float("-inf")},
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
    assert math.isnan(records.number(record["final"]["test_loss"]) or 0)
    assert records.number(record["final"]["train_loss"]) == -math.inf


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 1e-300, 123456789.123456789, 5e-324]
    records.write_run(tmp_path, {"fingerprint": "x", "values": values})
    assert (records.read_run(tmp_path) or {})["values"] == values


@pytest.mark.parametrize(
    ("field", "value"),
    [("1.5", 1.5), ("nan", math.nan), ("inf", math.inf), ("", None), (None, None), ("a", None), ("1;2", None), ([], None)],
)
def test_number(field: object, value: float | None) -> None:
    assert repr(records.number(field)) == repr(value)


@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "file"
    records.write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(moment, fail)
        with pytest.raises(records.StorageError, match="No space left on device"):
            records.write_atomic(path, "new")
    assert path.read_text() == "old"
    records.write_atomic(path, b"newer")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "content", ["", "{", '{"fingerprint": "0123"', "[1, 2]", "null", '{"status": "finished"}', '"fingerprint"', "\x00\x01", "\xff\xfe"]
)
def test_a_damaged_record_is_no_record(tmp_path: Path, content: str) -> None:
    for name in ("a", "b", "c"):
        records.write_run(tmp_path / name, RECORD)
    (tmp_path / "b" / "run.json").write_bytes(content.encode("latin-1"))
    assert records.read_run(tmp_path / "b") is None
    assert [folder.name for folder, _ in records.find_runs(tmp_path)] == ["a", "c"]


def test_runs_are_found_at_any_depth_in_the_order_of_their_folders(tmp_path: Path) -> None:
    for name in ("z", "b/deeper/x", "a"):
        records.write_run(tmp_path / name, RECORD)
    assert [str(folder.relative_to(tmp_path)) for folder, _ in records.find_runs(tmp_path)] == ["a", "b/deeper/x", "z"]
    assert list(records.find_runs(tmp_path / "nowhere")) == []
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


def test_a_configuration_comes_back_from_a_record(tmp_path: Path) -> None:
    config = from_dict(TrainConfig, {"optimizer": {"method": "xsam", "alpha_grid": [0, 1]}, "dataset": {"name": "digits"}, "epochs": 3})
    records.write_run(tmp_path, RECORD | {"config": to_dict(config)})
    assert records.run_config(records.read_run(tmp_path) or {}) == config
