"""Lines and planes against closed forms: on a quadratic every line is a parabola, and XSAM's search is a brute-force one."""

import copy
import math

import numpy as np
import pytest
import torch
from sharpness_toys import Quadratics
from torch import Tensor, nn
from torch.nn import functional

from sam.core import seeds
from sam.core.vectors import Vector
from sam.sharpness import landscape
from sam.sharpness.context import Context, Notion, Result, Sizes, Split, work
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.hessian import Hessian, eigenpairs
from sam.sharpness.landscape import filter_normalize_
from sam.sharpness.settings import HessianConfig, LandscapeConfig, SharpnessConfig

RHO, D, N = 0.4, 6, 11
Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


class OfOutputs(Context):
    """The model's outputs are the losses."""

    def loss(self, split: str = "train", **options: object) -> DatasetLoss:
        return super().loss(split, criterion=lambda outputs, _: outputs, **options)  # type: ignore[arg-type]


def problem(seed: int = 0) -> Problem:
    """(A (n, d, d) symmetric, b (n, d), w (d,)); the mean of A is indefinite, and its eigenvalue of largest magnitude is negative."""
    draw = np.random.RandomState(seed)
    a = draw.randn(N, D, D)
    a = a + a.transpose(0, 2, 1)
    lowest = np.linalg.eigh(a.mean(axis=0))[1][:, 0]
    return a - 6 * np.outer(lowest, lowest), draw.randn(N, D), draw.randn(D)


def context(a: np.ndarray, b: np.ndarray, w: np.ndarray, *, rho: float = RHO, **settings: object) -> Context:
    inputs = torch.from_numpy(np.concatenate([a, b[:, :, None]], axis=2))
    config = SharpnessConfig.of(rho=[rho], batch_size=4, landscape=LandscapeConfig(**settings))  # type: ignore[arg-type]
    return OfOutputs(Quadratics(torch.from_numpy(w)), Split(inputs, torch.zeros(len(a), dtype=torch.int64)), None, config)


def value(p: Problem, w: np.ndarray) -> float:
    return float(w @ p[0].mean(axis=0) @ w / 2 + p[1].mean(axis=0) @ w)


