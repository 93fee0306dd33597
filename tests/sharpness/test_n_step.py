"""N-step sharpness against the recursion written out in NumPy on a quadratic, rule by rule."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules, measure, quadratic, random_problem, rise
from torch import Tensor, nn

from sam.sharpness.context import Context, Split
from sam.sharpness.settings import NStepConfig, SharpnessConfig

RULES = ["split", "project", "accumulate", "boundary"]


def by_hand(h: np.ndarray, g: np.ndarray, rho: float, steps: int, rule: str) -> np.ndarray:
    """eps_N, straight from the definition of the rule."""
    eps = np.zeros_like(g)
    for _ in range(steps):
        here = g + h @ eps
        here = here / np.sqrt(here @ here)
        eps = eps + here * (rho / steps if rule in ("split", "boundary") else rho)
        if rule == "project":
            eps = eps * min(1.0, rho / np.sqrt(eps @ eps))
    return eps * rho / np.sqrt(eps @ eps) if rule == "boundary" else eps


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_its_recursion(rule: str) -> None:
    h, g, w = random_problem()
    values = measure("n_step", quadratic(h, g, w, rho=[0.05, 2.0], n_step=NStepConfig(steps=[1, 2, 5], rules=RULES)))
    for rho in (0.05, 2.0):
        for steps in (1, 2, 5):
            eps = by_hand(h, g, rho, steps, rule)
            where = f"[rho={rho:g},n={steps},rule={rule}]"
            length = np.sqrt(eps @ eps)
            assert values[f"n_step{where}"] == pytest.approx(rise(h, g, eps), rel=1e-10, abs=1e-12)
            assert values[f"n_step_length{where}"] == pytest.approx(length / rho, rel=1e-12)
            assert values[f"n_step_cosine{where}"] == pytest.approx(eps @ g / length / np.sqrt(g @ g), rel=1e-12)
    assert len(values) == 3 * 2 * 3 * len(RULES)


def test_the_rules_differ_here_and_agree_for_one_step() -> None:
    h, g, w = random_problem()
    values = measure("n_step", quadratic(h, g, w, rho=[1.0], n_step=NStepConfig(steps=[1, 3], rules=RULES)))
    assert len({values[f"n_step[rho=1,n=1,rule={rule}]"] for rule in RULES}) == 1
    assert len({round(values[f"n_step[rho=1,n=3,rule={rule}]"], 6) for rule in RULES}) == 4  # type: ignore[arg-type]


def test_accumulate_is_split_at_n_times_the_radius() -> None:
    h, g, w = random_problem()
    context = quadratic(h, g, w, rho=[0.1, 0.3], n_step=NStepConfig(steps=[3], rules=["split", "accumulate"]))
    values = measure("n_step", context)
    assert values["n_step[rho=0.1,n=3,rule=accumulate]"] == pytest.approx(values["n_step[rho=0.3,n=3,rule=split]"], rel=1e-12)


def test_a_linear_loss_rises_by_rho_times_the_slope() -> None:
    _, g, w = random_problem()
    values = measure("n_step", quadratic(np.zeros((6, 6)), g, w, rho=[0.5], n_step=NStepConfig(steps=[4], rules=RULES)))
    for rule in RULES:
        reach = 4 if rule == "accumulate" else 1
        assert values[f"n_step[rho=0.5,n=4,rule={rule}]"] == pytest.approx(0.5 * reach * np.sqrt(g @ g), rel=1e-11)


@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_undefined_where_a_gradient_on_the_way_vanishes(steps: int) -> None:
    h = random_problem()[0]
    options = {"rho": [0.5], "n_step": NStepConfig(steps=[steps])}
    at_rest = quadratic(h, np.zeros(6), np.zeros(6), **options)
    at_rest.train.inputs[:, :, -1] = 0
    assert set(measure("n_step", at_rest).values()) == {None}
    if steps == 3:  # the first step ends on the stationary point of a bowl turned over: g + H e = 0 at |e| = rho / 3
        unit = np.eye(6)[0]
        there = quadratic(-6 * np.eye(6), unit, np.zeros(6), **options)
        there.train.inputs[:, :, :-1] = torch.from_numpy(-6 * np.eye(6))
        there.train.inputs[:, :, -1] = torch.from_numpy(unit)
        assert set(measure("n_step", there).values()) == {None}


class Wall(nn.Module):
    """Cross-entropy 10 - log(1 - w): no number beyond w = 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        s = 10 - torch.log(1 - self.w * inputs)
        return torch.stack([torch.zeros_like(s), s + torch.log(-torch.expm1(-s))], dim=1)


def test_a_loss_that_is_not_finite_is_reported_as_it_is() -> None:
    for rho, steps in ((0.25, 1), (1.0, 1), (3.0, 3)):
        config = SharpnessConfig.of(rho=[rho], n_step=NStepConfig(steps=[steps]))
        context = Context(Wall(), Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)), None, config)
        value = measure("n_step", context)[f"n_step[rho={rho:g},n={steps},rule=split]"]
        if rho < 0.5:
            assert value == pytest.approx(-math.log(0.25) + math.log(0.5), rel=1e-10)
        elif steps == 1:
            assert value is not None and math.isnan(value)
        else:
            assert value is None  # the gradient behind the wall is no direction
        assert context.model.w.item() == 0.5


@pytest.mark.parametrize("subset", [None, 5, 50])
def test_the_rules_of_measuring(subset: int | None) -> None:
    settings = NStepConfig(steps=[1, 3], rules=["split", "project"], subset=subset)
    hold_the_rules("n_step", rho=[0.05, 0.5], n_step=settings)
    fails_cleanly("n_step", rho=[0.5], n_step=settings)


def test_a_subset_is_said_in_the_name_and_is_the_one_that_is_measured() -> None:
    h, g, w = random_problem()
    for subset, said in ((4, ",subset=4"), (7, ""), (9, "")):
        context = quadratic(h, g, w, rho=[0.5], n_step=NStepConfig(steps=[2], subset=subset))
        values = measure("n_step", context)
        inputs = context.loss(subset=subset).inputs.mean(dim=0).numpy()
        part_h, part_g = inputs[:, :-1], inputs[:, :-1] @ w + inputs[:, -1]
        eps = by_hand(part_h, part_g, 0.5, 2, "split")
        assert values[f"n_step[rho=0.5,n=2,rule=split{said}]"] == pytest.approx(rise(part_h, part_g, eps), rel=1e-10)
