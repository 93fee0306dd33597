"""L^Asc against closed forms: on a quadratic R = rho ||g|| + rho^2 g'Hg / (2 ||g||^2), whatever the batches."""

import copy
import math

import numpy as np
import pytest
import torch
from sharpness_toys import Quadratics
from torch import Tensor, nn
from torch.nn import functional

from sam.sharpness import ascent
from sam.sharpness.dataset_loss import DatasetLoss

RHOS = [0.05, 0.5, 3.0]


def sample_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs


def problem(n: int = 11, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A (n, d, d) symmetric and indefinite, b (n, d), w (d,)): every sample, and so every batch, another quadratic."""
    draw = np.random.RandomState(seed)
    a = draw.randn(n, d, d)
    return a + a.transpose(0, 2, 1), draw.randn(n, d), draw.randn(d)


def dataset_loss(a: np.ndarray, b: np.ndarray, w: np.ndarray, batch_size: int) -> DatasetLoss:
    inputs = torch.from_numpy(np.concatenate([a, b[:, :, None]], axis=2))
    labels = torch.zeros(len(a), dtype=torch.int64)
    return DatasetLoss(Quadratics(torch.from_numpy(w)), inputs, labels, criterion=sample_losses, batch_size=batch_size)


def closed_form(a: np.ndarray, b: np.ndarray, w: np.ndarray, rho: float) -> tuple[float, float, float]:
    """(L(w), ||g||, R^Asc) of the mean of the samples."""
    h, c = a.mean(axis=0), b.mean(axis=0)
    g = h @ w + c
    length = math.sqrt(g @ g)
    return float(w @ h @ w / 2 + c @ w), length, float(rho * length + rho**2 * (g @ h @ g) / (2 * g @ g))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 500])  # 11 = 3 + 3 + 3 + 2 = 4 + 4 + 3
def test_full_is_the_closed_form_whatever_the_batches(batch_size: int) -> None:
    a, b, w = problem()
    value, length, results = ascent.full(dataset_loss(a, b, w, batch_size), RHOS)
    for rho, result in zip(RHOS, results, strict=True):
        start, norm, rise = closed_form(a, b, w, rho)
        assert result.rho == rho
        assert value.loss == pytest.approx(start, rel=1e-12)
        assert length == pytest.approx(norm, rel=1e-12)
        assert result.sharpness == pytest.approx(rise, rel=1e-11)
        assert result.ascent_loss == pytest.approx(start + rise, rel=1e-11)
        assert result.first_order == pytest.approx(rho * norm, rel=1e-12)
        assert result.stderr is None


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_batchwise_is_the_weighted_mean_of_the_batches_closed_forms(batch_size: int) -> None:
    a, b, w = problem()
    results = ascent.batchwise(dataset_loss(a, b, w, batch_size), RHOS)
    pieces = [slice(i, i + batch_size) for i in range(0, len(a), batch_size)]
    share = np.array([len(a[p]) / len(a) for p in pieces])
    for rho, result in zip(RHOS, results, strict=True):
        start, norm, rise = (np.array(column) for column in zip(*(closed_form(a[p], b[p], w, rho) for p in pieces), strict=True))
        mean = float(share @ rise)
        assert result.sharpness == pytest.approx(mean, rel=1e-11)
        assert result.ascent_loss == pytest.approx(float(share @ (start + rise)), rel=1e-11)
        assert result.first_order == pytest.approx(rho * float(share @ norm), rel=1e-11)
        assert result.stderr == pytest.approx(math.sqrt(len(rise) / (len(rise) - 1) * float((share**2) @ (rise - mean) ** 2)), rel=1e-9)
        whole = closed_form(a, b, w, rho)[2]
        assert abs(mean - whole) > 0.01 * abs(whole)  # the two notions differ here, so neither can pass for the other


def test_one_batch_is_the_full_measure_and_has_no_standard_error() -> None:
    a, b, w = problem()
    (result,) = ascent.batchwise(dataset_loss(a, b, w, 11), [0.5])
    assert result.sharpness == pytest.approx(closed_form(a, b, w, 0.5)[2], rel=1e-11)
    assert result.stderr is None


def test_it_is_undefined_where_the_gradient_vanishes() -> None:
    a, b, _ = problem()
    minimum = -np.linalg.solve(a.mean(axis=0), b.mean(axis=0))
    for w, shift in ((minimum, b), (np.zeros(4), np.zeros_like(b))):  # zero up to rounding, and exactly zero
        value, length, results = ascent.full(dataset_loss(a, shift, w, 3), RHOS)
        assert length < 1e-12
        assert value.loss == pytest.approx(closed_form(a, shift, w, 1.0)[0] if w.any() else 0.0, rel=1e-12)
        assert [(r.rho, r.ascent_loss, r.sharpness, r.first_order) for r in results] == [(rho, None, None, None) for rho in RHOS]


def test_batchwise_is_undefined_if_one_batch_has_no_gradient() -> None:
    a, b, w = problem(n=6)
    a[2:4], b[2:4] = 0, 0
    assert all(r.sharpness is None and r.ascent_loss is None for r in ascent.batchwise(dataset_loss(a, b, w, 2), RHOS))
    assert all(r.sharpness is not None for r in ascent.batchwise(dataset_loss(a, b, w, 3), RHOS))


def test_a_loss_that_is_not_finite_is_never_a_number() -> None:
    a, b, w = problem()
    a[5, 1, 2] = float("nan")
    value, length, results = ascent.full(dataset_loss(a, b, w, 3), RHOS)
    assert math.isnan(value.loss) and math.isnan(length)
    assert all(r.sharpness is None and r.ascent_loss is None and r.first_order is None for r in results)
    assert all(r.sharpness is None for r in ascent.batchwise(dataset_loss(a, b, w, 3), RHOS))


class Wall(nn.Module):
    """L(w) = -log(1 - w): no number beyond the wall at 1, g = 1 / (1 - w) before it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return -torch.log(1 - self.w * inputs)


