"""Images from elsewhere as the file that dataset=arrays reads; hostile ones are one sentence."""

import io
import pickle
import shutil
import struct
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from data import DataError, load
from data.convert import convert
from scripts import prepare_data

DRAW = np.random.RandomState(0)
IMAGES = DRAW.randint(256, size=(30, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3


def converted(source: Path, size: int | None = None) -> dict[str, np.ndarray]:
    out = source.parent / "out.npz"
    convert(str(source), str(out), size)
    assert load(name="arrays", path=str(out)).classes >= 2  # a run can read it
    with np.load(out) as file:
        return {key: file[key] for key in file}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of_images(root: Path, held_out: str = "test", images: np.ndarray = IMAGES) -> Path:
    """Classes a, b, c in turn; images 0 to 19 in train."""
    for place, pixels in enumerate(images):
        split = root / ("train" if place < 20 else held_out) / "cab"[LABELS[place]]
        split.mkdir(parents=True, exist_ok=True)
        (split / f"{place:02}.png").write_bytes(png(pixels))
    return root


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_a_folder_of_images(tmp_path: Path, held_out: str) -> None:
    root = folder_of_images(tmp_path / "images", held_out)
    (root / "train" / "a" / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    copies = root / "train" / "a" / ".ipynb_checkpoints"
    copies.mkdir()
    (copies / "copy.png").write_bytes(png(IMAGES[0]))
    (root / "test").mkdir(exist_ok=True)  # without classes, as in a competition, it is not the held-out set
    (root / "test" / "1.png").write_bytes(png(IMAGES[0]))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (root / "train" / "b").rename(moved / "b")
    (root / "train" / "b").mkdir()
    (root / "train" / "b" / "linked").symlink_to(moved / "b")
    found = converted(root)
    classes = np.array([2, 0, 1])[LABELS]  # c, a, b by name
    for split, chosen in (("train", slice(20)), ("test", slice(20, 30))):
        order = np.argsort(classes[chosen], kind="stable")  # as the folder lists them; then shuffled
        order = order[np.random.RandomState(0).permutation(len(order))]
        assert np.array_equal(found[f"{split}_images"], IMAGES[chosen][order])
        assert np.array_equal(found[f"{split}_labels"], classes[chosen][order])


def test_grey_images_have_one_channel_and_one_coloured_makes_all_three(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", images=IMAGES[..., 0])
    assert converted(root)["train_images"].shape == (20, 8, 8, 1)
    (root / "test" / "a" / "99.png").write_bytes(png(IMAGES[0]))
    (tmp_path / "out.npz").unlink()
    found = converted(root)
    assert found["train_images"].shape == (20, 8, 8, 3) and found["test_images"].shape == (11, 8, 8, 3)


def test_other_sizes_need_a_size(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    wide = root / "train" / "b" / "99.png"
    wide.write_bytes(png(np.full((6, 12, 3), 7, np.uint8)))
    with pytest.raises(DataError, match=r"99.png: is of 12x6 pixels, and .* of 8x8; give size=PIXELS"):
        converted(root)
    found = converted(root, size=4)
    assert found["train_images"].shape == (21, 4, 4, 3)
    assert (found["train_images"] == 7).all(axis=(1, 2, 3)).sum() == 1  # a flat image stays flat


def test_one_image_that_is_no_square(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    for path in sorted(root.rglob("*.png")):
        path.write_bytes(png(np.full((6, 12, 3), 7, np.uint8)))
    with pytest.raises(DataError, match=r"is of 12x6 pixels, no square; give size=PIXELS"):
        converted(root)


def test_torchs_order_of_axes_is_not_resized(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="channels come last"):
        converted(npy(tmp_path / "npy", x_train=IMAGES[:20].transpose(0, 3, 1, 2)), size=8)


@pytest.mark.parametrize(
    ("folder", "file", "name"), [("cifar-10-batches-py", "data_batch_1", "cifar10"), ("cifar-100-python", "meta", "cifar100")]
)
def test_torchvisions_folder(folder: str, file: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = types.SimpleNamespace(data=IMAGES, targets=LABELS.tolist())
    monkeypatch.setattr("data.convert.fetch_cifar", lambda *given, download: (part, part) if given == (name, str(tmp_path)) else None)
    for own in ("renamed", folder):
        (tmp_path / own).mkdir()
        (tmp_path / own / file).touch()
    with pytest.raises(DataError, match="renamed: torchvision's CIFAR must be in a folder of its name"):
        converted(tmp_path / "renamed")
    found = converted(tmp_path / folder)
    assert np.array_equal(found["train_images"], IMAGES) and np.array_equal(found["test_labels"], LABELS)


def npy(root: Path, **changed: Any) -> Path:
    root.mkdir()
    arrays = {"x_train": IMAGES[:20], "y_train": LABELS[:20], "x_test": IMAGES[20:], "y_test": LABELS[20:]} | changed
    for name, values in arrays.items():
        if values is not None:
            np.save(root / f"{name}.npy", values)
    return root


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_npy_pairs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = converted(npy(tmp_path / "npy", y_train=LABELS[:20].astype(np.uint8).reshape(shape)))
    assert np.array_equal(found["train_images"], IMAGES[:20]) and np.array_equal(found["test_labels"], LABELS[20:])
    assert found["train_labels"].dtype == np.int64 and np.array_equal(found["train_labels"], LABELS[:20])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_npy_pairs_resized(tmp_path: Path, channels: int) -> None:
    flat = np.broadcast_to(np.arange(1, 1 + channels, dtype=np.uint8), (20, 8, 6, channels))
    images = np.concatenate([flat[:10], 200 + flat[:10]])
    found = converted(npy(tmp_path / "npy", x_train=images, x_test=images[:10]), size=5)
    assert np.array_equal(found["train_images"], np.broadcast_to(images[:, :1, :1], (20, 5, 5, channels)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_train": IMAGES[:20] / 255}, "train_images has type float64, but must be uint8"),
        ({"y_train": LABELS[:20] + 1}, "train_labels run from 1 to 3, but must be 0 to 2"),
        ({"y_test": LABELS[20:] + 2}, "test_labels run from 2 to 4"),
        ({"y_train": np.eye(3)[LABELS[:20]]}, "train_labels has type float64 and shape (20, 3)"),
        ({"y_train": LABELS[:19]}, "train_images holds 20 images but train_labels 19 labels"),
        ({"x_test": IMAGES[20:, :4]}, "test_images has images of 4x8 pixels, but they must be square"),
        (
            {"x_train": IMAGES[:20].transpose(0, 3, 1, 2)},
            "images of 3x8 pixels, but they must be square; channels come last: images.transpose",
        ),
        ({"y_test": None}, "holds no y_test.npy, nor one of val, valid, validation"),
        ({"y_train": np.array([{}] * 20)}, "y_train.npy: cannot be read"),  # pickled objects
        ({"x_train": np.empty((0, 8, 8, 3), np.uint8)}, "train_images has shape (0, 8, 8, 3)"),
        ({"y_train": np.array(3)}, "train_labels has type int64 and shape ()"),
    ],
)
def test_what_no_run_could_use_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    root = npy(tmp_path / "npy", **changed)
    with pytest.raises(DataError) as caught:
        convert(str(root), str(tmp_path / "out.npz"))
    assert words in str(caught.value) and str(caught.value).startswith(f"source={root}")
    assert [path.name for path in tmp_path.iterdir()] == ["npy"]


def svhn(root: Path, **changed: Any) -> Path:
    root.mkdir()
    for split, chosen in (("train", slice(20)), ("test", slice(20, 30))):
        values = {"X": IMAGES[chosen].transpose(1, 2, 3, 0), "y": (LABELS[chosen, None] + 9) % 10 + 1} | changed  # 10, 1, 2
        scipy.io.savemat(root / f"{split}_32x32.mat", values)
    return root


def test_svhn(tmp_path: Path) -> None:
    """Digit 0 is labelled 10 there."""
    found = converted(svhn(tmp_path / "svhn"))
    assert np.array_equal(found["train_images"], IMAGES[:20])
    assert np.array_equal(found["train_labels"], LABELS[:20]) and np.array_equal(found["test_labels"], LABELS[20:])


def big_header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes of header."""
    chunk = lambda kind, content: struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


EVIL: dict[str, tuple[Callable[[Path], Path], str, bytes]] = {
    "pickle": (npy, "y_train.npy", pickle.dumps([0, 1])),
    "cut short": (npy, "x_train.npy", big_header("(20, 8, 8, 3)") + b"x"),
    "enormous": (npy, "x_train.npy", big_header("(1000000000, 1000, 1000, 3)")),
    "no mat": (svhn, "train_32x32.mat", b"MATLAB 5.0" + bytes(300)),
    "empty mat": (svhn, "test_32x32.mat", b""),
    "no png": (folder_of_images, "train/a/01.png", b"\x89PNG\r\n\x1a\n nothing"),
    "empty png": (folder_of_images, "test/a/22.png", b""),
    "a script": (folder_of_images, "train/a/01.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nquit\n"),
    "bomb": (folder_of_images, "train/a/01.png", bomb()),
    "16 bits": (folder_of_images, "train/a/01.png", png(IMAGES[0, :, :, 0].astype(np.uint16))),
}


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("size", [None, 4])
def test_hostile_files_are_one_sentence(tmp_path: Path, kind: str, size: int | None) -> None:
    make, name, content = EVIL[kind]
    root = make(tmp_path / "source")
    (root / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        convert(str(root), str(tmp_path / "out.npz"), size)
    assert f"source={root / name}" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.npz").exists()


def test_a_class_that_was_not_trained_on_and_an_empty_one_are_named(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    (root / "test" / "z").mkdir()
    with pytest.raises(DataError, match="class z is not in train"):
        converted(root)
    (root / "train" / "z").mkdir()
    with pytest.raises(DataError, match="train/z: holds no image"):
        converted(root)


def test_a_class_without_test_images_shifts_no_number(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    shutil.rmtree(root / "test" / "a")
    assert set(converted(root)["test_labels"].tolist()) == {1, 2}


def test_beside_validation_images_those_of_the_test_are_held_out(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    shutil.copytree(root / "train", root / "val")
    assert len(converted(root)["test_labels"]) == 10


def test_what_lies_there_is_not_overwritten(tmp_path: Path) -> None:
    converted(npy(tmp_path / "a"))
    with pytest.raises(DataError, match="is there already, with other contents"):
        converted(npy(tmp_path / "b", y_test=LABELS[20:][::-1]))
    assert not list(tmp_path.glob("*.tmp"))


# ---------------------------------------------------------------------------------------------------------------- parquet


class Parquet:
    """What of pyarrow is used, over rows that a test gives. Real files were read with pyarrow 26."""

    def __init__(self, path: Path) -> None:
        self.columns: dict[str, Any] = pickle.loads(path.read_bytes())
        kinds = {"img": "struct<bytes: binary, path: string>", "label": "int64", "name": "string"}
        self.schema_arrow = [types.SimpleNamespace(name=name, type=kinds[name]) for name in self.columns]
        self.metadata = types.SimpleNamespace(num_row_groups=1, row_group=lambda group: types.SimpleNamespace(total_byte_size=10))

    def read(self, names: list[str]) -> dict[str, Any]:
        return {name: types.SimpleNamespace(to_pylist=lambda name=name: self.columns[name]) for name in names}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """data/train-00000-of-00002.parquet, ... as on the Hub."""
    package: Any = types.ModuleType("pyarrow")
    package.parquet = types.SimpleNamespace(ParquetFile=Parquet)
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    for name, chosen in (("train-00000-of-00002", slice(10)), ("train-00001-of-00002", slice(10, 20)), ("test-00000", slice(20, 30))):
        rows = {"img": [{"bytes": png(image), "path": "x"} for image in IMAGES[chosen]], "label": LABELS[chosen].tolist()}
        (folder / f"{name}.parquet").write_bytes(pickle.dumps(rows | {"name": len(LABELS[chosen]) * ["x"]}))
    yield folder.parent


def test_two_data_sets_below_one_folder_are_not_made_one(hub: Path) -> None:
    shutil.copytree(hub / "data", hub / "noisy")
    with pytest.raises(DataError, match=r"hub: holds several data sets, in .*hub/data and .*hub/noisy; give the folder of one"):
        converted(hub)


def test_parquet(hub: Path) -> None:
    found = converted(hub)
    assert np.array_equal(found["train_images"], IMAGES[:20]) and np.array_equal(found["train_labels"], LABELS[:20])
    assert np.array_equal(found["test_images"], IMAGES[20:]) and np.array_equal(found["test_labels"], LABELS[20:])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"img": [{"bytes": None, "path": "x"}], "label": [0]}, "image 0 has no bytes"),
        ({"img": [None], "label": [0]}, "image 0 has no bytes"),
        ({"img": [{"bytes": png(IMAGES[0]), "path": ""}], "label": [-1]}, "image 0 has no bytes, or no label"),
        ({"img": [{"bytes": b"x", "path": ""}], "label": [0]}, "parquet, image 0: cannot be read"),
        ({"img": [], "name": []}, "must hold one column of images (bytes) and a column label"),
    ],
)
def test_parquet_without_images_or_labels(hub: Path, columns: dict[str, Any], words: str) -> None:
    (hub / "data" / "train-00000-of-00002.parquet").write_bytes(pickle.dumps(columns))
    with pytest.raises(DataError) as caught:
        converted(hub)
    assert words in str(caught.value)


def test_parquet_without_pyarrow_says_how_to_get_it(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="need pyarrow; python -m pip install pyarrow"):
        converted(hub)


# ------------------------------------------------------------------------------------------------------------ the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.npz"
    assert prepare_data.main([f"source={npy(tmp_path / 'npy')}", f"out={out}"]) == 0
    assert "20 training and 10 test images of 8 x 8 pixels" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert prepare_data.main([f"source={tmp_path / 'empty'}", f"out={out}"]) == 1
    said = capsys.readouterr().err
    assert "must be a folder that holds train/CLASS/IMAGE, " in said and said.count("\n") == 1
    assert prepare_data.main([f"source={tmp_path / 'empty'}"]) == 2
    assert "needs out=FILE.npz too" in capsys.readouterr().err
    assert prepare_data.main([f"source={tmp_path / 'nowhere'}", f"out={out}"]) == 2
    assert "needs size=PIXELS too" in capsys.readouterr().err  # as for a file
