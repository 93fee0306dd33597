"""Adaptive sharpness against closed forms in the coordinates delta / |w|, exactly zero weights, and normalised logits by hand."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules, measure, net_context, network, quadratic, random_problem, trust_region
from torch import nn

from sam.core.criteria import cross_entropy
from sam.sharpness.adaptive import normalized
from sam.sharpness.context import Context, Split
from sam.sharpness.settings import AdaptiveConfig, SharpnessConfig

ZEROS = np.array([0.0, 1.5, 0.0, -2.0, 0.3, -0.01])


def adaptive(h: np.ndarray, g: np.ndarray, w: np.ndarray, **settings: object) -> dict[str, float]:
    empty = {"worst_l2": [], "worst_linf": [], "average_l2": [], "average_linf": [], "logits": ["plain"]}
    return measure("adaptive", quadratic(h, g, w, n=4, adaptive=AdaptiveConfig(**(empty | settings))))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("steps", [1, 20])
def test_the_worst_case_of_a_linear_loss(zeros: bool, steps: int) -> None:
    _, g, w = random_problem()
    w = ZEROS if zeros else w
    rhos = [0.05, 1.5]
    values = adaptive(np.zeros((6, 6)), g, w, worst_l2=rhos, worst_linf=rhos, steps=steps)
    for rho in rhos:
        for norm, slope in (("l2", np.linalg.norm(w * g)), ("linf", np.abs(w * g).sum())):
            where = f"[rho={rho:g},norm={norm},logits=plain]"
            assert values[f"adaptive_worst{where}"] == pytest.approx(rho * slope, rel=1e-10)
            assert values[f"adaptive_worst_ascent{where}"] == pytest.approx(rho * slope, rel=1e-10)
            assert steps == 1 or values[f"adaptive_worst_spread{where}"] < 1e-6
    assert len(values) == 12


@pytest.mark.parametrize("w", [random_problem()[2], ZEROS], ids=["generic", "zeros"])
def test_the_worst_case_of_a_quadratic_is_the_trust_region_solution_in_units_of_w(w: np.ndarray) -> None:
    h, g, _ = random_problem(seed=2)
    values = adaptive(h, g, w, worst_l2=[0.05, 1.0], steps=100)
    scale = np.diag(np.abs(w))
    for rho in (0.05, 1.0):
        found = values[f"adaptive_worst[rho={rho:g},norm=l2,logits=plain]"]
        assert found == pytest.approx(trust_region(scale @ h @ scale, scale @ g, rho), rel=1e-5)


def test_the_worst_case_in_the_box_of_a_convex_loss_is_at_a_corner() -> None:
    h, g, w = random_problem(seed=2)
    h = h @ h + np.eye(6)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T * np.abs(w) * 0.7
    brute = (corners @ g + ((corners @ h) * corners).sum(axis=1) / 2).max()
    values = adaptive(h, g, w, worst_linf=[0.7], steps=40, restarts=6)
    assert values["adaptive_worst[rho=0.7,norm=linf,logits=plain]"] == pytest.approx(brute, rel=1e-9)


def test_a_weight_that_is_zero_never_moves_and_the_others_stay_in_the_ball() -> None:
    h, g, _ = random_problem()
    for norm in ("l2", "linf"):
        for case in ("worst", "average"):
            settings = {f"{c}_{n}": [0.5] if (c, n) == (case, norm) else [] for c in ("worst", "average") for n in ("l2", "linf")}
            context, met = quadratic(h, g, ZEROS, n=4, adaptive=AdaptiveConfig(logits=["plain"], steps=9, **settings)), []  # type: ignore[arg-type]
            context.model.register_forward_hook(
                lambda m, *_, met=met: met.append(torch.cat([p.detach().flatten() for p in m.parameters()]).numpy())
            )
            measure("adaptive", context)
            moved = np.array(met) - ZEROS
            assert np.abs(moved).max() > 0.1
            assert (moved[:, ZEROS == 0] == 0).all()
            relative = moved[:, ZEROS != 0] / np.abs(ZEROS[ZEROS != 0])
            if (case, norm) != ("average", "l2"):  # those are not bounded
                length = np.abs(relative).max(axis=1) if norm == "linf" else np.linalg.norm(relative, axis=1)
                assert length.max() <= 0.5 * (1 + 1e-9)


def test_all_weights_zero_is_no_rise_and_no_failure() -> None:
    h, g, _ = random_problem()
    values = adaptive(h, g, np.zeros(6), worst_l2=[0.5], worst_linf=[0.5], average_l2=[0.5], average_linf=[0.5])
    for norm in ("l2", "linf"):
        where = f"[rho=0.5,norm={norm},logits=plain]"
        assert values[f"adaptive_worst{where}"] == 0 and values[f"adaptive_worst_ascent{where}"] is None
        assert values[f"adaptive_average{where}"] == 0 and values[f"adaptive_average_stderr{where}"] == 0


@pytest.mark.parametrize("w", [random_problem()[2], ZEROS], ids=["generic", "zeros"])
def test_the_average_case_has_its_expectation(w: np.ndarray) -> None:
    """E of d'Hd / 2 with independent entries of variance rho² w_i², or a third of it in the box; the slope cancels in every pair."""
    h, g, _ = random_problem(seed=3)
    values = adaptive(h, 10 * g, w, average_l2=[0.1, 0.4], average_linf=[0.1, 0.4], draws=120)
    for norm, variance in (("l2", 1.0), ("linf", 1 / 3)):
        for rho in (0.1, 0.4):
            where = f"[rho={rho:g},norm={norm},logits=plain]"
            expected = rho**2 * variance * (np.diag(h) * w**2).sum() / 2
            error = values[f"adaptive_average_stderr{where}"]
            assert abs(values[f"adaptive_average{where}"] - expected) < 3.5 * error
            assert error < 0.4 * rho**2 * np.abs(w).max() ** 2 * np.abs(h).max()


