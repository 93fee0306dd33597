"""Tiny runs on the digits, and small files of random images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data
from sam.config import TrainConfig, from_dict, to_dict
from sam.training.loop import Trainer

# Every method, with the keys that make its passes differ; 96 images in batches of 40 give ragged epochs of 3 steps.
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {"method": "sgd"},
    "rand_sam": {"method": "rand_sam"},
    "sam": {"method": "sam"},
    "sam_n3": {"method": "sam", "ascent_steps": 3},
    "sam_drawn": {"method": "sam", "ascent_steps": 2, "radius": "uniform"},
    "sam_mean": {"method": "sam", "ascent_steps": 2, "descent_gradient": "mean"},
    "xsam": {"method": "xsam"},
    "xsam_often": {"method": "xsam", "alpha_refresh": 0.5, "alpha_grid": [0.0, 0.5, 1.0, 2.0]},
    "xsam_rare": {"method": "xsam", "alpha_refresh": 1.4, "ascent_steps": 2},
    "xsam_constant": {"method": "xsam", "alpha": 0.7},
}
# The methods whose contract `make test` holds; the other cases' turn comes in `make test-all`.
CONTRACT = ("sgd", "rand_sam", "sam", "xsam")


@pytest.fixture(params=[pytest.param(name, marks=() if name in CONTRACT else pytest.mark.slow) for name in METHODS])
def method(request: pytest.FixtureRequest) -> dict[str, Any]:
    return METHODS[request.param]


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of milliseconds: `tiny(method="sam", optimizer={"rho": 0.1}, epochs=3)`; groups are merged, other keys replace."""

    def config(*, runs: str = "runs", **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": {"depth": 10, "width": 1},
            "dataset": {"name": "digits", "train_size": 96},
            "optimizer": {"method": "sam", "rho": 0.1},
            "epochs": 2,
            "batch_size": 40,
            "checkpoint_interval": 1,
            "device": "cpu",
            "threads": 1,
            "runs_dir": str(tmp_path / runs),
        }
        for key, value in changes.items():
            values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
        return from_dict(TrainConfig, values)

    return config


@pytest.fixture
def trainer() -> Callable[[TrainConfig], Trainer]:
    return lambda config: Trainer(config, data.load(**to_dict(config.dataset), seed=config.seed), torch.device("cpu"))


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    """Random 12 x 12 colour images of 5 classes: 90 to train, 30 to test."""
    draw = np.random.RandomState(0)
    parts = {}
    for split, n in (("train", 90), ("test", 30)):
        parts[f"{split}_images"] = draw.randint(256, size=(n, 12, 12, 3)).astype(np.uint8)
        parts[f"{split}_labels"] = np.arange(n) % 5
    path = tmp_path / "images.npz"
    np.savez(path, **parts)
    return str(path)
