"""Data sets recognised by their bytes: what they are called, and that the table is right about the real files."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from data import DataError, describe, known, load
from data.downsample import downsample
from data.known import BY_FINGERPRINT, Known
from data.sources import arrays, fingerprint
from sam.runs import progress
from sam.runs.run import run
from sam.schema import from_dict
from sam.settings import TrainConfig

# Beside the fingerprints, the SHA-256 of the files that scripts/prepare_data.py makes: they are in the identities of runs.
FILES = {
    "cifar10": ("b15454854329bdde", "39e78bf63e0eda1ac85ac4360becb53e412eab5da7202ac71c5a37e223720d22", "f5b199186481bfec"),
    "cifar100": ("6d8a56e1b296ea82", "3d111fc3a9ef027f081d87be475873c84431010ed8b64ea28f234426880da3e6", "28a9e4d39cb9f275"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_real_files(name: str, tmp_path: Path) -> None:
    folder = os.environ.get("SAM_CIFAR_NPZ")
    if folder is None:
        pytest.skip("SAM_CIFAR_NPZ names no folder with cifar10.npz and cifar100.npz")
    whole, file, small = FILES[name]
    assert fingerprint(arrays(name, f"{folder}/{name}.npz")) == whole
    out = tmp_path / "small.npz"
    downsample(f"{folder}/{name}.npz", 16, str(out))
    assert hashlib.sha256(out.read_bytes()).hexdigest() == file
    data = load(name="arrays", path=str(out))
    assert (data.fingerprint, data.notes) == (small, (BY_FINGERPRINT[small].note,))


def test_what_is_downsampled_says_so() -> None:
    assert {key for whole, _, small in FILES.values() for key in (whole, small)} == set(BY_FINGERPRINT)
    for whole, _, small in FILES.values():
        assert " at 16 x 16 (2 x 2 means)" in BY_FINGERPRINT[small].name and "16" not in BY_FINGERPRINT[whole].name
    assert all(entry.note.startswith(entry.name) for entry in BY_FINGERPRINT.values())
    for entry in BY_FINGERPRINT.values():
        decoded = entry.note.startswith("CIFAR-10") and not entry.note.startswith("CIFAR-100")
        assert entry.note.endswith("90 of 60,000 images JPEG-decoded" if decoded else "every image exact")


@pytest.mark.parametrize(
    ("dataset", "path", "fingerprint", "genuine"),
    [
        ("cifar10", None, "0" * 16, True),  # by torchvision, which checks MD5 sums
        ("cifar10", "a.npz", "b15454854329bdde", True),
        ("cifar100", "a.npz", "6d8a56e1b296ea82", True),
        ("cifar10", "a.npz", "", True),  # an old record
        ("cifar10", "a.npz", "0" * 16, False),
        ("cifar10", "a.npz", "6d8a56e1b296ea82", False),  # the other one
        ("cifar100", "a.npz", "b15454854329bdde", False),
        ("cifar10", None, "6d8a56e1b296ea82", False),
        ("cifar10", "a.npz", "f5b199186481bfec", False),  # at 16 x 16
        ("arrays", "a.npz", "0" * 16, True),  # promises nothing
        ("digits", None, "b17d6df724a37303", True),
    ],
)
def test_what_a_data_set_is_called_needs_its_bytes(dataset: str, path: str | None, fingerprint: str, genuine: bool) -> None:
    assert known.is_genuine(dataset, path, fingerprint) is genuine


def small_file(path: Path, size: int = 16) -> str:
    draw = np.random.RandomState(0)
    parts = {f"{split}_labels": np.arange(n) % 10 for split, n in (("train", 60), ("test", 20))}
    parts |= {f"{split}_images": draw.randint(256, size=(n, size, size, 3)).astype(np.uint8) for split, n in (("train", 60), ("test", 20))}
    np.savez(path, **parts)
    return str(path)


def test_a_downsampled_file_is_not_read_as_cifar(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a.npz")
    for name in ("cifar10", "cifar100"):
        with pytest.raises(DataError, match=re.escape(f"images of dataset={name} are 32x32x3, not 16x16x3; use dataset=arrays.")):
            describe(name=name, path=path)


def test_a_recognised_set_is_named_by_its_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path / "a.npz")
    plain = load(name="arrays", path=path)
    assert plain.notes == ()
    monkeypatch.setitem(BY_FINGERPRINT, plain.fingerprint, Known("little", "little, of 80 images"))
    again = small_file(tmp_path / "again.npz")
    assert load(name="arrays", path=again, train_size=30, label_noise=0.5).notes == ("little, of 80 images",)
    assert load(name="arrays", path=small_file(tmp_path / "b.npz", 8)).notes == ()
    assert known.notes("unknown", ["own"]) == ("own",)


def test_a_run_says_once_what_it_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    path = small_file(tmp_path / "a.npz")
    monkeypatch.setitem(BY_FINGERPRINT, load(name="arrays", path=path).fingerprint, Known("little", "little, of 80 images"))

    def trained(seed: int) -> str:
        config = {"dataset": {"name": "arrays", "path": path}, "model": {"depth": 10, "width": 1}, "optimizer": {"method": "sgd"}}
        more = {"epochs": 1, "batch_size": 60, "seed": seed, "device": "cpu", "threads": 1, "runs_dir": str(tmp_path / "runs")}
        record = run(from_dict(TrainConfig, config | more))
        assert record["data"]["notes"] == ["little, of 80 images"]
        return capsys.readouterr().err

    assert trained(0).count("data: little, of 80 images.\n") == 1
    progress.share(progress.Progress(1, "sweep"))
    try:
        assert (trained(1) + trained(2)).count("data: little, of 80 images.\n") == 1
    finally:
        progress.share(None)


def test_other_images_are_not_called_cifar(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a.npz", 32)
    (note,) = load(name="cifar10", path=path).notes
    assert note == "images of a.npz, not known by their fingerprint as dataset=cifar10"
    assert load(name="arrays", path=path).notes == ()