def test_normalised_logits_by_hand() -> None:
    draw = np.random.RandomState(0)
    z, y = 5 * draw.randn(8, 4) + 3, draw.randint(4, size=8)
    centred = z - z.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))
    expected = np.log(np.exp(unit).sum(axis=1)) - unit[np.arange(8), y]
    criterion, labels = normalized(cross_entropy), torch.from_numpy(y)
    for factor, shift in ((1.0, 0.0), (100.0, -7.0)):  # neither size nor level of the logits counts
        assert criterion(torch.from_numpy(factor * z + shift), labels).numpy() == pytest.approx(expected, rel=1e-10)
    equal = torch.full((2, 4), 3.0, dtype=torch.float64, requires_grad=True)
    losses = criterion(equal, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(4)] * 2)
    (gradient,) = torch.autograd.grad(losses.sum(), equal)
    assert gradient.isfinite().all()


def test_each_kind_of_logits_is_the_loss_that_is_measured() -> None:
    """The average case of a network written out, draw by draw."""
    settings = AdaptiveConfig(worst_l2=[], worst_linf=[], average_l2=[0.2], average_linf=[0.3], draws=2, subset=None)
    context = net_context(adaptive=settings)
    values = measure("adaptive", context)
    net = network().eval()
    inputs, labels = context.prepare(context.train.inputs), context.train.labels
    weights = {name: p for name, p in net.named_parameters() if p.requires_grad}

    def loss(kind: str, moved: dict[str, torch.Tensor]) -> float:
        z = torch.func.functional_call(net, moved, (inputs,))
        if kind == "normalized":
            z = z - z.mean(dim=1, keepdim=True)
            z = z / (z * z).sum(dim=1, keepdim=True).sqrt()
        return nn.functional.cross_entropy(z, labels).item()

    for kind in ("plain", "normalized"):
        for norm, rho in (("l2", 0.2), ("linf", 0.3)):
            stream, rises = context.generator(f"adaptive average {norm}"), []
            for _ in range(2):
                draw = torch.randn if norm == "l2" else lambda *a, **k: 2 * torch.rand(*a, **k) - 1
                z = {name: draw(p.shape, generator=stream, dtype=p.dtype) for name, p in weights.items()}
                pair = [loss(kind, {name: p + sign * rho * p.abs() * z[name] for name, p in weights.items()}) for sign in (1, -1)]
                rises.append(sum(pair) / 2 - loss(kind, weights))
            where = f"[rho={rho:g},norm={norm},logits={kind}]"
            assert values[f"adaptive_average{where}"] == pytest.approx(np.mean(rises), rel=1e-8)
            assert values[f"adaptive_average_stderr{where}"] == pytest.approx(np.std(rises, ddof=1) / math.sqrt(2), rel=1e-7)
    assert len({round(v, 9) for k, v in values.items() if "stderr" not in k and v is not None}) == 4


def test_normalised_sharpness_does_not_see_the_size_of_the_last_layer() -> None:
    settings = AdaptiveConfig(logits=["plain", "normalized"], steps=5, subset=None)

    def values(factor: float) -> dict[str, float]:
        net = network()
        net[6].weight.data *= factor
        net[6].bias.data *= factor
        return measure("adaptive", net_context(net, adaptive=settings))  # type: ignore[return-value]

    small, large = values(1.0), values(8.0)
    for key, value in small.items():
        if "normalized" in key and "spread" not in key:
            assert large[key] == pytest.approx(value, rel=1e-6, abs=1e-12)
        elif key.startswith("adaptive_worst["):
            assert large[key] > 1.5 * value


def test_a_loss_that_is_not_finite_is_never_a_number() -> None:
    class Cliff(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            s = inputs * self.w.sum()
            s = s if (self.w - 1).norm() < 1 else s * math.nan
            return torch.stack([-s, s], dim=1)

    split = Split(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    settings = AdaptiveConfig(worst_l2=[0.5, 2.0], worst_linf=[0.1, 2.0], average_l2=[0.01, 9.0], average_linf=[0.1, 9.0], logits=["plain"])
    values = measure("adaptive", Context(Cliff(), split, None, SharpnessConfig.of(adaptive=settings)))
    for key, value in values.items():
        if "spread" not in key:
            assert value is not None and math.isfinite(value) == ("rho=0" in key), key


@pytest.mark.parametrize("subset", [None, 5])
def test_the_rules_of_measuring(subset: int | None) -> None:
    settings = AdaptiveConfig(worst_l2=[0.5, 0.1], steps=4, draws=2, subset=subset)
    hold_the_rules("adaptive", adaptive=settings)
    fails_cleanly("adaptive", adaptive=AdaptiveConfig(worst_linf=[], steps=2, draws=2, logits=["normalized"], subset=subset))
    names = set(measure("adaptive", net_context(adaptive=settings)))
    said = ",subset=5" if subset else ""
    assert f"adaptive_worst[rho=0.5,norm=l2,logits=plain{said}]" in names and len(names) == 2 * (3 * 3 + 2 * 2)
