"""Checkpoint files: whole, safe to load, and named when they are not."""

import errno
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from sam.core.files import StorageError
from sam.runs import checkpoint
from sam.runs.checkpoint import ForeignError
from sam.training.weights import CheckpointError, load_weights

STATE = {
    "model": {"w": torch.arange(6.0).reshape(2, 3)},
    "rows": [{"epoch": 1, "alpha": None, "probe_losses": [0.5, float("nan")]}],
    "seconds": 1.5,
}


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new", STATE)
    loaded = checkpoint.load(tmp_path / "new")
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])  # type: ignore[index]
    assert repr(loaded["rows"]) == repr(STATE["rows"]) and loaded["seconds"] == 1.5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoint.pt"]  # no temporary file is left


def test_what_is_kept_of_earlier_epochs(tmp_path: Path) -> None:
    """By number, not by name; nothing else in the folder is taken for one; read with the checks of any checkpoint."""
    assert checkpoint.kept(tmp_path / "none") == {}
    for epoch in (10_000, 9999, 5):
        checkpoint.save(tmp_path, STATE | {"epoch": epoch}, epoch)
    checkpoint.save(tmp_path, STATE)
    for other in ("checkpoint.epoch0007.pt.tmp", "checkpoint.epoch7.pt", "checkpoint.epochlast.pt", "my.checkpoint.epoch0007.pt"):
        (tmp_path / other).touch()
    names = {5: "checkpoint.epoch0005.pt", 9999: "checkpoint.epoch9999.pt", 10_000: "checkpoint.epoch10000.pt"}
    assert list(checkpoint.kept(tmp_path).items()) == [(epoch, tmp_path / name) for epoch, name in names.items()]
    assert checkpoint.load(tmp_path, name=names[5])["epoch"] == 5
    (tmp_path / names[5]).write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"checkpoint\.epoch0005\.pt: the checkpoint is damaged"):
        checkpoint.load(tmp_path, name=names[5])


def test_saving_returns_the_hash_of_the_file(tmp_path: Path) -> None:
    digest = checkpoint.save(tmp_path, STATE)
    assert digest == hashlib.sha256((tmp_path / "checkpoint.pt").read_bytes()).hexdigest()


def test_a_whole_checkpoint_of_another_moment_is_not_the_one_that_the_record_names(tmp_path: Path) -> None:
    record = {"fingerprint": "own", "checkpoint_sha256": checkpoint.save(tmp_path, STATE | {"fingerprint": "own"})}
    assert checkpoint.load(tmp_path, record=record)["seconds"] == 1.5
    checkpoint.save(tmp_path, STATE | {"fingerprint": "own", "seconds": 0.5})
    with pytest.raises(CheckpointError, match=r"its SHA-256 is not that of run\.json"):
        checkpoint.load(tmp_path, record=record)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, STATE)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space"):
        checkpoint.save(tmp_path, {"model": {}})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_named(tmp_path: Path, size: float) -> None:
    checkpoint.save(tmp_path, STATE)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(size * len(whole))] if isinstance(size, float) else whole[:size])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: the checkpoint is damaged or truncated") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"not a checkpoint\n" * 50, bytes(range(256)) * 10, b"\x80\x02."])
def test_garbage_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        checkpoint.load(tmp_path)


def test_a_missing_file_and_a_foreign_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path)
    for foreign in ({"state_dict": {}}, [1, 2], {"format": 99}):
        torch.save(foreign, tmp_path / "checkpoint.pt")
        with pytest.raises(ForeignError, match="not a checkpoint of this project"):  # whole, and not to be written over
            checkpoint.load(tmp_path)


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": 1, "model": Payload()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("other", [nn.Linear(3, 2), nn.Linear(4, 2, bias=False), nn.Sequential(nn.Linear(3, 2, bias=False))])
def test_weights_that_do_not_fit_are_refused_in_one_sentence(other: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=r"x/checkpoint\.pt: the checkpoint does not fit") as error:
        load_weights(other, nn.Linear(3, 2, bias=False).state_dict(), Path("x/checkpoint.pt"))
    assert "\n" not in str(error.value)
