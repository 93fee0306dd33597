"""Somebody's file from its bytes to its row: which of its weights are measured, what is said, and that the row's key knows it."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
import models
import sam.sharpness
from data import torchvision_guard
from sam.config import ConfigError
from sam.evaluation.foreign import Checkpoint, evaluate_checkpoint
from sam.evaluation.settings import EvaluateConfig
from sam.schema import from_dict
from sam.training.weights import CheckpointError

DIGITS = {"name": "digits", "train_size": 100}


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)


def measured(file: Path, dataset: dict[str, Any] = DIGITS, **more: Any) -> Checkpoint:
    given = {"checkpoint": str(file), "model": {"depth": 10, "width": 1}, "dataset": dataset, "threads": 1, "device": "cpu"}
    return evaluate_checkpoint(from_dict(EvaluateConfig, given | {"sharpness": {"notions": ["gap"], "batchnorm": ["eval"]}} | more))


def by_hand(net: torch.nn.Module) -> dict[str, float | None]:
    return dict(sam.sharpness.evaluate(net, data.load(**DIGITS), "gap", batchnorm="eval"))


def test_the_file_of_timms_own_saver(tmp_path: Path) -> None:
    torchvision_guard.ensure()
    saver = pytest.importorskip("timm.utils").CheckpointSaver
    from timm.utils import ModelEmaV2

    net, other = network(0), network(1)
    averaged = ModelEmaV2(other)
    options = argparse.Namespace(model="wide_resnet", lr=0.1, hostile=print)
    saver(net, torch.optim.SGD(net.parameters(), lr=0.1), options, averaged, checkpoint_dir=str(tmp_path)).save_checkpoint(0, 90.0)
    (file,) = tmp_path.glob("checkpoint-*.pth.tar")
    first, second = measured(file), measured(file, checkpoint_key="state_dict_ema")
    assert first.found.values == pytest.approx(by_hand(net), rel=1e-5) and second.found.values == pytest.approx(by_hand(other), rel=1e-5)
    assert first.notes[0] == "Weights: state_dict; others that fit: state_dict_ema (checkpoint_key=... chooses)."
    assert second.notes[0] == "Weights: state_dict_ema, an average by its name."
    rows = json.loads(first.file.read_text())["rows"]
    assert len(rows) == 2 and len({row["values"]["test_loss"] for row in rows.values()}) == 2  # each choice has a row of its own
    again = measured(file)
    assert again.notes == first.notes and again.found.values == first.found.values
    assert json.loads(first.file.read_text())["rows"] == rows


def test_force_measures_what_is_stored_anew(tmp_path: Path) -> None:
    torch.save(network(0).state_dict(), tmp_path / "w.pt")
    stamps = [measured(tmp_path / "w.pt", force=force).file.stat().st_mtime_ns for force in (False, False, True)]
    assert stamps[0] == stamps[1] < stamps[2]


def test_a_choice_needs_a_file() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint_key=\.\.\.: belongs to checkpoint=FILE"):
        EvaluateConfig(checkpoint_key="state_dict_ema")


def test_nothing_is_stored_of_weights_that_are_refused(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["head.bias"][3] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"head\.bias holds NaN or infinity \(1 of 10 numbers\)"):
        measured(tmp_path / "w.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_random_images_are_not_called_cifar(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    parts = {f"{split}_labels": np.arange(n) % 10 for split, n in (("train", 40), ("test", 20))}
    parts |= {f"{split}_images": draw.randint(256, size=(n, 32, 32, 3)).astype(np.uint8) for split, n in (("train", 40), ("test", 20))}
    np.savez(tmp_path / "a.npz", **parts)
    net = models.build("wide_resnet", classes=10, channels=3, image_size=32, depth=10, width=1)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    said = measured(tmp_path / "w.pt", {"name": "cifar10", "path": str(tmp_path / "a.npz")}).notes
    assert said[0] == "images of a.npz, not known by their fingerprint as dataset=cifar10"
    assert said[1].startswith("Measured on images not known to be CIFAR-10, ")
