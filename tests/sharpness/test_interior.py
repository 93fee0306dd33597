"""Interior maxima against losses whose tops are known: a quadratic's, a concave one's, a sine's; and the shares of N-step ascent."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules, measure, net_context, quadratic, random_problem
from torch import Tensor, nn

import sam.sharpness
from sam.config import ConfigError
from sam.sharpness import interior
from sam.sharpness.context import Context, Measures, Sizes, Split
from sam.sharpness.derived import derived
from sam.sharpness.settings import InteriorConfig, MaximumConfig, NStepConfig, SharpnessConfig

PLACES = ("ray", "ball")


class Waves(nn.Module):
    """Batches of two: sample i has the cross-entropy 4 + sin(k_i w_1) / k_i, so that a batch of equal k has its top at w_1 = pi / (2 k)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        s = torch.log(torch.expm1(4 + torch.sin(inputs * self.w[0]) / inputs))
        return torch.stack([torch.zeros_like(s), s], dim=1)


def waves(k: list[float], **options: object) -> Context:
    inputs = torch.tensor(k, dtype=torch.float64)
    return Context(Waves(), Split(inputs, torch.zeros(len(k), dtype=torch.int64)), None, SharpnessConfig.of(**options))


def test_a_convex_loss_has_its_maximum_on_the_boundary() -> None:
    h, g, w = random_problem()
    values = measure("interior", quadratic(h @ h / 10, g, w, n=1, rho=[0.05, 2.0]))
    for rho in (0.05, 2):
        for place in PLACES:
            assert values[f"interior_{place}[rho={rho:g}]"] == 0
            assert values[f"interior_{place}_length[rho={rho:g}]"] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("rho", "length"), [(0.5, 1.0), (1.0, 1.0), (1.02, 1 / 1.02), (2.0, 0.5), (8.0, 0.125)])
def test_a_hill_has_its_top_inside_once_the_ball_reaches_it(rho: float, length: float) -> None:
    """-‖e‖²/2 + e_1: the top lies on the ray, at a distance of 1."""
    options = {"rho": [rho], "interior": InteriorConfig(steps=60, points=40)}
    values = measure("interior", quadratic(-np.eye(6), np.eye(6)[0], np.zeros(6), n=1, **options))
    for place in PLACES:
        assert values[f"interior_{place}[rho={rho:g}]"] == float(length < 0.99)
        assert values[f"interior_{place}_length[rho={rho:g}]"] == pytest.approx(length, abs=2e-3)


def test_the_share_is_over_batches_with_its_binomial_error() -> None:
    """Radius 1: the waves of k = 2 and 4 turn inside (pi/4, pi/8), those of k = 1 do not; a batch of one image is as pure as it gets."""
    k = [1.0] * 6 + [2.0] * 3 + [4.0]
    values = measure("interior", waves(k, rho=[1.0], interior=InteriorConfig(batch_size=2, points=40, steps=40)))
    assert values["interior_batches"] == 5 and values["interior_batch_size"] == 2
    order = torch.randperm(10, generator=waves(k).generator("interior")).view(5, 2)  # drawn without repetition, the same every time
    drawn = torch.tensor(k, dtype=torch.float64)[order]
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    tops = [float(t[(torch.sin(pair[:, None] * t) / pair[:, None]).sum(0).argmax()]) for pair in drawn]
    share = sum(top < 0.99 for top in tops) / 5
    assert 0 < share < 1  # the case is a mixed one
    for place in PLACES:
        assert values[f"interior_{place}[rho=1]"] == pytest.approx(share)
        assert values[f"interior_{place}_stderr[rho=1]"] == pytest.approx(math.sqrt(share * (1 - share) / 5))
        assert values[f"interior_{place}_length[rho=1]"] == pytest.approx(np.mean(tops), abs=2e-3)
        assert values[f"interior_{place}_length_stderr[rho=1]"] == pytest.approx(np.std(tops, ddof=1) / math.sqrt(5), abs=2e-3)


def test_the_ball_looks_beside_the_ray() -> None:
    """A ridge: along the gradient the loss turns early, but its top at this radius lies on the boundary, in another direction."""
    h, g = np.diag([-4.0, 1.0, 0.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.05, 0, 0, 0, 0])
    values = measure("interior", quadratic(h, g, np.zeros(6), n=1, rho=[2.0], interior=InteriorConfig(steps=40)))
    assert values["interior_ray[rho=2]"] == 1 and values["interior_ball[rho=2]"] == 0


def test_a_search_that_ends_inside_by_its_momentum_is_no_interior_maximum() -> None:
    """A convex loss: the best of five steps is a mean of points on the sphere, and lies inside; the ray through it rises to its end."""
    h, g, w = random_problem(seed=20)
    options = InteriorConfig(steps=5, restarts=0, momentum=0.9)
    values = measure("interior", quadratic(h @ h / 10, g / 3, w, n=1, rho=[2.0], interior=options))
    assert values["interior_ball[rho=2]"] == 0 and values["interior_ball_length[rho=2]"] == 1


