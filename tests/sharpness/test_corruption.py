"""Corrupted test images: a small folder in CIFAR-C's layout against float64 by hand, and every folder that does not fit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sam.config import ConfigError
from sam.sharpness import corruption
from sam.sharpness.context import Context, Notion, Sizes, Split, work
from sam.sharpness.settings import CorruptionConfig, SharpnessConfig

EACH, CLASSES = 7, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven test images, three corruptions (one of them not of the benchmark's mean), labels repeated for each severity."""
    draw = np.random.RandomState(0)
    np.save(tmp_path / "labels.npy", np.tile(np.array([0, 1, 2, 3, 0, 1, 2], dtype=np.uint8), 5))
    for kind in ("fog", "jpeg_compression", "saturate"):
        np.save(tmp_path / f"{kind}.npy", draw.randint(256, size=(5 * EACH, 6, 6, 3)).astype(np.uint8))
    return tmp_path


def context(path: object) -> Context:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, CLASSES)).double()
    images = torch.zeros(CLASSES, 3, 6, 6, dtype=torch.uint8)
    config = SharpnessConfig.of(batch_size=3, corruption=CorruptionConfig(path=None if path is None else str(path)))
    return Context(net, Split(images, torch.arange(CLASSES)), None, config, prepare=lambda x: x.double() / 255 - 0.4)


def test_every_severity_of_every_corruption_and_their_means(folder: Path) -> None:
    made = context(folder)
    result = corruption.measure(made)
    net, labels = made.model.eval(), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    by_hand = {}
    for kind in ("fog", "jpeg_compression", "saturate"):
        images = torch.from_numpy(np.load(folder / f"{kind}.npy")).double().permute(0, 3, 1, 2) / 255 - 0.4
        rows = []
        for s in range(5):
            logits = net(images[EACH * s : EACH * (s + 1)])
            rows.append([100 * (logits.argmax(1) == labels).double().mean().item(), functional.cross_entropy(logits, labels).item()])
        by_hand[kind] = np.array(rows)
        curve = result.series[f"corruption[kind={kind}]"]
        assert curve["severity"] == [1, 2, 3, 4, 5]
        assert [curve["accuracy"], curve["loss"]] == [pytest.approx(column, rel=1e-12) for column in by_hand[kind].T.tolist()]
        assert len(set(curve["loss"])) == 5
        assert result.values[f"corruption_accuracy[kind={kind}]"] == pytest.approx(by_hand[kind][:, 0].mean())
        assert result.values[f"corruption_loss[kind={kind}]"] == pytest.approx(by_hand[kind][:, 1].mean())
    mean = (by_hand["fog"] + by_hand["jpeg_compression"]).mean(axis=0) / 2
    assert result.values["corruption_accuracy"] == pytest.approx(mean[0]) and result.values["corruption_loss"] == pytest.approx(mean[1])
    assert result.values["corruption_kinds"] == 2 and len(result.values) == 9


def test_without_a_folder_nothing_is_measured() -> None:
    assert corruption.measure(context(None)).values == {}
    assert work(["corruption"], Sizes(CLASSES, EACH), SharpnessConfig.of()) == 0


def test_work_is_what_is_reported_and_twice_is_the_same(folder: Path) -> None:
    made, done = context(folder), []
    made.progress = done.append
    first = corruption.measure(made)
    assert sum(done) == 3 * 5 * EACH == work(["corruption"], Sizes(CLASSES, EACH), made.config)
    assert corruption.measure(made) == first


def test_a_row_is_reused_only_as_long_as_the_files_are_the_same(folder: Path) -> None:
    def settings() -> dict[str, object]:
        return Notion("corruption").settings(context(folder).config)

    before = settings()
    assert settings() == before
    os.utime(folder / "fog.npy", (1, 1))
    after = settings()
    (folder / "saturate.npy").unlink()
    assert before != after != settings()


def break_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.full(35, 17))


def other_data_set(folder: Path) -> None:
    np.save(folder / "labels.npy", np.arange(35) % 3)


def break_count(folder: Path) -> None:
    np.save(folder / "labels.npy", np.zeros(33, dtype=np.uint8))


def break_images(folder: Path) -> None:
    np.save(folder / "fog.npy", np.zeros((35, 8, 8, 3), dtype=np.uint8))


def break_dtype(folder: Path) -> None:
    np.save(folder / "fog.npy", np.zeros((35, 6, 6, 3), dtype=np.float32))


def cut(folder: Path) -> None:
    (folder / "fog.npy").write_bytes((folder / "fog.npy").read_bytes()[:1000])


def forget_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def forget_images(folder: Path) -> None:
    for file in folder.glob("*.npy"):
        if file.name != "labels.npy":
            file.unlink()


def one_label(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array(3))


def archive(folder: Path) -> None:
    with (folder / "labels.npy").open("wb") as file:
        np.savez(file, labels=np.zeros(35, dtype=np.uint8))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (one_label, ["labels.npy", "5 whole numbers", "()"]),
        (archive, ["labels.npy", "cannot be read as a NumPy array", "archive"]),
        (break_labels, ["labels.npy", "17", "0 to 3"]),
        (other_data_set, ["labels.npy", "labels run from 0 to 2, but those of the data set from 0 to 3"]),
        (break_count, ["labels.npy", "5 whole numbers", "(33,)"]),
        (break_images, ["fog.npy", "(35, 8, 8, 3)", "(35, 6, 6, 3)"]),
        (break_dtype, ["fog.npy", "float32", "uint8"]),
        (cut, ["fog.npy", "cannot be read"]),
        (forget_labels, ["sharpness.corruption.path=", "has no labels.npy"]),
        (forget_images, ["sharpness.corruption.path=", "no other .npy"]),
    ],
)
def test_what_does_not_fit_is_named(damage: object, words: list[str], folder: Path) -> None:
    damage(folder)  # type: ignore[operator]
    assert corruption.work(Sizes(CLASSES, EACH), context(folder).config) >= 0  # of the progress bar
    with pytest.raises(ConfigError) as caught:
        corruption.measure(context(folder))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value


def test_images_that_are_numbers_already_cannot_be_corrupted_alike(folder: Path) -> None:
    whole = context(folder)
    whole.train = Split(whole.train.inputs.float(), whole.train.labels)
    with pytest.raises(ConfigError, match=r"sharpness\.corruption: .* data must be an ImageData"):
        corruption.measure(whole)


def test_a_folder_that_is_not_there_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    made = context(tmp_path / "nowhere")
    for act in (corruption.measure, lambda s: Notion("corruption").settings(s.config)):
        with pytest.raises(ConfigError, match=r"nowhere: there is no such folder; give the folder of CIFAR-10-C"):
            act(made)
