"""The schedule at its corners."""

import pytest
import wsd

from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.training.schedule import learning_rate


def test_constant_then_linear_to_zero() -> None:
    assert [wsd.wsd(epoch, 10) for epoch in (0, 4, 8)] == [1, 1, 1]
    assert wsd.wsd(9, 10) == pytest.approx(0.5) and wsd.wsd(10, 10) == 0


def test_after_a_warm_up() -> None:
    config = from_dict(TrainConfig, {"schedule": "wsd", "epochs": 11, "warmup_epochs": 1, "optimizer": {"lr": 0.2}})
    rates = [learning_rate(config, step, 2) for step in range(22)]
    assert rates[:3] == [0.1, 0.2, 0.2] and rates[18] == pytest.approx(0.2) and rates[20] == pytest.approx(0.1)
