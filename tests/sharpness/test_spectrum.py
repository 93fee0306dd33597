"""The notion "spectrum": moments, mass and shape of the density of Hessians that are known exactly, in float64."""

import math
from typing import Any

import pytest
import torch
from sharpness_toys import dense
from torch import Tensor, nn

from sam.config import ConfigError
from sam.sharpness import spectrum
from sam.sharpness.context import Context, Notion, Result, Sizes, Split
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.settings import SharpnessConfig, SpectrumConfig


class Bowl(nn.Module):
    """Sample i has the loss c_i w'Hw / 2; the c_i have mean 1."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = h
        self.w = nn.Parameter(torch.ones(len(h), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (self.w @ self.h @ self.w / 2)


def on(h: Tensor, seed: int = 0, **options: Any) -> tuple[Result, list[float], SharpnessConfig]:
    """(result, units reported, settings) for a Hessian h, with batches of 2, 2 and 1."""
    config = SharpnessConfig.of(notions=["spectrum"], seed=seed, spectrum=SpectrumConfig(**({"subset": None} | options)))
    x, done = torch.tensor([0.2, 1.5, 1.3, 0.0, 2.0], dtype=torch.float64), []
    task = Context(Bowl(h), Split(x, x.long()), None, config, progress=done.append)
    loss = DatasetLoss(task.model, x, x.long(), criterion=lambda outputs, _: outputs, batch_size=2)
    task.loss = lambda *args, **kwargs: loss  # type: ignore[method-assign]
    return Notion("spectrum").measure(task), done, config


def matrix(values: Tensor) -> Tensor:
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    return q @ torch.diag(values) @ q.T


VALUES = torch.cat([torch.linspace(-0.5, 0.5, 114), torch.tensor([-2.0, 3.0, 4.0, 6.0, 9.0, 15.0])]).double()
MEAN, SQUARE = float(VALUES.mean()), float((VALUES**2).mean())


def test_the_moments_are_within_their_sampling_error() -> None:
    h = matrix(VALUES)
    result, _, _ = on(h, probes=20, steps=20)
    for name, exact, a in (("spectrum_mean", MEAN, h), ("spectrum_second_moment", SQUARE, h @ h)):
        value, error = result.values[name], result.values[f"{name}_stderr"]
        assert value is not None and error is not None
        sampling = math.sqrt(2 * float(((a - torch.diag(a.diagonal())) ** 2).sum()) / 20) / len(a)
        assert abs(value - exact) < 4 * sampling and error == pytest.approx(sampling, rel=0.6), name
    probes = dict.fromkeys(range(1, 21), 0.0)
    ritz = result.series["spectrum_ritz"]
    for p, weight in zip(ritz["probe"], ritz["weight"], strict=True):
        assert p is not None and weight is not None and weight >= 0
        probes[int(p)] += weight
    assert list(probes.values()) == pytest.approx([1.0] * 20, rel=1e-12)


@pytest.mark.slow
def test_the_standard_error_of_the_mean_is_calibrated() -> None:
    h, scores = matrix(VALUES), []
    for seed in range(40):
        values = on(h, seed=seed, probes=12, steps=2)[0].values
        scores.append((values["spectrum_mean"] - MEAN) / values["spectrum_mean_stderr"])  # type: ignore[operator]
    z = torch.tensor(scores)
    assert float(z.std()) == pytest.approx(math.sqrt(11 / 9), abs=0.4)  # three standard errors of a deviation
    assert abs(float(z.mean())) < 0.6


def test_on_a_diagonal_hessian_signs_see_every_eigenvalue_alike() -> None:
    """Each probe then weighs every eigenvalue 1/D, so that moments are exact, whatever the draw."""
    result, _, _ = on(torch.diag(torch.tensor([-2.0, 1.0, 1.0, 4.0, 4.0, 4.0]).double()), probes=2, steps=10)
    assert result.values["spectrum_mean"] == pytest.approx(2.0, rel=1e-12)
    assert result.values["spectrum_second_moment"] == pytest.approx(9.0, rel=1e-12)
    assert result.values["spectrum_mean_stderr"] == pytest.approx(0.0, abs=1e-12)
    ritz = result.series["spectrum_ritz"]
    assert ritz["probe"] == [1, 1, 1, 2, 2, 2]
    assert ritz["eigenvalue"] == pytest.approx([-2, 1, 4] * 2) and ritz["weight"] == pytest.approx([1 / 6, 1 / 3, 1 / 2] * 2)


@pytest.mark.parametrize("probes", [1, 3])
def test_the_curve_is_the_smoothed_density_and_has_mass_1(probes: int) -> None:
    result, _, _ = on(torch.diag(torch.tensor([-2.0, 1.0, 1.0, 4.0, 4.0, 4.0]).double()), probes=probes, steps=10, points=400, width=0.02)
    curve, values = result.series["spectrum_density"], result.values
    sigma = 0.02 * 6
    assert values["spectrum_width"] == pytest.approx(sigma)
    assert values["spectrum_mass"] == pytest.approx(1.0, abs=1e-5)
    x = torch.tensor(curve["eigenvalue"], dtype=torch.float64)
    assert len(x) == 400 and float(x[0]) == pytest.approx(-2 - 5 * sigma) and float(x[-1]) == pytest.approx(4 + 5 * sigma)
    bells = [torch.distributions.Normal(torch.tensor(float(m)).double(), sigma).log_prob(x).exp() for m in (-2, 1, 4)]
    assert curve["density"] == pytest.approx((bells[0] / 6 + bells[1] / 3 + bells[2] / 2).tolist(), abs=1e-9)


def test_too_few_points_for_the_width_show_in_the_mass() -> None:
    assert abs(on(torch.diag(VALUES), points=20, width=0.001)[0].values["spectrum_mass"] - 1) > 0.1  # type: ignore[operator]


@pytest.mark.slow
def test_the_ends_and_the_share_of_outliers_are_seen() -> None:
    result, _, _ = on(matrix(VALUES), probes=30, steps=40)
    assert result.values["spectrum_largest"] == pytest.approx(15, rel=1e-6)
    assert result.values["spectrum_smallest"] == pytest.approx(-2, rel=1e-4)
    ritz = result.series["spectrum_ritz"]
    above = sum(w for x, w in zip(ritz["eigenvalue"], ritz["weight"], strict=True) if x > 2) / 30  # type: ignore[operator, misc]
    assert above == pytest.approx(5 / 120, rel=0.5)


def test_one_probe_has_no_standard_error() -> None:
    values = on(matrix(VALUES), probes=1)[0].values
    assert values["spectrum_mean_stderr"] is None and values["spectrum_second_moment_stderr"] is None
    assert values["spectrum_probes"] == 1


@pytest.mark.parametrize("level", [0.0, -3.0])
def test_a_single_eigenvalue_has_mass_and_no_curve(level: float) -> None:
    result, _, _ = on(level * torch.eye(50, dtype=torch.float64))
    assert result.values["spectrum_mean"] == result.values["spectrum_largest"] == pytest.approx(level)
    assert result.values["spectrum_mass"] is None and result.values["spectrum_width"] is None
    assert result.series["spectrum_density"] == {"eigenvalue": [], "density": []}
    assert result.series["spectrum_ritz"]["weight"] == pytest.approx([1.0, 1.0])


def test_a_loss_that_is_not_finite_is_said_and_has_no_spectrum() -> None:
    h = torch.diag(VALUES)
    h[3, 4] = math.nan
    result, done, config = on(h)
    assert math.isnan(result.values["train_loss"])  # type: ignore[arg-type]
    assert all(value is None for name, value in result.values.items() if name != "train_loss")
    assert all(column == [] for series in result.series.values() for column in series.values())
    assert sum(done) <= spectrum.work(Sizes(5, 0), config)


def test_no_spectrum_is_made_of_those_probes_that_happened_to_be_finite() -> None:
    config = SharpnessConfig.of(notions=["spectrum"], spectrum=SpectrumConfig(probes=3, steps=2, subset=None))
    x, calls = torch.ones(1, dtype=torch.float64), []

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return outputs * (math.nan if len(calls) == 5 else 1.0)  # the value, two products of the first probe, two of the second

    task = Context(Bowl(matrix(VALUES)), Split(x, x.long()), None, config)
    loss = DatasetLoss(task.model, x, x.long(), criterion=criterion)
    task.loss = lambda *args, **kwargs: loss  # type: ignore[method-assign]
    result = Notion("spectrum").measure(task)
    assert len(calls) == 5
    assert all(value is None for name, value in result.values.items() if name != "train_loss")
    assert all(column == [] for series in result.series.values() for column in series.values())


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)).double()
    net(torch.randn(50, 5, dtype=torch.float64))
    return net.eval()


def on_network(subset: int | None = None, **options: Any) -> tuple[Result, list[float], SharpnessConfig, Split]:
    generator, done = torch.Generator().manual_seed(1), []
    data = Split(2 * torch.randn(23, 5, dtype=torch.float64, generator=generator), torch.randint(4, (23,), generator=generator))
    own = SpectrumConfig(subset=subset, **options)
    config = SharpnessConfig.of(notions=["spectrum"], batch_size=7, spectrum=own)
    return Notion("spectrum").measure(Context(network(), data, None, config, progress=done.append)), done, config, data


@pytest.mark.slow
def test_on_a_network_the_moments_are_those_of_the_dense_hessian() -> None:
    result, _, _, data = on_network(probes=40, steps=12)
    _, h = dense(network(), data)
    exact = {"spectrum_mean": float(h.diagonal().mean()), "spectrum_second_moment": float((h**2).sum()) / len(h)}
    for name, value in exact.items():
        error = result.values[f"{name}_stderr"]
        assert error is not None and abs(result.values[name] - value) < 4 * error < 0.6 * value, name  # type: ignore[operator]


@pytest.mark.parametrize(("subset", "suffix"), [(None, ""), (9, "[subset=9]"), (23, ""), (500, "")])
def test_names_say_the_subset_where_one_is_taken(subset: int | None, suffix: str) -> None:
    result = on_network(subset, steps=3)[0]
    named = ["train_loss", *(f"spectrum_{x}" for x in ("smallest", "largest", "probes", "width", "mass"))]
    named += [f"spectrum_{moment}{e}" for moment in ("mean", "second_moment") for e in ("", "_stderr")]
    assert set(result.values) == {f"{name}{suffix}" for name in named}
    assert set(result.series) == {f"spectrum_density{suffix}", f"spectrum_ritz{suffix}"}


@pytest.mark.parametrize("options", [{}, {"steps": 500}, {"subset": 9, "probes": 3, "steps": 4}])
def test_work_is_what_is_reported(options: dict[str, Any]) -> None:
    _, done, config, _ = on_network(**options)
    own = config.spectrum
    assert sum(done) == (1 + 7 * own.probes * own.steps) * (own.subset or 23) == spectrum.work(Sizes(23, 0), config)


def test_twice_is_the_same_and_another_seed_is_not() -> None:
    h = matrix(VALUES)
    assert on(h)[0] == on(h)[0]
    assert on(h)[0].values["spectrum_mean"] != on(h, seed=1)[0].values["spectrum_mean"]


def test_a_width_that_is_no_share_is_refused() -> None:
    for width in (0.0, 1.5):
        with pytest.raises(ConfigError, match=r"sharpness\.spectrum\.width"):
            SpectrumConfig(width=width)
