"""The notion "hessian" against closed forms, a dense float64 Hessian and curvlinops."""

import copy
import math
from typing import Any

import pytest
import torch
from sharpness_toys import Quadratics, dense
from torch import Tensor, nn
from torch.nn import functional

import sam.sharpness
from sam.config import ConfigError
from sam.sharpness import hessian
from sam.sharpness.context import Context, Measures, Notion, Result, Sizes, Split, measure, subset_indices, suffix
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.hessian import Hessian
from sam.sharpness.settings import HessianConfig, SharpnessConfig


def network() -> nn.Module:
    """196 parameters: more than Lanczos' steps below, so that it has to converge."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 4)).double()
    net(2 + torch.randn(50, 1, 5, 5, dtype=torch.float64))
    return net.eval()


def samples(n: int = 23) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(2 * torch.randn(n, 1, 5, 5, dtype=torch.float64, generator=generator), torch.randint(4, (n,), generator=generator))


def context(model: nn.Module, data: Split, rho: float = 0.1, batch_size: int = 7, **options: Any) -> Context:
    own = HessianConfig(**({"subset": None, "tolerance": 1e-9, "steps": 80} | options))
    return Context(model, data, None, SharpnessConfig.of(notions=["hessian"], rho=[rho], batch_size=batch_size, hessian=own))


def values(model: nn.Module, data: Split, **options: Any) -> Measures:
    return measure(context(model, data, **options)).values


@pytest.mark.parametrize("batch_size", [4, 7, 23])
@pytest.mark.parametrize("basis", [10, 24])
def test_the_eigenvalues_are_those_of_the_dense_hessian(batch_size: int, basis: int) -> None:
    net, data = network(), samples()
    spectrum = torch.linalg.eigvalsh(dense(net, data)[1])
    found = values(net, data, batch_size=batch_size, basis=basis, steps=190)
    scale = float(spectrum.abs().max())
    for k in range(1, 6):
        assert found[f"eigenvalue[k={k}]"] == pytest.approx(float(spectrum[-k]), rel=1e-6)
        residual = found[f"eigenvalue_residual[k={k}]"]
        assert residual is not None and 0 <= residual < 1e-6 * scale
    least, rest = found["eigenvalue_min"], found["eigenvalue_min_residual"]
    assert least is not None and rest is not None and least < 0
    assert abs(least - float(spectrum[0])) <= rest + 1e-9
    assert float((spectrum - least).abs().min()) <= rest + 1e-12


def test_the_residual_says_when_there_were_too_few_steps() -> None:
    net, data = network(), samples()
    spectrum = torch.linalg.eigvalsh(dense(net, data)[1])
    found = values(net, data, steps=7)
    assert found["lanczos_products"] == 7
    residuals = [found[f"eigenvalue_residual[k={k}]"] for k in range(1, 6)]
    assert max(residuals) > 1e-2 * float(spectrum[-1])  # type: ignore[type-var, operator]
    for k, residual in enumerate(residuals, start=1):
        assert float((spectrum - found[f"eigenvalue[k={k}]"]).abs().min()) <= residual  # type: ignore[operator]


@pytest.mark.slow
def test_it_agrees_with_curvlinops() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    net, data = network(), samples()
    oracle = copy.deepcopy(net)
    batches = list(zip(data.inputs.split(7), data.labels.split(7), strict=True))
    operator = curvlinops.HessianLinearOperator(oracle, nn.CrossEntropyLoss(), list(oracle.parameters()), batches)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(2, sum(p.numel() for p in net.parameters()), dtype=torch.float64, generator=generator)
    loss = DatasetLoss(net, data.inputs, data.labels, batch_size=7)
    with loss.measuring():
        ours = Hessian(loss)(rows)
    assert torch.allclose(ours, torch.stack([operator @ row for row in rows]), rtol=1e-10, atol=1e-12)
    theirs = sorted(linalg.eigsh(operator.to_scipy(), k=5, which="LA", tol=1e-10)[0], reverse=True)
    found = values(net, data, steps=190)
    assert [found[f"eigenvalue[k={k}]"] for k in range(1, 6)] == pytest.approx(theirs, rel=1e-6)


def test_where_the_gradient_lies() -> None:
    net, data = network(), samples()
    gradient, h = dense(net, data)
    vectors = torch.linalg.eigh(h)[1].T
    unit = gradient / gradient.norm()
    found = values(net, data, steps=190)
    assert found["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert found["cos_gradient_top"] == pytest.approx(abs(float(vectors[-1] @ unit)), rel=1e-6)
    assert found["gradient_top_share"] == pytest.approx(float(((vectors[-5:] @ unit) ** 2).sum()), rel=1e-6)
    assert found["curvature_gradient"] == pytest.approx(float(unit @ h @ unit), rel=1e-10)
    assert found["cos_random_level"] == pytest.approx(math.sqrt(2 / (math.pi * len(h))))


def test_the_random_level_is_what_random_directions_have() -> None:
    rows = functional.normalize(torch.randn(4000, 196, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(rows[:, 0].abs().mean()) == pytest.approx(math.sqrt(2 / (math.pi * 196)), rel=0.04)


def test_the_trace_and_its_standard_error() -> None:
    net, data = network(), samples()
    exact = float(torch.trace(dense(net, data)[1]))
    scores = []
    for seed in range(8):
        task = context(net, data, steps=12, basis=12, tolerance=1.0, probes=10)
        task.config = SharpnessConfig.of(notions=["hessian"], seed=seed, batch_size=23, hessian=task.config.hessian)
        found = measure(task).values
        assert found["trace_stderr"] > 0  # type: ignore[operator]
        share = found["trace_stderr"] / found["trace"]  # type: ignore[operator]
        assert found["limit_average_stderr[rho=0.05]"] / found["limit_average[rho=0.05]"] == pytest.approx(share)  # type: ignore[operator]
        scores.append((found["trace"] - exact) / found["trace_stderr"])  # type: ignore[operator]
    assert max(map(abs, scores)) < 5 and min(map(abs, scores)) > 0  # calibration: test_krylov.py


def test_the_second_order_part_becomes_the_curvature_along_the_gradient() -> None:
    net, data = network(), samples()
    gradient, h = dense(net, data)
    unit = gradient / gradient.norm()
    half = float(unit @ h @ unit) / 2
    errors = []
    for rho in (1e-1, 1e-2, 1e-3):
        found = values(net, data, rho=rho, steps=10, probes=3)
        errors.append(abs(found[f"second_order[rho={rho:g}]"] / rho**2 - half))  # type: ignore[operator]
        assert found["curvature_gradient"] == pytest.approx(2 * half, rel=1e-10)
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]  # the error is O(rho)
    assert errors[2] < 1e-3 * abs(half)


# ------------------------------------------------------------------------------------------------------------ closed forms


def quadratic(h: Tensor, w: Tensor, b: Tensor | None = None, n: int = 5, **options: Any) -> tuple[Context, DatasetLoss]:
    """n samples, each another quadratic, whose mean has the Hessian h and the linear part b."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(n, len(w), len(w) + 1, dtype=torch.float64, generator=generator)
    noise[:, :, :-1] += noise[:, :, :-1].mT.clone()
    noise -= noise.mean(0)
    mean = torch.cat([h, (torch.zeros_like(w) if b is None else b)[:, None]], dim=1)
    task = context(Quadratics(w), Split(mean + noise, torch.zeros(n, dtype=torch.int64)), batch_size=2, **options)
    loss = DatasetLoss(task.model, task.train.inputs, task.train.labels, criterion=lambda outputs, _: outputs, batch_size=2)
    task.loss = lambda *args, **kwargs: loss  # type: ignore[method-assign]
    return task, loss


