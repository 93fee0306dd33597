"""Weights that Y. Idelbayev published (github.com/akamaster/pytorch_resnet_cifar10), measured with the accuracy that he states.

SAM_CHECKPOINTS: a folder with his files; SAM_CIFAR10_NPZ: CIFAR-10 as arrays. Without them the tests are skipped.
"""

import os
from pathlib import Path

import pytest
import torch

import models
from sam.evaluation.foreign import evaluate_checkpoint
from sam.evaluation.settings import EvaluateConfig
from sam.schema import from_dict
from sam.training import weights

FOLDER, CIFAR = os.environ.get("SAM_CHECKPOINTS"), os.environ.get("SAM_CIFAR10_NPZ")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SAM_CHECKPOINTS names no folder")
PUBLISHED = [("resnet20", "resnet20-12fca82f.th", 8.27), ("resnet32", "resnet32-d509ac18.th", 7.37)]  # test error in percent


@pytest.mark.parametrize(("name", "file", "error"), PUBLISHED)
def test_they_fit_exactly(name: str, file: str, error: float) -> None:
    path = Path(FOLDER or "") / file
    states = weights.read(path)
    state = {key.removeprefix("module."): value for key, value in states["state_dict"].items()}
    model = models.build(name, classes=10, channels=3, image_size=32)
    assert weights.load(model, path, states) == []
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert {key.rpartition(".")[2] for key in model.state_dict().keys() - state.keys()} == {"num_batches_tracked"}  # saved in 2018


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR, reason="SAM_CIFAR10_NPZ names no file")
@pytest.mark.parametrize(("name", "file", "error"), PUBLISHED)
def test_they_have_their_published_test_error(name: str, file: str, error: float, tmp_path: Path) -> None:
    settings = {
        "checkpoint": str(Path(FOLDER or "") / file),
        "model": {"name": name},
        "dataset": {"name": "cifar10", "path": CIFAR, "train_size": 100},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "sharpness": {"notions": ["gap"]},
        "out": str(tmp_path),
    }
    found = evaluate_checkpoint(from_dict(EvaluateConfig, settings)).found.values
    assert found["test_accuracy"] == pytest.approx(100 - error, abs=1e-6)
