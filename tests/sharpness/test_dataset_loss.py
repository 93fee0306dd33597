"""The mean loss over a data set: value and gradient against dense autograd, and the label channel against its expectation by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam.core import vectors
from sam.core.criteria import cross_entropy, under_label_noise
from sam.sharpness.dataset_loss import DatasetLoss


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 5)).double()
    net(3 + 2 * torch.randn(50, 2, 4, 4, dtype=torch.float64))
    return net


def samples(n: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(n, 2, 4, 4, dtype=torch.float64, generator=generator), torch.randint(5, (n,), generator=generator)


def flat(tensors: object) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23, 500])
def test_eval_mode_is_one_dense_batch(batch_size: int) -> None:
    net, (x, y) = network(), samples()
    oracle = copy.deepcopy(net).eval()
    logits = oracle(x)
    expected = functional.cross_entropy(logits, y)
    gradient = flat(torch.autograd.grad(expected, list(oracle.parameters())))
    loss = DatasetLoss(net, x, y, batch_size=batch_size)
    with loss.measuring():
        value, ours = loss.value_and_gradient()
        plain = loss.value()
    assert value.loss == pytest.approx(expected.item(), rel=1e-12)
    assert plain.loss == pytest.approx(expected.item(), rel=1e-12)
    assert value.samples == 23
    assert value.accuracy == plain.accuracy == pytest.approx(100 * (logits.argmax(1) == y).double().mean().item())
    assert torch.allclose(flat(ours), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_size", [4, 7])
def test_train_mode_normalises_each_batch_in_the_order_given(batch_size: int) -> None:
    net, (x, y) = network(), samples()
    oracle = copy.deepcopy(net).train()
    oracle[3].eval()  # dropout is off in both modes
    total, gradient = 0.0, 0.0
    for first in range(0, 23, batch_size):
        xb, yb = x[first : first + batch_size], y[first : first + batch_size]
        part = functional.cross_entropy(oracle(xb), yb, reduction="sum") / 23
        total += part.item()
        gradient = gradient + flat(torch.autograd.grad(part, list(oracle.parameters())))
    loss = DatasetLoss(net, x, y, batch_size=batch_size, batchnorm="train")
    with loss.measuring():
        value, ours = loss.value_and_gradient()
        turned = DatasetLoss(net, x.flip(0), y.flip(0), batch_size=batch_size, batchnorm="train").value().loss
    with DatasetLoss(net, x, y).measuring():
        in_eval = DatasetLoss(net, x, y).value().loss
    assert value.loss == pytest.approx(total, rel=1e-12)
    assert torch.allclose(flat(ours), gradient, rtol=1e-11, atol=1e-13)
    assert abs(turned - total) > 1e-4 and abs(in_eval - total) > 1e-4  # order, batch and mode do matter here


def test_the_sum_over_many_samples_is_taken_in_float64() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(1.0))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.w * inputs

    inputs = torch.cat([torch.full((1,), 2.0**24), torch.ones(4095)])  # float32 would lose every 1 added to 2^24
    loss = DatasetLoss(Constant(), inputs, torch.zeros(4096, dtype=torch.int64), criterion=lambda out, _: out, batch_size=1)
    assert loss.value().loss * 4096 == 2.0**24 + 4095
    assert math.isnan(loss.value().accuracy)  # no class scores, no accuracy


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
@pytest.mark.parametrize("batch_size", [4, 7, 500])
def test_the_losses_of_the_samples_come_in_their_order_and_have_the_mean_of_the_whole(batch_size: int, batchnorm: str) -> None:
    net, (x, y), done = network(), samples(), []
    loss = DatasetLoss(net, x, y, batch_size=batch_size, batchnorm=batchnorm, progress=done.append)
    with loss.measuring():
        losses, whole = loss.criterion(loss.outputs(), loss.labels), loss.value()
        expected = [functional.cross_entropy(loss.batch_outputs(a), b, reduction="none") for a, b in loss.batches()]
    assert losses.shape == (23,) and torch.equal(losses, torch.cat(expected).detach())
    assert losses.mean().item() == pytest.approx(whole.loss, rel=1e-13)
    assert sum(done) == 2 * 23


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_notion_from_outside_the_variance_of_the_gradient_over_batches(batch_size: int) -> None:
    """sum over batches of (n_i/n) ||g_i - g||², with nothing but the verbs of DatasetLoss, against dense autograd."""
    net, (x, y) = network(), samples()
    loss = DatasetLoss(net, x, y, batch_size=batch_size)
    variance = 0.0
    with loss.measuring():
        _, mean = loss.value_and_gradient()
        for inputs, labels in loss.batches():
            _, gradient = loss.batch_gradient(inputs, labels, samples=len(labels))
            vectors.add_(gradient, mean, -1.0)
            variance += len(labels) / len(y) * vectors.norm(gradient).item() ** 2
    oracle = copy.deepcopy(net).eval()
    rows = [flat(torch.autograd.grad(functional.cross_entropy(oracle(a), b), list(oracle.parameters()))) for a, b in loss.batches()]
    weights = torch.tensor([len(b) / 23 for _, b in loss.batches()], dtype=torch.float64)
    spread = torch.stack(rows) - (weights[:, None] * torch.stack(rows)).sum(0)
    assert variance == pytest.approx((weights * spread.square().sum(1)).sum().item(), rel=1e-10)


def test_it_refuses_an_empty_or_uneven_set() -> None:
    for n, labels in ((0, 0), (3, 2)):
        with pytest.raises(ValueError, match=f"{n} inputs and {labels} labels"):
            DatasetLoss(nn.Linear(1, 2), torch.zeros(n, 1), torch.zeros(labels, dtype=torch.int64))


# ---------------------------------------------------------------------------------------------------------- the label channel


def logits_and_labels(k: int = 7, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(3)
    return 4 * draw.randn(n, k), draw.randint(k, size=n)


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.6, 1.0])
def test_noisy_cross_entropy_is_the_expectation_over_the_channel(noise: float) -> None:
    z, y = logits_and_labels()
    k = z.shape[1]
    channel = np.full((k, k), noise / (k - 1))  # row: true label, column: label seen
    np.fill_diagonal(channel, 1 - noise)
    expected = -(channel[y] * log_softmax(z)).sum(axis=1)
    ours = under_label_noise(cross_entropy, noise)(torch.from_numpy(z), torch.from_numpy(y))
    assert ours.shape == (len(y),)
    assert ours.numpy() == pytest.approx(expected, rel=1e-12)


def test_without_noise_it_is_the_plain_cross_entropy() -> None:
    z, y = logits_and_labels()
    expected = -log_softmax(z)[np.arange(len(y)), y]
    for criterion in (cross_entropy, under_label_noise(cross_entropy, 0.0)):
        assert criterion(torch.from_numpy(z), torch.from_numpy(y)).numpy() == pytest.approx(expected, rel=1e-12)


def test_a_channel_that_tells_nothing_ignores_the_label() -> None:
    z, y = logits_and_labels()
    k = z.shape[1]
    for labels in (y, (y + 1) % k):
        ours = under_label_noise(cross_entropy, (k - 1) / k)(torch.from_numpy(z), torch.from_numpy(labels))
        assert ours.numpy() == pytest.approx(-log_softmax(z).mean(axis=1), rel=1e-12)
