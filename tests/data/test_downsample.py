"""Block means against a loop over the pixels, and a file whose bytes never change."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import DataError, describe
from data.downsample import block_means, downsample

ROOT = Path(__file__).resolve().parents[2]


def arrays(n: int = 20, t: int = 12, size: int = 12, channels: int | None = 3) -> dict[str, np.ndarray]:
    """Images without a random generator, so that they are the same for good."""
    shape = (size, size) if channels is None else (size, size, channels)
    count = int(np.prod(shape))
    pixels = (np.arange((n + t) * count, dtype=np.int64) ** 2 % 65521 % 256).astype(np.uint8).reshape(n + t, *shape)
    labels = (np.arange(n + t) % 4).astype(np.uint8)
    return {"train_images": pixels[:n], "train_labels": labels[:n], "test_images": pixels[n:], "test_labels": labels[n:]}


def saved(path: Path, values: dict[str, np.ndarray], compressed: bool = False) -> str:
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return str(path)


@pytest.mark.parametrize(("pixels", "mean"), [([0, 0, 0, 1], 0), ([0, 0, 1, 1], 1), ([0, 1, 1, 1], 1), ([2, 3, 3, 2], 3), ([255] * 4, 255)])
def test_a_tie_is_rounded_up(pixels: list[int], mean: int) -> None:
    assert block_means(np.array(pixels, np.uint8).reshape(1, 2, 2, 1), 1).tolist() == [[[[mean]]]]


@pytest.mark.parametrize("size", [6, 4, 1])
def test_every_pixel_is_the_mean_of_its_block(size: int) -> None:
    images = arrays(n=1003)["train_images"]  # more than are done at a time
    small, side = block_means(images, size), 12 // size
    assert small.shape == (1003, size, size, 3) and small.dtype == np.uint8
    for i in (0, 1, 999, 1000, 1002):
        for row in range(size):
            for column in range(size):
                block = images[i, row * side : (row + 1) * side, column * side : (column + 1) * side].reshape(-1, 3)
                exact = [sum(map(int, channel)) / side**2 for channel in block.T]
                assert small[i, row, column].tolist() == [int(value + 0.5) for value in exact]


# Never change them: the hash of a file is part of the identity of every run on it.
GOLDEN = "80a3ad94ce8961be64b1bb4c20a34e3163c8a77829e896d3e8552259237065c5"
GOLDEN_EXACT = "0984e52fe35c4f541c2d667d9d6df325bc5c04eb12ff2129858f1eb10f459b24"


def test_the_bytes_of_the_file_never_change(tmp_path: Path) -> None:
    values, out = arrays(), tmp_path / "small.npz"
    downsample(saved(tmp_path / "a.npz", values), 6, str(out))
    assert hashlib.sha256(out.read_bytes()).hexdigest() == GOLDEN
    other = values | {"train_labels": values["train_labels"].astype(np.int32), "test_images": np.asfortranarray(values["test_images"])}
    downsample(saved(tmp_path / "b.npz", dict(reversed(other.items())), compressed=True), 6, str(tmp_path / "again.npz"))
    assert (tmp_path / "again.npz").read_bytes() == out.read_bytes()
    flagged = values | {"train_exact": np.arange(20) > 2, "test_exact": np.ones(12, bool)}
    downsample(saved(tmp_path / "c.npz", flagged), 6, str(tmp_path / "flagged.npz"))
    assert hashlib.sha256((tmp_path / "flagged.npz").read_bytes()).hexdigest() == GOLDEN_EXACT


@pytest.mark.parametrize("channels", [None, 3])
def test_what_is_written_is_read_by_numpy_and_by_the_data_sets(tmp_path: Path, channels: int | None) -> None:
    values = arrays(channels=channels) | {"train_exact": np.arange(20) > 2, "test_exact": np.ones(12, bool)}
    out = tmp_path / "small.npz"
    downsample(saved(tmp_path / "a.npz", values), 4, str(out))
    with np.load(out, allow_pickle=False) as file:
        read = dict(file)
    assert sorted(read) == sorted(values)
    for key in ("train_labels", "test_labels", "train_exact", "test_exact"):
        np.testing.assert_array_equal(read[key], values[key])
    np.testing.assert_array_equal(read["test_images"], block_means(values["test_images"].reshape(12, 12, 12, -1), 4))
    told = describe(name="arrays", path=str(out))
    assert (told.train_size, told.test_size, told.image_size, told.channels, told.classes) == (20, 12, 4, channels or 1, 4)


@pytest.mark.parametrize(
    ("source", "size", "out", "message"),
    [
        ("a.npz", 5, "small.npz", "size=5: must divide 12, the size of the images in a.npz (with 12 they stay as they are)."),
        ("a.npz", 24, "small.npz", "size=24: must divide 12"),
        ("a.npz", 0, "small.npz", "size=0: must divide 12"),
        ("none.npz", 6, "small.npz", "source=none.npz: there is no such file."),
        ("a.npz", 6, "nowhere/small.npz", "out=nowhere/small.npz: cannot be written (No such file or directory)."),
        ("a.npz", 6, "a.npz", "out=a.npz: is there already, with other contents; choose another name, or remove it."),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, size: int, out: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("a.npz"), arrays())
    before = Path("a.npz").read_bytes()
    with pytest.raises(DataError) as caught:
        downsample(source, size, out)
    assert str(caught.value).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"] and Path("a.npz").read_bytes() == before


def test_the_size_of_the_images_keeps_them(tmp_path: Path) -> None:
    source, out = saved(tmp_path / "a.npz", arrays()), tmp_path / "same.npz"
    downsample(source, 12, str(out))
    with np.load(source) as before, np.load(out) as after:
        for key in ("train_images", "test_images"):
            assert np.array_equal(before[key].reshape(after[key].shape), after[key])


def test_out_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.npz", arrays())
    with pytest.raises(DataError, match="cannot be written"):
        downsample(source, 6, f"{source}/small.npz")


def test_a_second_call_leaves_the_same_file(tmp_path: Path) -> None:
    source, out = saved(tmp_path / "a.npz", arrays()), tmp_path / "small.npz"
    downsample(source, 6, str(out))
    before = out.read_bytes()
    downsample(source, 6, str(out))
    assert out.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_the_command(tmp_path: Path) -> None:
    source, out = saved(tmp_path / "a.npz", arrays()), tmp_path / "small.npz"

    def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60)

    done = prepare(f"source={source}", "size=6", f"out={out}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert hashlib.sha256(out.read_bytes()).hexdigest() in done.stdout
    assert "20 training and 12 test images of 6 x 6 pixels" in done.stdout and f"dataset=arrays dataset.path={out}" in done.stdout
    for arguments, message in (
        ((f"source={source}", "size=six", f"out={out}"), "size=six: must be a whole number > 0."),
        ((f"source={source}", "size=6"), f"source={source}: needs out=FILE.npz too."),
        (("size=6",), "size=6: needs source=FILE.npz and out=FILE.npz too."),
    ):
        refused = prepare(*arguments)
        assert refused.returncode == 2 and message in refused.stderr and refused.stderr.count("\n") == 1, refused
