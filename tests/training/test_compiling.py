"""torch.compile agrees with eager within a stated bound, moves with the weights, and leaves names and evaluation alone."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import nn

from data.image_data import ImageData
from sam.config import ConfigError
from sam.runs.identity import run_fingerprint
from sam.settings import TrainConfig
from sam.training import graphs, loop
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]


def flat(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def perceptron(config: TrainConfig, data: ImageData) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(data.train_images[0].numel(), 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 10))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_a_compiled_epoch_agrees_with_an_eager_one(tiny: Tiny, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 steps of SAM. Bound: 1e-4 of the way gone."""
    monkeypatch.setattr(loop, "build_model", perceptron)  # a quarter of a minute to compile; a WideResNet takes one
    made = [trainer(tiny(batch_size=24, compile=mode)) for mode in ("none", "default")]
    start = flat(made[0])
    rows = [one.run_epoch(lambda passes: None) for one in made]
    ends = [flat(one) for one in made]
    assert (ends[0] - start).norm() > 0 and (ends[1] - ends[0]).norm() < 1e-4 * (ends[0] - start).norm()
    for key in ("train_loss", "perturbed_loss", "test_loss", "grad_norm"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-4), key
    assert rows[1]["perturbed_loss"] > rows[1]["train_loss"]  # the compiled twin saw the weights move
    assert list(made[1].model.state_dict()) == list(made[0].model.state_dict())
    assert made[1].objective.model is not made[1].model and made[0].objective.model is made[0].model


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_the_ninth_network_of_a_process_is_compiled_too() -> None:
    """torch's limit of 8 would leave it eager, with other digits than the same run has in a process of its own."""
    config = torch._dynamo.config
    with config.patch({name: getattr(config, name) for name in ("recompile_limit", "fail_on_recompile_limit_hit")}):  # put back after it
        torch._dynamo.utils.counters.clear()
        for size in range(2, 12):
            graphs.compiled(Scaled(), "default", torch.device("cpu"))(torch.ones(size))
        assert torch._dynamo.utils.counters["frames"]["ok"] == 10


def test_compiled_runs_have_an_identity_of_their_own(tiny: Tiny) -> None:
    assert run_fingerprint(tiny(compile="default")) != run_fingerprint(tiny()) == run_fingerprint(tiny(compile="none"))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setattr(graphs.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"compile=default: compiling for a CPU needs g\+\+ or clang\+\+"):
        graphs.compiled(torch.nn.Linear(2, 2), "default", torch.device("cpu"))
    with pytest.raises(ConfigError, match="compile=fast: must be one of none, default, max-autotune-no-cudagraphs"):
        tiny(compile="fast")
