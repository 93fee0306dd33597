"""Learning rates against values by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from sam.settings import TrainConfig
from sam.training.schedule import learning_rate


def rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    return [learning_rate(config, step, steps_per_epoch) for step in range(config.epochs * steps_per_epoch)]


def test_cosine_per_step() -> None:
    seen = rates(TrainConfig(epochs=4), 5)
    assert seen == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)], rel=1e-12)
    assert seen[0] == 0.1
    assert seen[10] == pytest.approx(0.05)
    assert seen[-1] == pytest.approx(0.1 * math.sin(math.pi / 40) ** 2)  # half a step's distance from zero
    assert seen == sorted(seen, reverse=True)


def test_cosine_per_epoch_is_constant_within_an_epoch() -> None:
    seen = rates(TrainConfig(epochs=3, schedule="cosine_epoch"), 7)
    for epoch, factor in enumerate((1.0, 0.75, 0.25)):  # (1 + cos(0, 60, 120 degrees)) / 2
        assert seen[7 * epoch : 7 * epoch + 7] == pytest.approx([0.1 * factor] * 7)


@pytest.mark.parametrize(("epochs", "steps"), [(200, 391), (10, 3), (200, 98)])
def test_wrn_step_boundaries(epochs: int, steps: int) -> None:
    config = TrainConfig(epochs=epochs, schedule="wrn_step")
    for share, factor in ((0.3, 0.2), (0.6, 0.04), (0.8, 0.008)):
        boundary = round(share * epochs) * steps
        assert learning_rate(config, boundary, steps) == pytest.approx(0.1 * factor)
        assert learning_rate(config, boundary - 1, steps) == pytest.approx(0.5 * factor)
    assert learning_rate(config, 0, steps) == 0.1


def test_constant() -> None:
    assert set(rates(TrainConfig(epochs=3, schedule="constant"), 4)) == {0.1}


def test_warm_up_is_linear_and_the_schedule_fills_the_rest() -> None:
    config = TrainConfig(epochs=6, warmup_epochs=2.0)
    seen = rates(config, 5)
    assert seen[:10] == pytest.approx([0.1 * (t + 1) / 10 for t in range(10)])
    assert seen[10:] == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)])
    part = rates(replace(config, warmup_epochs=0.6, schedule="constant"), 5)
    assert part == pytest.approx([0.1 / 3, 0.2 / 3, 0.1] + [0.1] * 27)
    assert rates(replace(config, warmup_epochs=6.0), 5)[-1] == pytest.approx(0.1)
    ends_within_a_step = rates(replace(config, warmup_epochs=0.1, schedule="constant"), 15)
    assert ends_within_a_step == pytest.approx([0.1 / 1.5] + [0.1] * 89)


def test_the_trainer_hands_out_these_rates(tiny: Callable[..., TrainConfig], trainer: Callable) -> None:
    made = trainer(tiny(epochs=2, warmup_epochs=1.0, schedule="cosine_step", optimizer={"lr": 0.3}))
    used = []
    step = made.optimizer.base.step
    made.optimizer.base.step = lambda: (used.append([g["lr"] for g in made.optimizer.base.param_groups]), step())[1]
    rows = [made.run_epoch(lambda units: None) for _ in range(2)]
    expected = [0.1, 0.2, 0.3, 0.3, 0.225, 0.075]  # 3 steps an epoch; then (1 + cos(0, 60, 120 degrees)) / 2
    assert [rate for group in used for rate in set(group)] == pytest.approx(expected)
    assert [row["lr"] for row in rows] == pytest.approx([0.3, 0.075])
