"""ZSharp against its formula in NumPy. The contract: SAM_PLUGINS=zsharp python -m pytest ../../tests -m contract -k zsharp."""

import numpy as np
import pytest
import torch
import zsharp
from torch import nn

from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig


def quadratic(w: nn.Parameter, curvature: torch.Tensor):
    def closure() -> torch.Tensor:
        loss = (curvature * w**2).sum() / 2
        loss.backward()
        return loss

    return closure


def test_a_step_is_the_formula() -> None:
    curvature, start = np.arange(1.0, 9.0), np.array([1, -1, 2, 0.5, -3, 1.1, 0.1, 1])
    w = nn.Parameter(torch.tensor(start))
    optimizer = zsharp.ZSharp(torch.optim.SGD([w], lr=0.1), rho=0.5, percentile=0.75)
    optimizer.step(quadratic(w, torch.tensor(curvature)))
    g = curvature * start
    z = (g - g.mean()) / g.std()
    f = np.where(np.abs(z) >= np.sort(np.abs(z))[5], g, 0)  # the 6th of 8 by size: 75%
    assert (f != 0).sum() == 3
    np.testing.assert_allclose(w.detach().numpy(), start - 0.1 * curvature * (start + 0.5 * f / np.linalg.norm(f)), rtol=1e-12)


def test_percentile_zero_is_sam() -> None:
    g = torch.tensor([[3.0, -1.0], [0.5, 0.0]])
    assert torch.equal(zsharp.filtered(g, 0.0), g)


def test_layers_are_filtered_one_by_one_and_a_scale_changes_nothing() -> None:
    g = torch.arange(100.0) ** 2
    kept = zsharp.filtered(g, 0.9) != 0
    assert kept.sum() == 11 and torch.equal(kept, zsharp.filtered(1024 * g, 0.9) != 0)
    assert zsharp.filtered(torch.tensor([2.0]), 0.95) == 2  # one component stays


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_shows(bad: float) -> None:
    assert not zsharp.filtered(torch.tensor([1.0, bad, 2.0]), 0.5).isfinite().all()


def test_its_key() -> None:
    config = OptimizerConfig.of(method="zsharp", percentile=0.5)
    assert isinstance(config, zsharp.ZSharpConfig) and config.passes == 2
    with pytest.raises(ConfigError, match=r"optimizer.percentile=1.0: must be"):
        OptimizerConfig.of(method="zsharp", percentile=1.0)
