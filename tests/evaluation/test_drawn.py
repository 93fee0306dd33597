"""Checkpoints are measured on the images that they were trained on, where each seed draws its own; normalised as in training."""

from pathlib import Path

import pytest
import torch

import data
import models
import sam.sharpness
from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.evaluation.evaluate import evaluate
from sam.evaluation.foreign import _subject, evaluate_checkpoint
from sam.evaluation.settings import EvaluateConfig
from sam.runs import checkpoint, identity
from sam.runs.run import run
from sam.schema import defaults, from_dict
from sam.settings import TrainConfig

GAP = {"notions": ["gap"], "batchnorm": ["eval"]}
DRAWN = {"name": "digits", "train_size": 100, "val_size": 700, "sample": "seed", "label_noise": 0.2, "mean": [0.2], "std": [0.4]}


@pytest.mark.usefixtures("one_thread")
def test_each_run_is_measured_on_its_own_images(tmp_path: Path) -> None:
    values = {"dataset": DRAWN, "model": {"depth": 10, "width": 1}, "epochs": 1, "batch_size": 50, "threads": 1, "device": "cpu"}
    expected = {}
    for seed in (0, 1):
        config = from_dict(TrainConfig, values | {"seed": seed, "runs_dir": str(tmp_path)})
        run(config)
        net = models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)
        net.load_state_dict(checkpoint.load(identity.run_folder(config))["model"])
        expected[seed] = sam.sharpness.evaluate(net, data.load(**DRAWN, seed=seed), **GAP)
        other = sam.sharpness.evaluate(net, data.load(**DRAWN, seed=1 - seed), **GAP)
        assert other["gap"] != pytest.approx(expected[seed]["gap"], rel=1e-3)
    measuring = {"runs_dir": str(tmp_path), "sharpness": GAP, "threads": 1, "device": "cpu"}
    found = evaluate(from_dict(EvaluateConfig, measuring))
    assert not found.problems
    for row in found.runs:
        for name, value in expected[row.config.seed].items():
            assert row.measures[name] == pytest.approx(value, rel=1e-6), name


def test_a_foreign_checkpoint_has_no_seed_to_draw_by(tmp_path: Path) -> None:
    net = models.build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    dataset = DatasetConfig(name="digits", sample="seed")
    config = EvaluateConfig(checkpoint=str(tmp_path / "a.pt"), model=ModelConfig.of(depth=10, width=1), dataset=dataset)
    with pytest.raises(data.DataError, match=r"dataset.sample=seed: needs the seed of a run"):
        evaluate_checkpoint(config)


def test_younger_keys_leave_the_keys_of_stored_rows_alone() -> None:
    images = data.load(name="digits")
    old = {"name": "digits", "val_fraction": 0.0, "label_noise": 0.0, "train_size": None}  # what was hashed before there were more keys
    normalisation = {"mean": images.mean.tolist(), "std": images.std.tolist()}
    model = ModelConfig.of()
    plain = {key: value for key, value in defaults(ModelConfig).items() if key != "norm"}  # which is late
    assert _subject(model, DatasetConfig(name="digits"), images) == {"model": plain, "dataset": old, **normalisation}
    replaced = DatasetConfig(name="digits", mean=[0.1], std=[0.5])
    assert _subject(model, replaced, images)["dataset"] == old  # its mean and std are those of the images
    assert _subject(model, DatasetConfig(name="digits", val_size=9), images)["dataset"] == old | {"val_size": 9}