@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_only_the_radius_beyond_the_wall_is_not_a_number(rho: float) -> None:
    model = Wall()
    ones = torch.ones(5, dtype=torch.float64)
    loss = DatasetLoss(model, ones, ones.long(), criterion=sample_losses, batch_size=2)
    for result in (ascent.full(loss, [rho])[2][0], ascent.batchwise(loss, [rho])[0]):
        assert result.sharpness is not None and result.ascent_loss is not None
        if rho < 0.5:
            assert result.sharpness == pytest.approx(-math.log(0.25) + math.log(0.5), rel=1e-12)
        else:
            assert math.isnan(result.sharpness) and math.isnan(result.ascent_loss)
    assert model.w.item() == 0.5


@pytest.mark.parametrize("batch_size", [5, 500])
def test_full_on_a_network_equals_a_step_by_hand(batch_size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    net(torch.randn(40, 1, 4, 4, dtype=torch.float64))  # running statistics that are not the initial ones
    x, y = torch.randn(13, 1, 4, 4, dtype=torch.float64), torch.randint(3, (13,))
    oracle = copy.deepcopy(net).eval()
    value = functional.cross_entropy(oracle(x), y)
    gradient = torch.autograd.grad(value, list(oracle.parameters()))
    length = torch.cat([g.flatten() for g in gradient]).norm()
    expected = []
    for rho in RHOS:
        moved = {n: p + rho * g / length for (n, p), g in zip(oracle.named_parameters(), gradient, strict=True)}
        expected.append(functional.cross_entropy(torch.func.functional_call(oracle, moved, (x,)), y).item() - value.item())
    results = ascent.full(DatasetLoss(net, x, y, batch_size=batch_size), RHOS)[2]
    assert [r.sharpness for r in results] == pytest.approx(expected, rel=1e-10)
