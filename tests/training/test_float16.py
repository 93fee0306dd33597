"""Training in float16 autocast with loss scaling: near fp32, overflows left out of the record, bitwise resumable."""

import copy
import math
from collections.abc import Callable

import pytest
import torch

from sam.config import TrainConfig
from sam.core.scaling import LossScale
from sam.training import loop
from sam.training.loop import Trainer
from sam.training.run import run

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]


def test_float16_is_near_fp32(tiny: Tiny, trainer: Make) -> None:
    rows = [trainer(tiny(precision=precision)).run_epoch(lambda passes: None) for precision in ("fp32", "fp16")]
    for key in ("train_loss", "perturbed_loss", "grad_norm"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=0.02) and rows[1][key] != rows[0][key]
    assert rows[1]["skipped"] == 0


def test_steps_that_only_lower_the_scale_are_left_out_of_the_means(tiny: Tiny, trainer: Make) -> None:
    """A scale of 2^24 overflows float16 until it has come down; the epoch's means are over the steps that were taken."""
    wild = trainer(tiny(precision="fp16", batch_size=8))
    assert wild.optimizer.scaling is not None
    wild.optimizer.scaling.value.fill_(2.0**24)
    row = wild.run_epoch(lambda passes: None)
    assert 0 < row["skipped"] < wild.steps_per_epoch
    assert wild.optimizer.scaling.value.item() == 2.0 ** (24 - row["skipped"])
    for key in ("train_loss", "train_accuracy", "perturbed_loss", "grad_norm", "eps_over_rho"):
        assert math.isfinite(row[key]), key
    assert row["eps_over_rho"] == pytest.approx(1, abs=1e-5)
    assert 1 < row["train_loss"] < 5


def test_an_epoch_that_overflows_throughout_has_no_loss(tiny: Tiny, trainer: Make) -> None:
    """Nothing was learnt: NaN, which the run takes for divergence, and not 0."""
    hopeless = trainer(tiny(precision="fp16"))
    with torch.no_grad():
        next(hopeless.model.parameters()).fill_(float("nan"))
    assert math.isnan(hopeless.run_epoch(lambda passes: None)["train_loss"])


def test_a_float16_run_cut_within_an_epoch_continues_bitwise(tiny: Tiny, trainer: Make) -> None:
    config = tiny(precision="fp16")
    whole, first, second = trainer(config), trainer(config), trainer(config)
    for one in (whole, first):
        assert one.optimizer.scaling is not None
        one.optimizer.scaling.value.fill_(2.0**24)

    class Cut(Exception):
        pass

    saved = {}

    def cut() -> None:
        if first.step == 2:
            saved.update(copy.deepcopy(first.state_dict()))
            raise Cut

    expected = whole.run_epoch(lambda passes: None)
    with pytest.raises(Cut):
        first.run_epoch(lambda passes: None, cut)
    second.load_state_dict(saved)
    row = second.run_epoch(lambda passes: None)
    timeless = [{k: str(v) for k, v in r.items() if "seconds" not in k} for r in (row, expected)]  # NaN equals NaN here
    assert timeless[0] == timeless[1]
    for a, b in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert second.optimizer.scaling is not None and whole.optimizer.scaling is not None
    assert torch.equal(second.optimizer.scaling.value, whole.optimizer.scaling.value)


def test_a_run_whose_first_epochs_only_find_the_scale_has_not_diverged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps an epoch, and a scale much too large: such an epoch learns nothing, and the run goes on."""
    monkeypatch.setattr(loop, "loss_scale", lambda precision, device: LossScale(device, start=2.0**24))
    record = run(tiny(precision="fp16", epochs=6))
    assert record["status"] == "finished" and 3 <= record["cost"]["skipped"] < 18
    assert math.isfinite(record["final"]["train_loss"])


@pytest.mark.parametrize("epochs", [1, 40])
def test_a_run_that_no_scale_can_help_has_diverged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """One that is not finite without any scaling, or that has reached its end without a single step."""

    class Hopeless(Trainer):
        def __post_init__(self) -> None:
            super().__post_init__()
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr("sam.training.run.Trainer", Hopeless)
    record = run(tiny(precision="fp16", epochs=epochs))
    assert record["status"] == "diverged"
    assert record["diverged_epoch"] == (1 if epochs == 1 else 6)  # 2^16 is halved three times an epoch: below 1 after 17 steps
