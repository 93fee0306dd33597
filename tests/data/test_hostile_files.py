"""Files and folders that cannot be what they are named as: one sentence before anything waits, is unpacked or is made."""

import io
import os
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import data
from data import DataError, describe, file_fingerprint, load, usable_folder
from sam.training.weights import CheckpointError, read


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """What opens a pipe would wait for ever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sock(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def circle(path: Path) -> None:
    path.symlink_to(path)


MAKE: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("x"),
    "below a file": lambda path: path.parent.mkdir() if not path.parent.exists() else None,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "circular link": circle,
    "pipe": os.mkfifo,
    "socket": sock,
}
PLACES = {"proc": "/proc/x/y", "sys": "/sys/x", "device": "/dev/null/x", "long name": "n" * 300, "long path": "d/" * 3000, "nul": "a\0b"}


@pytest.mark.parametrize("kind", [*MAKE, *PLACES])
def test_a_folder_that_cannot_be_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(PLACES.get(kind, "it"))
    if kind == "below a file":
        Path("file").write_text("x")
        path = Path("file/a/b")
    elif kind in MAKE:
        MAKE[kind](path)
    before = sorted(tmp_path.iterdir())
    for there in (path, path / "below", Path("missing") / path if kind.startswith("long") else path):
        with pytest.raises(DataError) as caught:
            usable_folder(there, "runs_dir")
        assert str(caught.value).startswith(f"runs_dir={there}: must be a folder to write to") and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_one_or_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, "", ".", "new", "new/deep/er", "link/new", "é ρ", "n" * 250):
        usable_folder(path, "out")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("kind", [*MAKE, *PLACES, "folder"])
def test_a_file_that_cannot_be_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "file":
        pytest.skip("is one")
    monkeypatch.chdir(tmp_path)
    path = Path(PLACES.get(kind, "it"))
    if kind == "folder":
        path.mkdir()
    elif kind == "below a file":
        Path("file").write_text("x")
        path = Path("file/a")
    elif kind in MAKE:
        MAKE[kind](path)
    for use in (lambda: file_fingerprint(path, "init_from"), lambda: describe(name="arrays", path=str(path)), lambda: read(path)):
        with pytest.raises((DataError, CheckpointError)) as caught:
            use()
        assert f"={path}: " in str(caught.value) and "\n" not in str(caught.value)


def arrays(n: int = 20) -> dict[str, np.ndarray]:
    images, labels = np.random.RandomState(0).randint(256, size=(n, 8, 8, 3)).astype(np.uint8), np.arange(n) % 3
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}


def header(shape: tuple[int, ...], kind: str, version: int = 1) -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


def packed(path: Path, change: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, values in arrays().items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            archive.writestr(f"{key}.npy", change.get(key, buffer.getvalue()))
        for key in change.keys() - arrays().keys():
            archive.writestr(f"{key}.npy", change[key])
    return str(path)


ZEROS = bytes(40_000_000)  # stands for 4 GB of them
BOMBS = {
    "labels that say more than there are": {"train_labels": header((10**12,), "<i8")},
    "labels that unpack to more than images": {"train_labels": header((5_000_000,), "<i8") + ZEROS},
    "labels of both": {"test_labels": header((5_000_000,), "<i8") + ZEROS},
    "images that say more than there are": {"train_images": header((10**9, 999, 999, 3), "|u1")},
    "negative": {"train_images": header((-1, 8, 8, 3), "|u1")},
    "shape of huge numbers": {"train_labels": header((10**40,), "<i8")},
    "type of huge items": {"train_labels": header((20,), "|V999999999")},
    "header without an end": {"train_labels": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + ZEROS},
    "header that nests": {"train_labels": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000},
    "header of no shape": {"train_labels": b"\x93NUMPY\x01\x00\x02\x00{}"},
    "no header": {"train_labels": b""},
    "exact that unpacks to more": {"train_exact": header((40_000_000,), "|b1") + ZEROS, "test_exact": header((20,), "|b1") + bytes(20)},
    "exact that says more": {"train_exact": header((10**12,), "|b1"), "test_exact": header((20,), "|b1") + bytes(20)},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_is_checked_by_its_headers_before_it_is_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.npz", BOMBS[name])
    taken: list[int] = []
    whole = np.lib.format.read_array
    monkeypatch.setattr("numpy.lib.format.read_array", lambda *a, **k: taken.append(1) or whole(*a, **k))
    with pytest.raises(DataError) as caught:
        load(name="arrays", path=path)
    assert f"dataset.path={path}: " in str(caught.value) and "\n" not in str(caught.value)
    assert len(taken) <= 2, "only what passed may have been unpacked: the labels"


def test_images_that_do_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.npz", {})
    assert describe(name="arrays", path=path).train_size == 20
    monkeypatch.setattr("data.host_memory", lambda: 5000)
    with pytest.raises(DataError, match=r"unpacks to 8,000 bytes; this machine has 5,000"):
        describe(name="arrays", path=path)
    monkeypatch.undo()
    assert data.host_memory() > 10**8


def test_a_checkpoint_that_unpacks_to_more_than_it_holds(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(10_000_000)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for member in plain.infolist():
            small.writestr(member.filename, plain.read(member))
    assert read(path)[""]["w"].numel() == 10_000_000 and (tmp_path / "small.pt").stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="unpacks to far more bytes than it has"):
        read(tmp_path / "small.pt")
