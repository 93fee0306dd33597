"""Arrays from a file: good ones agree with `describe`, damaged ones are named in one sentence by `describe` and `load` alike."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import DataError, describe, file_fingerprint, load
from data.settings import DATASETS, Description
from data.sources import RawData


def arrays(n: int = 30, t: int = 12, size: int = 6, channels: int | None = 3, classes: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.RandomState(0)
    shape = (size, size) if channels is None else (size, size, channels)
    return {
        "train_images": generator.randint(0, 256, (n, *shape)).astype(np.uint8),
        "train_labels": np.arange(n).astype(np.uint8) % classes,
        "test_images": generator.randint(0, 256, (t, *shape)).astype(np.uint8),
        "test_labels": np.arange(t) % classes,
    }


def written(folder: Path, values: dict[str, np.ndarray], compressed: bool = False) -> str:
    path = folder / "images.npz"
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return str(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_describe_agrees_with_load(tmp_path: Path, channels: int | None, compressed: bool) -> None:
    values = arrays(channels=channels)
    options = {"name": "arrays", "path": written(tmp_path, values, compressed), "train_size": 20, "val_fraction": 0.25}
    told, data = describe(**options), load(**options)
    assert (told.train_size, told.test_size, told.image_size, told.channels, told.classes) == (15, 12, 6, channels or 1, 4)
    assert data.train_images.shape == (15, channels or 1, 6, 6) and len(data.val_labels) == 5 and data.classes == 4
    whole = load(name="arrays", path=options["path"])
    assert whole.train_images.is_contiguous(memory_format=torch.channels_last)
    expected = values["train_images"].reshape(30, 6, 6, channels or 1)
    np.testing.assert_array_equal(whole.train_images.permute(0, 2, 3, 1), expected)
    np.testing.assert_array_equal(whole.test_labels, values["test_labels"])
    np.testing.assert_allclose(data.mean, (expected / 255).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, (expected / 255).std(axis=(0, 1, 2)), rtol=1e-6)


def test_statistics_are_those_of_all_images_however_many(tmp_path: Path) -> None:
    """They are counted a thousand at a time."""
    values = arrays(n=2100)
    data, pixels = load(name="arrays", path=written(tmp_path, values)), values["train_images"] / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)), rtol=1e-6)


def test_layout_in_the_file_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    values = arrays()
    plain = load(name="arrays", path=written(tmp_path, values))
    values |= {"train_images": np.asfortranarray(values["train_images"]), "train_labels": values["train_labels"].astype(np.int32)}
    other = load(name="arrays", path=written(tmp_path, values, compressed=True))
    assert plain.fingerprint == other.fingerprint and torch.equal(plain.train_images, other.train_images)
    values["test_images"][0, 0, 0, 0] ^= 1
    assert load(name="arrays", path=written(tmp_path, values)).fingerprint != plain.fingerprint


def test_cifar_from_a_file_keeps_its_classes_and_constants(tmp_path: Path) -> None:
    path = written(tmp_path, arrays(size=32))
    told, data = describe(name="cifar100", path=path), load(name="cifar100", path=path)
    assert (told.classes, told.train_size, data.classes) == (100, 30, 100)
    np.testing.assert_allclose(data.mean, [0.50707516, 0.48654887, 0.44091784], rtol=1e-6)
    assert load(name="cifar10", path=path).std[0] == pytest.approx(0.24703223)
    assert data.notes == ("images of images.npz, not known by their fingerprint as dataset=cifar100",)


def test_decoded_images_are_noted(tmp_path: Path) -> None:
    values = arrays(size=32) | {"train_exact": np.arange(30) > 2, "test_exact": np.ones(12, dtype=bool)}
    path = written(tmp_path, values)
    assert load(name="cifar10", path=path).notes[0] == "images.npz, 3 of 42 images JPEG-decoded"
    assert load(name="arrays", path=path).notes == ("images.npz, 3 of 42 images JPEG-decoded",)
    values["train_exact"][:] = True
    assert load(name="arrays", path=written(tmp_path, values)).notes == ()
    with pytest.raises(DataError, match="train_exact must be one bool for each image"):
        load(name="cifar10", path=written(tmp_path, values | {"train_exact": np.ones(3, dtype=bool)}))


DAMAGED = {
    "no test_labels": ({"test_labels": None}, "has no array test_labels (found: test_images, train_images, train_labels; needed: "),
    "float images": ({"train_images": np.zeros((30, 6, 6, 3))}, "train_images has type float64, but must be uint8"),
    "flat images": (
        {"test_images": np.zeros((12, 108), np.uint8)},
        "test_images has shape (12, 108), but must be (n, h, w, c) or (n, h, w)",
    ),
    "no images": ({"test_images": np.zeros((0, 6, 6, 3), np.uint8)}, "test_images has shape (0, 6, 6, 3)"),
    "not square": ({"train_images": np.zeros((30, 6, 5, 3), np.uint8)}, "images of 6x5 pixels, but they must be square"),
    "other size": ({"test_images": np.zeros((12, 7, 7, 3), np.uint8)}, "train_images are 6x6x3 but test_images 7x7x3"),
    "fewer labels": ({"train_labels": np.arange(29) % 4}, "train_images holds 30 images but train_labels 29 labels"),
    "float labels": ({"train_labels": np.zeros(30)}, "train_labels has type float64 and shape (30,), but must be integers"),
    "one-hot labels": ({"test_labels": np.eye(12, dtype=int)}, "test_labels has type int64 and shape (12, 12)"),
    "object labels": ({"test_labels": np.array([None] * 12)}, "test_labels has type object and shape (12,), but must be integers"),
    "negative label": ({"test_labels": np.arange(12) % 4 - 1}, "test_labels run from -1 to 2, but must be 0 to 3"),
    "class never trained": ({"test_labels": np.arange(12) % 5}, "test_labels run from 0 to 4, but must be 0 to 3"),
    "one class": ({"train_labels": np.zeros(30, int), "test_labels": np.zeros(12, int)}, "must number two or more classes from 0"),
    "class of the test alone": ({"test_labels": np.arange(12) % 5}, "both hold 5 classes; leave the images of 1 out."),
    "identifiers": ({"train_labels": np.arange(30) + 10**6}, "train_labels run from 1000000 to 1000029, but must be 0 to 29"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_arrays_are_named(tmp_path: Path, case: str) -> None:
    change, message = DAMAGED[case]
    path = written(tmp_path, {key: value for key, value in (arrays() | change).items() if value is not None})
    for function in (describe, load):
        with pytest.raises(DataError) as caught:
            function(name="arrays", path=path)
        assert message in str(caught.value) and f"dataset.path={path}" in str(caught.value) and "\n" not in str(caught.value)


def test_cifar_from_a_file_must_look_like_cifar(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images of dataset=cifar10 are 32x32x3, not 6x6x3; use dataset=arrays"):
        describe(name="cifar10", path=written(tmp_path, arrays()))
    path = written(tmp_path, arrays(size=32, classes=11))
    with pytest.raises(DataError, match=r"train_labels run from 0 to 10, but must be 0 to 9 \(dataset=cifar10\)"):
        describe(name="cifar10", path=path)
    assert describe(name="cifar100", path=path).classes == 100


def test_a_constant_channel_cannot_be_normalised_but_by_given_numbers(tmp_path: Path) -> None:
    values = arrays()
    values["train_images"][..., 1] = 7
    with pytest.raises(DataError, match="one value everywhere"):
        load(name="arrays", path=written(tmp_path, values))
    assert list(load(name="arrays", path=written(tmp_path, values), mean=[0.5, 0.0, 0.5], std=[0.2, 1.0, 0.2]).std) == [0.2, 1.0, 0.2]


def test_a_cure_of_labels_is_one_for_both_splits(tmp_path: Path) -> None:
    """By itself each of these splits could be numbered anew, or shifted, so that one number means two classes."""
    train = np.array([0, 1, 3])[np.arange(30) % 3]
    for labels in (
        {"train_labels": train, "test_labels": train[[0, 2] * 6]},
        {"train_labels": train + 1, "test_labels": train[[1, 2] * 6] + 1},
    ):
        with pytest.raises(DataError, match=r"np\.unique\(np\.concatenate\(\[train_labels\.ravel\(\), test_labels|subtract 1 in both"):
            describe(name="arrays", path=written(tmp_path, arrays() | labels))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    missing, text, cut, bad = (tmp_path / name for name in ("missing.npz", "text.npz", "cut.npz", "bad.npz"))
    text.write_text("no zip file")
    content = Path(written(tmp_path, arrays())).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    for path, message in ((missing, "there is no such file"), (text, "not a readable"), (cut, "cut short"), (tmp_path, "not a readable")):
        for function in (describe, load):
            with pytest.raises(DataError) as caught:
                function(name="arrays", path=str(path))
            assert message in str(caught.value) and str(path) in str(caught.value)
    middle = content.index(b"train_images.npy") + 2000  # one flipped pixel: only the checksum knows
    bad.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(DataError, match="CRC"):
        load(name="arrays", path=str(bad))


def test_file_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_fingerprint(path) == file_fingerprint(str(path)) == "ba7816bf8f01cfea"
    path.write_bytes(b"abcd")
    assert file_fingerprint(path) == "88d4266fd4e6338d"
    path.write_bytes(b"abce")  # as many bytes, at another time
    os.utime(path, ns=(0, 0))
    assert file_fingerprint(path) != "88d4266fd4e6338d"
    with pytest.raises(DataError, match="No such file"):
        file_fingerprint(tmp_path / "missing")


COUNTED = np.arange(30) % 4
WRONG = {
    "from 1": (COUNTED + 1, "run from 1 to 4, but must be 0 to 3", "; subtract 1 in both."),
    "from 1, in a byte": ((COUNTED + 1).astype(np.uint8), "run from 1 to 4", "; subtract 1 in both."),
    "from -1": (COUNTED - 1, "run from -1 to 2", "; add 1 in both."),
    "with a gap": (COUNTED + (COUNTED > 1), "run from 0 to 4, but must be 0 to 3", "np.unique("),
    "even": (COUNTED * 2, "run from 0 to 6", "np.unique("),
    "unknown as 255": (np.where(COUNTED == 0, 255, COUNTED).astype(np.uint8), "run from 1 to 255", "np.unique("),
    "floats": (COUNTED.astype(float), "type float64 and shape (30,)", "np.unique("),
    "truth": (COUNTED > 1, "type bool and shape (30,)", "np.unique("),
    "words": (np.array(list("abcd"))[COUNTED], "type <U1 and shape (30,)", "np.unique("),
    "a column": (COUNTED[:, None], "shape (30, 1)", "np.unique("),
    "one-hot": (np.eye(4)[COUNTED], "shape (30, 4)", "labels.argmax(1)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_labels_are_what_the_head_means_or_a_sentence_says_how_to_make_them(tmp_path: Path, kind: str) -> None:
    labels, said, cure = WRONG[kind]
    path = written(tmp_path, arrays() | {"train_labels": labels, "test_labels": labels[:12]})
    for function in (describe, load):
        with pytest.raises(DataError) as caught:
            function(name="arrays", path=path, label_noise=0.5)
        assert said in str(caught.value) and cure in str(caught.value) and "train_labels" in str(caught.value)
    cured = labels.argmax(1) if "argmax" in cure else np.unique(labels.ravel(), return_inverse=True)[1]  # as the sentences say
    data = load(name="arrays", path=written(tmp_path, arrays() | {"train_labels": cured, "test_labels": cured[:12]}), label_noise=0.5)
    assert set(data.train_labels.tolist()) == set(range(data.classes)) and data.classes == (2 if kind == "truth" else 4)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train_images": np.zeros((40, 6, 6, 3), np.uint8), "train_labels": np.arange(40) % 4},
        {"train_labels": np.arange(20) % 4},
        {"train_labels": np.arange(30) % 4 + 1},
        {"train_labels": (np.arange(30) % 4).astype(np.int32)},
        {"train_labels": (np.arange(30) % 4).tolist()},
        {"test_images": np.zeros((12, 6, 6, 1), np.uint8)},
        {"test_images": np.zeros((12, 6, 6), np.uint8)},
        {"train_images": np.zeros((30, 6, 6, 3), np.float32)},
        {"train_images": torch.zeros((30, 6, 6, 3), dtype=torch.uint8)},
        {"train_images": np.zeros((30, 3, 6, 6), np.uint8)},
        {"classes": 3},
    ],
)
def test_a_plug_ins_reader_returns_what_its_row_says(change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"train_labels": np.arange(30) % 4, "test_labels": np.arange(12) % 4}
    own = arrays() | labels | {"classes": 4, "mean": np.full(3, 0.5), "std": np.full(3, 0.5)} | change
    row = replace(DATASETS["digits"], target="elsewhere:reader", about=Description("mine", 30, 12, 6, 3, 4))
    monkeypatch.setattr(type(row), "load", lambda self: lambda *_: RawData(**own))
    monkeypatch.setitem(DATASETS, "digits", row)
    if not change:
        assert len(load(name="digits").train_labels) == 30
        np.savez(tmp_path / "own.npz", **arrays() | {"train_labels": np.arange(30) % 3, "test_labels": np.arange(12) % 4})
        monkeypatch.setitem(DATASETS, "mine", row)  # as described, though no training image is of the last class
        assert load(name="mine", path=str(tmp_path / "own.npz")).classes == 4
    else:
        with pytest.raises(DataError, match=r"^dataset=digits: its reader returned \[.*\]; its row says \[.*\], labels 0 to 3\.$"):
            load(name="digits")


@pytest.mark.parametrize(("labels", "noted"), [(np.sort(np.arange(30) % 4), True), (np.arange(30) % 4, False)], ids=["sorted", "mixed"])
def test_training_images_in_the_order_of_their_classes_are_noted(labels: np.ndarray, noted: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays() | {"train_labels": labels, "test_labels": np.arange(12) % 4})
    notes = load(name="arrays", path=str(tmp_path / "own.npz")).notes
    assert any("sorted by class" in note for note in notes) is noted