def test_the_batches_are_those_of_training() -> None:
    context = waves([1.0] * 10, rho=[1.0])
    for given, trained, expected in ((3, 4, 3), (None, 4, 4), (None, None, 10)):  # m = 128 is more than there are images
        config = SharpnessConfig.of(interior=InteriorConfig(batch_size=given))
        found = measure("interior", Context(context.model, context.train, None, config, batch=trained))
        assert (found["interior_batches"], found["interior_batch_size"]) == (10 // expected, expected)


@pytest.mark.parametrize("images", [4, 2])
def test_where_nothing_rises_nothing_is_said(images: int) -> None:
    """On every batch, or on the first alone: a share of the others would not be one of the batches."""
    flat = quadratic(np.eye(6), np.ones(6), np.zeros(6), n=4, rho=[0.5], interior=InteriorConfig(batch_size=2))
    flat.train.inputs[torch.randperm(4, generator=flat.generator("interior"))[:images]] = 0
    values = measure("interior", flat)
    assert {name for name, value in values.items() if value is not None} == {"interior_batches", "interior_batch_size"}


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_the_rules_of_measuring(batchnorm: str) -> None:
    options = {"rho": [0.5, 0.05], "m": 5, "interior": InteriorConfig(points=4, steps=3, batchnorm=batchnorm)}
    hold_the_rules("interior", **options)
    fails_cleanly("interior", **options)


def test_a_batch_has_one_mean_and_variance_whatever_m_is() -> None:
    context = net_context(m=5, interior=InteriorConfig(batch_size=6, batchnorm="train"))
    assert [len(list(loss.batches())) for loss in context.training_batches(context.config.interior, "interior")] == [1, 1]


def test_batch_statistics_are_said_in_the_name() -> None:
    values = measure("interior", waves([1.0] * 4, rho=[0.5], interior=InteriorConfig(batch_size=2, batchnorm="train")))
    assert "interior_ray[rho=0.5,bn=train]" in values and "interior_batches[bn=train]" in values


def test_the_work_foretold_counts_the_batches() -> None:
    own = InteriorConfig(batches=3, points=4, steps=2, restarts=0)
    config = SharpnessConfig.of(rho=[0.1, 0.2], interior=own)
    assert interior.work(Sizes(100, 0, batch=20), config) == 60 * (3 + 2 * (2 * 7 + 4))


@pytest.mark.parametrize("settings", [{"batches": 0}, {"batch_size": 1}, {"points": 1}, {"steps": 0}, {"batchnorm": "recalibrated"}])
def test_settings_that_cannot_be_used_are_refused_by_name(settings: dict[str, int]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"^sharpness\.interior\.{key}="):
        InteriorConfig(**settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- shares of the ball's maximum


def test_the_share_of_n_steps_is_their_rise_over_the_maximum() -> None:
    measured: Measures = {
        "n_step[rho=0.1,n=1,rule=split,subset=9]": 2.0,
        "n_step[rho=0.1,n=5,rule=split,subset=9]": 3.0,
        "n_step[rho=0.2,n=5,rule=split,subset=9]": None,
        "n_step[rho=0.1,n=5,rule=split]": 7.0,  # other images: its maximum was not measured
        "n_step_length[rho=0.1,n=5,rule=split,subset=9]": 0.9,
        "maximum[rho=0.1,subset=9]": 8.0,
        "maximum[rho=0.2,subset=9]": 9.0,
    }
    assert derived(measured) == {
        "n_step_share[rho=0.1,n=1,rule=split,subset=9]": 0.25,
        "n_step_share[rho=0.1,n=5,rule=split,subset=9]": 0.375,
        "n_step_gain[rho=0.1,n=5,rule=split,subset=9]": 0.125,
        "n_step_share[rho=0.2,n=5,rule=split,subset=9]": None,
    }
    assert derived({"n_step[rho=1,n=1,rule=split]": 0.0, "maximum[rho=1]": 0.0}) == {}  # nothing rises: no share of it


def test_on_a_linear_loss_one_step_finds_all_there_is() -> None:
    model = nn.Linear(3, 2).double()
    pair = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    settings = {"n_step": NStepConfig(steps=[1, 5]), "maximum": MaximumConfig(steps=40)}
    found = sam.sharpness.evaluate(model, pair, ["n_step", "maximum"], [1e-4, 0.5], **settings)
    for rho, near in ((0.0001, 1e-4), (0.5, 0.2)):
        assert found[f"n_step_share[rho={rho:g},n=1,rule=split]"] == pytest.approx(1, abs=near)
        assert found[f"n_step_share[rho={rho:g},n=5,rule=split]"] <= 1 + 1e-6
        gain = found[f"n_step_share[rho={rho:g},n=5,rule=split]"] - found[f"n_step_share[rho={rho:g},n=1,rule=split]"]
        assert found[f"n_step_gain[rho={rho:g},n=5,rule=split]"] == pytest.approx(gain, abs=1e-12)
