"""The per-sample losses against sums by hand in NumPy, of a linear model, with its gradient and the label channel's expectation."""

import numpy as np
import pytest
import torch

from sam.core.criteria import CRITERIA, cross_entropy, mse, under_label_noise

N, K, D = 7, 4, 3
DRAW = np.random.RandomState(2)
X, W, Y = DRAW.randn(N, D), DRAW.randn(K, D), DRAW.randint(K, size=N)


def one_hot(smoothing: float) -> np.ndarray:
    return np.array([[(1 - smoothing) * (k == y) + smoothing / K for k in range(K)] for y in Y])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_squared_error_is_a_mean_over_classes_and_its_gradient_is_linear(smoothing: float) -> None:
    w = torch.from_numpy(W).requires_grad_()
    outputs = torch.from_numpy(X) @ w.T
    losses = mse(outputs, torch.from_numpy(Y), label_smoothing=smoothing)
    rest = X @ W.T - one_hot(smoothing)
    assert losses.detach().numpy() == pytest.approx((rest**2).sum(axis=1) / K, rel=1e-12)
    mean = mse(outputs, torch.from_numpy(Y), label_smoothing=smoothing, reduction="mean")
    assert mean.item() == pytest.approx((rest**2).sum() / (N * K), rel=1e-12)
    (gradient,) = torch.autograd.grad(mean, w)
    assert gradient.numpy() == pytest.approx(2 / (N * K) * rest.T @ X, rel=1e-12)


def test_outputs_of_zeros_lose_one_over_the_classes() -> None:
    assert mse(torch.zeros(2, 5), torch.tensor([0, 3])).tolist() == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_is_that_of_the_smoothed_label(smoothing: float) -> None:
    z = X @ W.T
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    losses = cross_entropy(torch.from_numpy(z), torch.from_numpy(Y), label_smoothing=smoothing)
    assert losses.numpy() == pytest.approx(-(one_hot(smoothing) * logp).sum(axis=1), rel=1e-12)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_label_channel_is_the_expectation_over_every_label(name: str, noise: float) -> None:
    outputs, criterion = torch.from_numpy(X @ W.T), CRITERIA[name]
    expected = [
        sum((1 - noise if k == y else noise / (K - 1)) * criterion(outputs[i : i + 1], torch.tensor([k])).item() for k in range(K))
        for i, y in enumerate(Y)
    ]
    assert under_label_noise(criterion, noise)(outputs, torch.from_numpy(Y)).numpy() == pytest.approx(expected, rel=1e-12)


def test_the_squared_error_under_a_channel_in_closed_form() -> None:
    """E (o - e_y')² = o² - 2 o p + p for each class, with p the channel's probabilities: no squared error of a smoothed label."""
    o, p = X @ W.T, np.where(one_hot(0.0) == 1, 0.7, 0.1)
    ours = under_label_noise(mse, 0.3)(torch.from_numpy(o), torch.from_numpy(Y))
    assert ours.numpy() == pytest.approx((o**2 - 2 * o * p + p).mean(axis=1), rel=1e-12)


@pytest.mark.parametrize("name", CRITERIA)
def test_short_outputs_under_autocast_are_compared_in_float32(name: str) -> None:
    outputs = torch.from_numpy(X @ W.T).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = CRITERIA[name](outputs, torch.from_numpy(Y))
    assert losses.dtype == torch.float32
    assert torch.equal(losses, CRITERIA[name](outputs.float(), torch.from_numpy(Y)))