def on(h: Tensor, w: Tensor, **options: Any) -> Measures:
    return hessian.measure(quadratic(h, w, **options)[0]).values


def diagonal(*entries: float) -> Tensor:
    return torch.diag(torch.tensor(entries, dtype=torch.float64))


W = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)


def test_on_a_quadratic_everything_is_in_closed_form() -> None:
    h, rho = diagonal(5, 3, 1, 0.5), 0.1
    g = h @ W
    unit = g / g.norm()
    found = on(h, W, eigenvalues=2, rho=rho)
    expected = {
        "train_loss": float(W @ h @ W) / 2,
        "grad_norm": float(g.norm()),
        "eigenvalue[k=1]": 5.0,
        "eigenvalue[k=2]": 3.0,
        "eigenvalue_min": 0.5,
        "curvature_gradient": float(unit @ h @ unit),
        "cos_gradient_top": abs(float(unit[0])),
        "gradient_top_share": float(unit[0] ** 2 + unit[1] ** 2),
        "second_order[rho=0.1]": rho**2 / 2 * float(unit @ h @ unit),
        "limit_worst[rho=0.1]": rho**2 * 5 / 2,
        "limit_ascent[rho=0.1]": rho**2 * 0.5 / 2,
        "trace": 9.5,
        "limit_average[rho=0.1]": rho**2 * 9.5 / 8,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert all(abs(found[name]) < 1e-9 for name in found if "residual" in name or "stderr" in name)  # type: ignore[arg-type]


def test_the_top_is_algebraic_and_lambda_m_is_not_given_off_a_minimum() -> None:
    found = on(diagonal(1, -6), W[:2], eigenvalues=1)
    assert found["eigenvalue[k=1]"] == pytest.approx(1) and found["eigenvalue_min"] == pytest.approx(-6)
    assert found["limit_ascent[rho=0.1]"] is None
    assert found["limit_worst[rho=0.1]"] == pytest.approx(0.005)


def test_lambda_m_is_the_smallest_eigenvalue_that_is_not_zero() -> None:
    q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    found = on(q @ diagonal(5, 0.25, 0, 0) @ q.T, W)
    assert found["limit_ascent[rho=0.1]"] == pytest.approx(0.005 * 0.25, rel=1e-9)
    assert abs(found["eigenvalue_min"]) < 1e-12  # type: ignore[arg-type]


def test_in_single_precision_rounding_is_no_lambda_m() -> None:
    """A linear classifier: its loss is convex, and adding to all logits changes nothing."""
    torch.manual_seed(0)
    net, pair = nn.Linear(3, 2), (torch.randn(40, 3), torch.arange(40) % 2)
    found = [sam.sharpness.evaluate(n, pair, "hessian", 0.1)["limit_ascent[rho=0.1]"] for n in (net, copy.deepcopy(net).double())]
    assert found[1] is not None and found[0] == pytest.approx(found[1], rel=1e-2)


def test_lambda_m_is_not_given_where_only_the_ends_of_the_spectrum_are_known() -> None:
    h, w = diagonal(*range(1, 41)), torch.ones(40, dtype=torch.float64)
    assert on(h, w, steps=39, basis=12)["limit_ascent[rho=0.1]"] is None
    for tolerance in (1e-9, 0.5):  # a loose one is no reason to stop before the whole spectrum is known
        found = on(h, w, steps=40, basis=12, tolerance=tolerance)
        assert found["limit_ascent[rho=0.1]"] == pytest.approx(0.005, rel=1e-9) and found["lanczos_products"] == 40


def test_a_multiple_eigenvalue_counts_as_often_as_it_occurs_and_there_are_no_more_than_d() -> None:
    found = on(diagonal(2, 2, 1, 2), W, eigenvalues=5)
    assert [found[f"eigenvalue[k={k}]"] for k in range(1, 5)] == pytest.approx([2, 2, 2, 1])
    assert found["eigenvalue[k=5]"] is None and found["eigenvalue_residual[k=5]"] is None
    assert found["gradient_top_share"] == pytest.approx(1)


def test_without_curvature_the_eigenvalues_are_zero_and_there_is_no_lambda_m() -> None:
    b = torch.tensor([3.0, 0, 0, 4.0], dtype=torch.float64)
    found = on(diagonal(0, 0, 0, 0), W, b=b)
    for name in (
        "eigenvalue[k=1]",
        "eigenvalue[k=4]",
        "eigenvalue_min",
        "trace",
        "trace_stderr",
        "curvature_gradient",
        "second_order[rho=0.1]",
    ):
        assert found[name] == pytest.approx(0, abs=1e-12), name
    assert found["grad_norm"] == pytest.approx(5) and found["limit_ascent[rho=0.1]"] is None


def test_where_the_gradient_vanishes_its_direction_is_undefined() -> None:
    found = on(diagonal(5, 3, 1, 0.5), torch.zeros(4, dtype=torch.float64))
    for name in ("cos_gradient_top", "gradient_top_share", "curvature_gradient", "second_order[rho=0.1]"):
        assert found[name] is None
    assert found["grad_norm"] < 1e-12 and found["eigenvalue[k=1]"] == pytest.approx(5)  # type: ignore[operator]
    assert found["limit_worst[rho=0.1]"] == pytest.approx(0.025)


@pytest.mark.parametrize("linear", [False, True])
def test_a_loss_that_is_not_finite_is_said_and_gives_no_eigenvalue(linear: bool) -> None:
    h, b = diagonal(5, 3, 1, 0.5), torch.zeros_like(W)
    if linear:
        b[1] = math.nan  # the second derivatives are finite, and mean nothing
    else:
        h[1, 2] = h[2, 1] = math.nan
    found = on(h, W, b=b)
    assert math.isnan(found["train_loss"])  # type: ignore[arg-type]
    left = {name for name, value in found.items() if value is not None and math.isfinite(value)}
    assert left == {"cos_random_level"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    data = samples()
    there = values(network().cuda(), Split(data.inputs.cuda(), data.labels.cuda()), steps=190)
    here = values(network(), data, steps=190)
    exact = [n for n, v in here.items() if v is not None and not any(word in n for word in ("residual", "_min", "products"))]
    assert [n for n, v in there.items() if v is None] == [n for n, v in here.items() if v is None]
    assert {n: there[n] for n in exact} == pytest.approx({n: here[n] for n in exact}, rel=1e-6)


# ------------------------------------------------------------------------------------------------------ names, work, settings

NAMED = ["train_loss", "grad_norm", "eigenvalue_min", "eigenvalue_min_residual", "lanczos_products", "trace", "trace_stderr"]
NAMED += ["cos_gradient_top", "gradient_top_share", "curvature_gradient"]
RISES = ["second_order", "limit_worst", "limit_ascent", "limit_average", "limit_average_stderr"]


@pytest.mark.parametrize("subset", [None, 9, 23, 500])
def test_names_say_the_subset_where_one_is_taken(subset: int | None) -> None:
    shown = 9 if subset == 9 else None
    found = values(network(), samples(), subset=subset, steps=6, eigenvalues=2, rho=0.05)
    expected = {f"{name}{suffix(subset=shown)}" for name in NAMED} | {"cos_random_level"}
    expected |= {f"{name}{suffix(k=k, subset=shown)}" for name in ("eigenvalue", "eigenvalue_residual") for k in (1, 2)}
    assert set(found) == expected | {f"{name}{suffix(rho=0.05, subset=shown)}" for name in RISES}


def test_a_subset_is_the_one_that_every_model_is_measured_on() -> None:
    net, data = network(), samples()
    index = subset_indices(23, 9)
    part = values(net, Split(data.inputs[index], data.labels[index]), steps=190)
    for name, value in values(net, data, subset=9, steps=190).items():
        whole = name.replace(",subset=9", "").replace("[subset=9]", "")
        assert value == (None if part[whole] is None else pytest.approx(part[whole], rel=1e-9, abs=1e-12)), name


@pytest.mark.parametrize("options", [{}, {"steps": 5}, {"subset": 9, "probes": 12}, {"tolerance": 1.0}, {"eigenvalues": 1}])
def test_work_is_what_is_reported(options: dict[str, Any]) -> None:
    done: list[float] = []
    task = context(network(), samples(), **options)
    task.progress = done.append
    Notion("hessian").measure(task)
    own = task.config.hessian
    calls = math.ceil(own.probes / 5)
    by_hand = 3 + 1 + 7 * own.steps + (3 + 4 * (own.eigenvalues + 2)) + 3 * calls + 4 * own.probes
    assert sum(done) == by_hand * (own.subset or 23) == hessian.work(Sizes(23, 0), task.config)


def test_it_stops_when_it_has_converged_and_takes_no_more_than_its_steps() -> None:
    few = values(network(), samples(), tolerance=1e-2, steps=190)["lanczos_products"]
    more = values(network(), samples(), tolerance=1e-6, steps=190)["lanczos_products"]
    assert few < more < 190  # type: ignore[operator]


def test_another_seed_draws_other_probes_and_one_seed_the_same() -> None:
    def at(seed: int) -> Result:
        task = context(network(), samples(), steps=12, tolerance=1.0)
        config = SharpnessConfig.of(notions=["hessian"], seed=seed, hessian=task.config.hessian)
        return measure(Context(task.model, task.train, None, config))

    assert at(0) == at(0)
    assert at(0).values["trace"] != at(1).values["trace"]


def test_a_basis_too_small_for_its_eigenvalues_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sharpness.hessian.basis=8: must be at least sharpness.hessian.eigenvalues \+ 4"):
        HessianConfig(eigenvalues=5, basis=8)
