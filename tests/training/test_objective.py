"""The closures of a step, and the sums over an epoch, against a softmax in NumPy."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from sam.optimizers.settings import OptimizerConfig
from sam.optimizers.xsam import XSAM
from sam.training.objective import Objective


def losses(w: np.ndarray, x: np.ndarray, y: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    z = x @ w.T
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -(1 - smoothing) * logp[np.arange(len(y)), y] - smoothing * logp.mean(axis=1)


def problem(n: int) -> tuple[nn.Linear, np.ndarray, np.ndarray]:
    draw = np.random.RandomState(4)
    model = nn.Linear(3, 4, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(draw.randn(4, 3)))
    return model, draw.randn(n, 3), draw.randint(4, size=n)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("m", [None, 2])
def test_totals_are_means_over_samples_of_the_first_and_the_last_pass(smoothing: float, m: int | None) -> None:
    """7 samples in batches of 3, 3, 1 (m = 2: groups of 2 + 1, 2 + 1, 1); three passes a step, at three points."""
    model, x, y = problem(7)
    objective = Objective(model, nullcontext, smoothing)
    w = model.weight.detach().numpy().copy()
    points = [w, w + 0.5, w * 2]
    rounding = 1e-6 if smoothing else 1e-12  # with smoothing the loss noted is taken anew, in float32
    for epoch in range(2):  # the second after a reset: nothing of the first may be left in it
        objective.reset()
        first = last = right = 0.0
        for start in range(0, 7, 3):
            xb, yb = x[start : start + 3], y[start : start + 3]
            size = m or len(yb)
            groups = [(xb[i : i + size], yb[i : i + size]) for i in range(0, len(yb), size)]
            closures = [objective.closure(torch.from_numpy(a), torch.from_numpy(b)) for a, b in groups]
            for closure, (a, b) in zip(closures, groups, strict=True):
                for point in points:
                    with torch.no_grad():
                        model.weight.copy_(torch.from_numpy(point + epoch))
                        closure(backward=False)  # a probe: counts nowhere
                    model.weight.grad = None
                    assert closure().item() == pytest.approx(losses(point + epoch, a, b, smoothing).mean(), rel=1e-12)
                    assert model.weight.grad is not None
                first += losses(points[0] + epoch, a, b).sum()
                last += losses(points[-1] + epoch, a, b).sum()
                right += (np.argmax(a @ (points[0] + epoch).T, axis=1) == b).sum()
            objective.settle()
        totals = objective.totals()
        assert totals == pytest.approx(
            {"train_loss": first / 7, "train_accuracy": 100 * right / 7, "perturbed_loss": last / 7}, rel=rounding
        )


def test_the_gradient_is_that_of_the_smoothed_loss() -> None:
    model, x, y = problem(5)
    objective = Objective(model, nullcontext, 0.2)
    objective.closure(torch.from_numpy(x), torch.from_numpy(y))()
    z = x @ model.weight.detach().numpy().T
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    target = 0.8 * np.eye(4)[y] + 0.2 / 4
    assert model.weight.grad is not None
    assert model.weight.grad.numpy() == pytest.approx((p - target).T @ x / 5, rel=1e-10)


def test_a_probe_does_not_backpropagate() -> None:
    model, x, y = problem(5)
    objective = Objective(model, nullcontext)
    assert objective.closure(torch.from_numpy(x), torch.from_numpy(y))(backward=False).item() == pytest.approx(losses_at(model, x, y))
    assert model.weight.grad is None


def losses_at(model: nn.Linear, x: np.ndarray, y: np.ndarray) -> float:
    return float(losses(model.weight.detach().numpy(), x, y).mean())


def test_xsams_probes_are_not_recorded() -> None:
    """The record of an XSAM step is that of its two passes: the loss at w, and at w + rho g/||g||."""
    model, x, y = problem(6)
    objective = Objective(model, nullcontext)
    optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, alphas=OptimizerConfig.of(method="xsam").alpha_grid)
    w = model.weight.detach().numpy().copy()
    z = x @ w.T
    g = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) - np.eye(4)[y]).T @ x / 6
    optimizer.step([objective.closure(torch.from_numpy(x), torch.from_numpy(y))])
    objective.settle()
    assert len(optimizer.probe_losses) == 21
    totals = objective.totals()
    assert totals["train_loss"] == pytest.approx(losses(w, x, y).mean(), rel=1e-12)
    assert totals["perturbed_loss"] == pytest.approx(losses(w + 0.3 * g / np.linalg.norm(g), x, y).mean(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_squared_error_is_trained_smoothed_and_noted_plain(smoothing: float) -> None:
    model, x, y = problem(5)
    objective = Objective(model, nullcontext, smoothing, loss="mse", micro_batch=2)
    outputs = x @ model.weight.detach().numpy().T
    target = (1 - smoothing) * np.eye(4)[y] + smoothing / 4
    loss = objective.closure(torch.from_numpy(x), torch.from_numpy(y))()
    assert loss.item() == pytest.approx(((outputs - target) ** 2).mean(), rel=1e-12)
    assert model.weight.grad is not None
    assert model.weight.grad.numpy() == pytest.approx(2 * (outputs - target).T @ x / 20, rel=1e-10)
    objective.settle()
    assert objective.totals()["train_loss"] == pytest.approx(((outputs - np.eye(4)[y]) ** 2).mean(), rel=1e-6)
