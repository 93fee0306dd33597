"""Fashion-MNIST from made-up files of torchvision's layout, without a network."""

import gzip
import hashlib
import struct
from pathlib import Path

import fashion_mnist
import numpy as np
import pytest

import data


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 and 10 made-up images, packed as they are downloaded, and their MD5 sums."""
    from data import torchvision_guard

    torchvision_guard.ensure()
    from torchvision.datasets import FashionMNIST

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    folder, draw, sums = tmp_path / "FashionMNIST" / "raw", np.random.RandomState(0), []
    folder.mkdir(parents=True)
    for name, _ in FashionMNIST.resources:
        count, pictures = 30 if "train" in name else 10, "images" in name
        shape = (count, 28, 28) if pictures else (count,)
        values = draw.randint(0, 256 if pictures else 10, shape).astype(np.uint8)
        content = gzip.compress(struct.pack(f">BBBB{len(shape)}i", 0, 0, 8, len(shape), *shape) + values.tobytes())
        (folder / name).write_bytes(content)
        sums.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    return tmp_path


def test_files_are_checked_and_read(root: Path) -> None:
    raw = fashion_mnist.read("fashion_mnist", str(root), download=True)  # they lie there: unpacked, not downloaded
    assert raw.train_images.shape == (30, 28, 28, 1) and raw.test_images.shape == (10, 28, 28, 1)
    assert raw.train_labels.dtype == np.int64 and raw.classes == 10 and raw.mean[0] == pytest.approx(raw.train_images.mean() / 255)
    again = fashion_mnist.read("fashion_mnist", str(root), download=False)
    assert np.array_equal(raw.train_images, again.train_images)


@pytest.mark.parametrize("download", [True, False])
def test_damaged_or_missing_files_are_a_sentence(root: Path, download: bool) -> None:
    damaged = next((root / "FashionMNIST" / "raw").glob("train-images*"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(data.DataError, match=rf"^dataset=fashion_mnist: cannot be read below .*{str(download).lower()}\)\.$"):
        data.load(name="fashion_mnist", root=str(root), download=download)


def test_its_description() -> None:
    assert (data.describe(name="fashion_mnist").train_size, data.describe(name="fashion_mnist").image_size) == (60_000, 28)
