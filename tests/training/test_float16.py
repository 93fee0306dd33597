"""Training in float16 autocast with loss scaling: near float64, overflows left out of the record, bitwise resumable."""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam.core.device import LossScale
from sam.runs.run import run
from sam.settings import TrainConfig
from sam.training import loop
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]

UNIT = 2.0**-11  # float16: a rounding changes a number by at most this share of it
DRAWS = 16


class Noisy(torch.autograd.Function):
    """x, and in backward its gradient, each number times 1 + d with d uniform in ±UNIT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, draws: torch.Generator) -> Tensor:
        ctx.draws = draws
        return x * (1 + UNIT * (2 * torch.rand(x.shape, generator=draws, dtype=x.dtype) - 1))

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return Noisy.forward(ctx, gradient[0], ctx.draws), None


class NoisyPasses(TorchFunctionMode):
    """Monte Carlo arithmetic (Parker 1997): every number that a float16 forward rounds (results and weights), and every gradient of one."""

    def __init__(self, draws: torch.Generator) -> None:
        super().__init__()
        self.draws = draws

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ("conv2d", "linear", "batch_norm", "add", "mean"):  # a ReLU rounds nothing
            return func(*args, **kwargs or {})
        args = [Noisy.apply(a, self.draws) if isinstance(a, nn.Parameter) and a.ndim > 1 else a for a in args]
        return Noisy.apply(func(*args, **kwargs or {}), self.draws)


def in_float64(made: Trainer, noise: int | None) -> dict[str, float]:
    """The row of an epoch in float64, without its evaluation; `noise`: the seed of random roundings as large as float16's, or None."""
    forward = made.model.double().forward
    draws = torch.Generator().manual_seed(noise or 0)

    def wide(x: Tensor) -> Tensor:
        with nullcontext() if noise is None else NoisyPasses(draws):
            return forward(x.double())

    made.model.forward = wide
    made._evaluate = dict  # type: ignore[method-assign]
    return made.run_epoch(lambda passes: None)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.slow
def test_float16_is_as_near_float64_as_its_roundings_allow(tiny: Tiny, trainer: Make, steps: int) -> None:
    """The epoch in float64 is the reference, and what DRAWS such epochs with random roundings do to each number gives its tolerance: their
    deviations have the size of float16's own, in whatever order a processor adds. Five times their root mean square: were they normal, one
    processor in 10,000 would be outside (Student's t, 16 degrees of freedom). In one step that is 0.02% of the loss and 2% of the
    gradient's norm (bfloat16's roundings, eight times as wide, are outside); after three steps at a learning rate of 0.1, 2% and 15%.
    """
    make = lambda precision: trainer(tiny(precision=precision, dataset={"train_size": 48}, batch_size={1: 48, 3: 20}[steps]))
    exact = in_float64(make("fp32"), None)
    noisy = [in_float64(make("fp32"), seed) for seed in range(1, DRAWS + 1)]
    found = make("fp16").run_epoch(lambda passes: None)
    for key in ("train_loss", "perturbed_loss", "grad_norm"):
        tolerance = 5 * math.sqrt(sum((row[key] - exact[key]) ** 2 for row in noisy) / DRAWS)
        assert 0 < abs(found[key] - exact[key]) <= tolerance, key
    assert found["skipped"] == 0


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


def test_what_was_skipped_before_a_run_was_stopped_is_no_divergence(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps than an epoch has were skipped by the checkpoint that it continues from."""
    monkeypatch.setattr(loop, "loss_scale", lambda precision, device: LossScale(device, start=2.0**24))
    config, train = tiny(precision="fp16", epochs=6), Trainer.run_epoch
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Trainer, "run_epoch", lambda self, *given: 1 / 0 if self.epoch == 5 else train(self, *given))
        run(config)
    record = run(config)
    assert record["status"] == "finished" and record["epochs"] == 6 and record["cost"]["skipped"] >= 3


@pytest.mark.parametrize("epochs", [1, 40])
def test_a_run_that_no_scale_can_help_has_diverged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """One that is not finite without any scaling, or that has reached its end without a single step."""

    class Hopeless(Trainer):
        def __post_init__(self) -> None:
            super().__post_init__()
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr("sam.runs.run.Trainer", Hopeless)
    record = run(tiny(precision="fp16", epochs=epochs))
    assert record["status"] == "diverged"
    assert record["diverged_epoch"] == (1 if epochs == 1 else 6)  # 2^16 is halved three times an epoch: below 1 after 17 steps