def gradient(p: Problem, w: np.ndarray) -> np.ndarray:
    return p[0].mean(axis=0) @ w + p[1].mean(axis=0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / math.sqrt(x @ x)


def columns(result: Result, name: str, *wanted: str) -> list[np.ndarray]:
    return [np.array(result.series[name][column], dtype=float) for column in wanted]


# -------------------------------------------------------------------------------------------------------------------- lines


def test_a_line_along_the_gradient_is_the_parabola_of_the_closed_form() -> None:
    p = problem()
    t, loss = columns(landscape.measure(context(*p, lines=["gradient"], planes=[], points=5, reach=3.0)), "line_gradient", "t", "loss")
    g, w = gradient(p, p[2]), p[2]
    slope, curvature = math.sqrt(g @ g), g @ p[0].mean(axis=0) @ g / (g @ g)
    assert t == pytest.approx([-3 * RHO, -1.5 * RHO, 0, 1.5 * RHO, 3 * RHO], rel=1e-15)
    assert loss == pytest.approx(value(p, w) + slope * t + curvature * t**2 / 2, rel=1e-11)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_n_step_line_leads_through_the_n_step_point(steps: int) -> None:
    p = problem()
    result = landscape.measure(context(*p, lines=["n_step"], planes=[], points=5, ascent_steps=steps))
    t, loss = columns(result, f"line_n_step[rho={RHO}]", "t", "loss")
    at = p[2]
    for _ in range(steps):
        at = at + RHO / steps * unit(gradient(p, at))
    direction = unit(at - p[2])
    assert loss == pytest.approx([value(p, p[2] + x * direction) for x in t], rel=1e-11)
    assert abs(direction @ unit(gradient(p, p[2]))) < 0.9999 or steps == 1  # another direction than the gradient's


def test_the_top_eigenvector_is_that_of_the_largest_algebraic_eigenvalue_and_points_uphill() -> None:
    for seed in range(4):
        p = problem(seed)
        values, v = np.linalg.eigh(p[0].mean(axis=0))
        assert abs(values[0]) > values[-1] > 0
        result = landscape.measure(context(*p, lines=["top_eigenvector"], planes=[], points=5))
        top = v[:, -1] * np.sign(v[:, -1] @ gradient(p, p[2]))
        t, loss = columns(result, "line_top_eigenvector", "t", "loss")
        assert loss == pytest.approx(value(p, p[2]) + (top @ gradient(p, p[2])) * t + values[-1] * t**2 / 2, rel=1e-9)
        assert result.values["landscape_eigenvalue[k=1]"] == pytest.approx(values[-1], rel=1e-10)
        assert result.values["landscape_eigenvalue_residual[k=1]"] == pytest.approx(0, abs=1e-9)


def top_eigenpairs(loss: DatasetLoss, count: int, steps: int) -> list[tuple[float, Vector, float]]:
    """(value, vector, residual), the largest first."""
    hessian = Hessian(loss)
    found = eigenpairs(hessian, HessianConfig(eigenvalues=count, steps=steps), seeds.generator("cpu", 0, "x"))
    assert found is not None
    return list(zip(found.values, map(hessian.unflatten, found.vectors), found.residuals, strict=True))[:-1]


def test_too_few_lanczos_steps_show_in_the_residual() -> None:
    p = problem()
    loss, h = context(*p).loss(), p[0].mean(axis=0)
    with loss.measuring():
        ((value, vector, residual),) = top_eigenpairs(loss, 1, 3)
    v = vector[0].numpy()
    assert residual == pytest.approx(np.linalg.norm(h @ v - value * v), rel=1e-8)
    assert residual > 0.01 and value <= np.linalg.eigvalsh(h)[-1]


def test_eigenvectors_of_a_multiple_of_the_identity_are_orthogonal() -> None:
    """Every start spans an invariant subspace at once: the second vector needs a start of its own."""
    a, b, w = problem()
    loss = context(np.broadcast_to(2.5 * np.eye(D), a.shape), b, w).loss()
    with loss.measuring():
        first, second = top_eigenpairs(loss, 2, 4)
    assert [first[0], second[0]] == pytest.approx([2.5, 2.5], rel=1e-12)
    assert abs(float(first[1][0] @ second[1][0])) < 1e-12


# ------------------------------------------------------------------------------------------------------------------- planes


def test_a_plane_of_eigenvectors_is_the_paraboloid_of_the_closed_form() -> None:
    p = problem()
    values, v = np.linalg.eigh(p[0].mean(axis=0))
    x, y, loss = columns(landscape.measure(context(*p, lines=[], planes=["eigenvectors"], grid=4)), "plane_eigenvectors", "x", "y", "loss")
    g = gradient(p, p[2])
    slopes = [abs(v[:, -1] @ g), abs(v[:, -2] @ g)]
    expected = value(p, p[2]) + slopes[0] * x + slopes[1] * y + values[-1] * x**2 / 2 + values[-2] * y**2 / 2
    assert loss == pytest.approx(expected, rel=1e-9)
    assert len(loss) == 16 and x[:4].tolist() == sorted(set(x.tolist())) and len(set(y[:4].tolist())) == 1  # row by row
    assert max(x) == -min(x) == pytest.approx(4 * RHO)


def arc(p: Problem, rho: float, rho_max: float, alphas: list[float]) -> tuple[float, list[float]]:
    """(psi, L on the arc) by the paper's own formula, from the dense gradients."""
    v0 = unit(gradient(p, p[2]))
    v1 = unit(gradient(p, p[2] + rho * v0))
    psi = math.acos(v0 @ v1)
    v = [(math.sin((1 - a) * psi) * v0 + math.sin(a * psi) * v1) / math.sin(psi) for a in alphas]
    return psi, [value(p, p[2] + rho_max * u) for u in v]


@pytest.mark.parametrize("rho_max", [None, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_star_is_the_brute_force_argmax_over_the_arc(seed: int, rho_max: float | None) -> None:
    p, alphas = problem(seed), [k / 20 for k in range(61)]
    result = landscape.measure(context(*p, lines=[], planes=["xsam"], grid=3, rho_max=rho_max, alphas=alphas))
    psi, losses = arc(p, RHO, 2 * RHO if rho_max is None else rho_max, alphas)
    where = f"[rho={RHO}]"
    assert result.values[f"psi{where}"] == pytest.approx(psi, rel=1e-7)
    assert result.values[f"alpha_star{where}"] == alphas[int(np.argmax(losses))]
    assert result.values[f"alpha_star_rise{where}"] == pytest.approx(max(losses) - value(p, p[2]), rel=1e-7)
    assert columns(result, f"arc_xsam{where}", "loss")[0] == pytest.approx(losses, rel=1e-9)


def test_the_searches_above_end_inside_the_grid_and_differ() -> None:
    """An argmax at the first candidate would be found by a search that never moves."""
    best = [int(np.argmax(arc(problem(seed), RHO, 2 * RHO, [k / 20 for k in range(61)])[1])) for seed in range(4)]
    assert len(set(best)) >= 3 and all(0 < k < 60 for k in best)


def test_the_marks_lie_where_they_should() -> None:
    p = problem()
    result = landscape.measure(context(*p, lines=[], planes=["xsam"], grid=3))
    where = f"[rho={RHO}]"
    marks = result.series[f"marks_xsam{where}"]
    v0 = unit(gradient(p, p[2]))
    v1 = unit(gradient(p, p[2] + RHO * v0))
    second = unit(v1 - (v1 @ v0) * v0)
    psi, star = math.acos(v0 @ v1), result.values[f"alpha_star{where}"]
    assert star is not None
    angle = star * psi
    assert marks["x"] == pytest.approx([0, RHO, 2 * RHO * math.cos(angle)], rel=1e-9)
    assert marks["y"] == pytest.approx([0, 0, 2 * RHO * math.sin(angle)], rel=1e-9)
    assert marks["alpha"] == [None, None, star]
    for x, y, loss in zip(marks["x"], marks["y"], marks["loss"], strict=True):
        assert loss == pytest.approx(value(p, p[2] + x * v0 + y * second), rel=1e-10)  # type: ignore[operator]
    x, y, loss = columns(result, f"plane_xsam{where}", "x", "y", "loss")
    expected = [value(p, p[2] + a * v0 + b * second) for a, b in zip(x, y, strict=True)]
    assert loss == pytest.approx(expected, rel=1e-10)
    assert max(x) == pytest.approx(1.5 * 2 * RHO) and (x[4], y[4]) == (0, 0)


# ------------------------------------------------------------------------------------------------------- filter normalisation


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    net(torch.randn(40, 1, 4, 4, dtype=torch.float64))
    with torch.no_grad():
        net[0].weight[1].zero_()
    return net.eval()


def by_hand(net: nn.Module, drawn: list[Tensor]) -> dict[str, Tensor]:
    """Filter by filter, in plain loops."""
    made = {}
    for (name, w), d in zip(net.named_parameters(), drawn, strict=True):
        rows = [d[i] / d[i].norm() * w[i].norm() for i in range(len(w))] if w.ndim > 1 else [torch.zeros_like(d[i]) for i in range(len(w))]
        made[name] = torch.stack(rows).detach()
    return made


def draws(net: nn.Module, stream: str, count: int, seed: int = 0) -> list[list[Tensor]]:
    generator = seeds.generator("cpu", seed, stream)
    return [[torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in net.parameters()] for _ in range(count)]


def test_each_filter_of_a_direction_gets_the_norm_of_the_filter_of_the_weights() -> None:
    weights = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([7.0, 8.0])]
    direction = [torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([1.0, 2.0])]
    filter_normalize_(direction, weights)
    assert direction[0].tolist() == [[0.0, 5.0], [0.0, 0.0]] and direction[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", [0, 1])
def test_random_lines_and_planes_follow_the_same_draws_in_every_model(seed: int) -> None:
    net = network(seed)
    x, y = torch.randn(13, 1, 4, 4, dtype=torch.float64), torch.randint(3, (13,))
    config = SharpnessConfig.of(seed=3, landscape=LandscapeConfig(lines=["random"], planes=["random"], points=3, grid=3, span=0.5))
    result = landscape.measure(Context(net, Split(x, y), None, config))
    weights, oracle = dict(net.named_parameters()), copy.deepcopy(net)

    def at(*moves: tuple[float, dict[str, Tensor]]) -> float:
        moved = {name: w + sum(t * direction[name] for t, direction in moves) for name, w in weights.items()}
        return functional.cross_entropy(torch.func.functional_call(oracle, moved, (x,)), y).item()

    line = by_hand(net, draws(net, "landscape.line", 1, seed=3)[0])
    first, second = (by_hand(net, drawn) for drawn in draws(net, "landscape.plane", 2, seed=3))
    t, loss = columns(result, "line_random", "t", "loss")
    assert t.tolist() == [-0.5, 0, 0.5]
    assert loss == pytest.approx([at((step, line)) for step in t], rel=1e-11)
    a, b, over = columns(result, "plane_random", "x", "y", "loss")
    assert over == pytest.approx([at((p, first), (q, second)) for p, q in zip(a, b, strict=True)], rel=1e-11)


# ----------------------------------------------------------------------------------------------------------------- edges, work


def test_it_is_undefined_where_the_gradient_vanishes() -> None:
    a, b, w = problem()
    result = landscape.measure(
        context(a, np.zeros_like(b), np.zeros_like(w), lines=["gradient", "n_step"], planes=["xsam"], points=3, grid=3)
    )
    where = f"[rho={RHO}]"
    assert [result.values[f"{name}{where}"] for name in ("psi", "alpha_star", "alpha_star_rise")] == [None, None, None]
    for name in ("line_gradient", f"line_n_step{where}", f"plane_xsam{where}", f"arc_xsam{where}"):
        assert set(result.series[name]["loss"]) == {None}
    assert result.series[f"marks_xsam{where}"]["loss"] == [0.0, None, None]


def test_parallel_gradients_span_no_plane() -> None:
    """H = 2.5 I: the gradient at the ascent point has the direction of the one at w."""
    a, b, w = problem()
    result = landscape.measure(context(np.broadcast_to(2.5 * np.eye(D), a.shape), b, w, lines=[], planes=["xsam"], grid=3))
    where = f"[rho={RHO}]"
    assert result.values[f"psi{where}"] == pytest.approx(0, abs=1e-7)
    assert result.values[f"alpha_star{where}"] is None
    assert set(result.series[f"plane_xsam{where}"]["loss"]) == {None}
    assert result.series[f"marks_xsam{where}"]["x"] == [0.0, RHO, None]


def test_a_loss_that_is_not_finite_is_never_an_alpha() -> None:
    a, b, w = problem()
    a[3, 2, 2] = float("nan")
    result = landscape.measure(context(a, b, w, planes=["xsam", "eigenvectors"], points=3, grid=3))
    assert all(value is None for value in result.values.values())


def test_the_subset_is_named_and_is_one_loss() -> None:
    p = problem()
    result = landscape.measure(context(*p, subset=5, points=3, grid=3, planes=["random", "eigenvectors", "xsam"]))
    assert all(name.endswith("subset=5]") for name in (*result.values, *result.series))
    at_w = {curve["loss"][1] for name, curve in result.series.items() if name.startswith("line_")}
    at_w |= {curve["loss"][4] for name, curve in result.series.items() if name.startswith("plane_")}
    at_w.add(result.series[f"marks_xsam[rho={RHO},subset=5]"]["loss"][0])
    assert len(at_w) == 1 and at_w != {value(p, p[2])}


@pytest.mark.parametrize("lines", [["gradient", "n_step", "top_eigenvector", "random"], ["n_step"], []])
@pytest.mark.parametrize("planes", [["random", "xsam"], ["eigenvectors"], []])
@pytest.mark.parametrize("subset", [5, None])
def test_work_is_what_is_reported(lines: list[str], planes: list[str], subset: int | None) -> None:
    made = context(*problem(), lines=lines, planes=planes, subset=subset, points=3, grid=4, lanczos_steps=3)
    done: list[float] = []
    made.progress = done.append
    Notion("landscape").measure(made)
    assert sum(done) == work(["landscape"], Sizes(N, 0, D), made.config)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_landscape() -> None:
    """In float64, where the two differ by rounding alone."""
    x, y = torch.randn(13, 1, 4, 4, dtype=torch.float64), torch.randint(3, (13,))
    settings = LandscapeConfig(planes=["random", "eigenvectors", "xsam"], points=3, grid=3)
    results = []
    for device in ("cpu", "cuda"):
        made = Context(network().to(device), Split(x.to(device), y.to(device)), None, SharpnessConfig.of(landscape=settings))
        results.append(landscape.measure(made))
    assert results[0].values == pytest.approx(results[1].values, rel=1e-6, abs=1e-9)
    for name, curve in results[0].series.items():
        assert curve["loss"] == pytest.approx(results[1].series[name]["loss"], rel=1e-8)
