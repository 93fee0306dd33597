"""Extreme eigenvalues and quadrature of symmetric matrices that are known exactly, in float64."""

import math

import pytest
import torch
from torch import Tensor

from sam.sharpness.hessian import TOGETHER, trace
from sam.sharpness.krylov import Extremes, extremes, inner, project_out, quadrature


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(spectrum: list[float] | Tensor, seed: int = 0) -> Tensor:
    """Symmetric with this spectrum, in a random basis."""
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator(seed)))[0]
    return q @ torch.diag(values) @ q.T


def top(h: Tensor, *, count: int = 5, steps: int = 400, basis: int = 24, tolerance: float = 1e-9, seed: int = 1) -> Extremes:
    start = torch.randn(len(h), dtype=h.dtype, generator=generator(seed))
    found = extremes(
        lambda rows: rows @ h, start, count=count, steps=steps, basis=basis, tolerance=tolerance, generator=generator(seed + 1)
    )
    assert found is not None
    largest = found.vectors[:-1]
    assert torch.allclose(largest @ largest.T, torch.eye(len(largest), dtype=h.dtype), atol=1e-9)
    return found


def rayleigh(found: Extremes, h: Tensor) -> Tensor:
    return ((found.vectors @ h) * found.vectors).sum(1)


def bulk(n: int = 500) -> Tensor:
    """Like a network: five outliers, a bulk around zero, a negative edge."""
    return torch.cat([torch.tensor([20.0, 11.0, 7.0, 5.0, 3.5]), torch.linspace(-1, 1, n - 6), torch.tensor([-4.0])]).double()


@pytest.mark.parametrize("h", [torch.diag(torch.tensor([1.0, -6.0])).double(), matrix([1.0, -6.0])], ids=["diagonal", "rotated"])
def test_the_top_is_the_largest_algebraic_eigenvalue_not_the_largest_magnitude(h: Tensor) -> None:
    found = top(h, count=1)
    assert rayleigh(found, h).tolist() == pytest.approx([1.0, -6.0], abs=1e-12)
    assert found.spectrum is not None and found.spectrum.tolist() == pytest.approx([-6.0, 1.0], abs=1e-12)


def test_a_negative_bulk_of_larger_magnitude_does_not_hide_the_top() -> None:
    h = matrix(torch.cat([torch.tensor([0.5]), torch.linspace(-100, -1, 399)]).double())
    found = top(h, count=1, steps=300)
    assert rayleigh(found, h).tolist()[0] == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("basis", [9, 12, 24, 500])
def test_restarts_change_the_memory_and_not_the_answer(basis: int) -> None:
    h = matrix(bulk())
    found = top(h, basis=basis)
    assert rayleigh(found, h).tolist() == pytest.approx([20, 11, 7, 5, 3.5, -4], rel=1e-9)
    assert found.products < 400 and found.spectrum is None
    assert torch.linalg.vector_norm(found.vectors[:5] @ h - rayleigh(found, h)[:5, None] * found.vectors[:5], dim=1).max() < 1e-7


def test_no_more_rows_than_the_basis_are_held() -> None:
    h, seen = matrix(bulk()), []

    def product(rows: Tensor) -> Tensor:
        seen.append(rows._base.shape[0])  # type: ignore[union-attr]
        return rows @ h

    start = torch.randn(500, dtype=torch.float64, generator=generator())
    extremes(product, start, count=5, steps=60, basis=12, tolerance=1e-30, generator=generator())
    assert set(seen) == {13} and len(seen) == 60


@pytest.mark.parametrize("n", [12, 300])
@pytest.mark.parametrize("spectrum", [[5.0, 5.0, 4.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0, 1.0], [3.0, 1.0, 0.0, 0.0, 0.0]])
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(n: int, spectrum: list[float]) -> None:
    rest = torch.zeros(n - 5) if spectrum[-1] == 0 else torch.linspace(-1, 0.5, n - 5)
    h = matrix(torch.cat([torch.tensor(spectrum), rest]).double())
    assert rayleigh(top(h, steps=200), h).tolist()[:5] == pytest.approx(spectrum, abs=1e-8)


@pytest.mark.parametrize("n", [3, 12, 300])
def test_a_zero_matrix_has_zero_eigenvalues(n: int) -> None:
    h = torch.zeros(n, n, dtype=torch.float64)
    found = top(h, steps=40)
    assert rayleigh(found, h).abs().max() == 0 and len(found.vectors) == min(n, 5) + 1


def test_a_multiple_of_the_identity() -> None:
    h = -2.5 * torch.eye(300, dtype=torch.float64)
    assert rayleigh(top(h, steps=60), h).tolist() == pytest.approx([-2.5] * 6, rel=1e-12)


def test_a_start_orthogonal_to_the_top_does_not_hide_it() -> None:
    h = torch.diag(bulk())
    start = torch.randn(500, dtype=torch.float64, generator=generator())
    start[:2] = 0  # exactly: no product ever reaches the two largest
    found = extremes(lambda rows: rows @ h, start, count=3, steps=400, basis=24, tolerance=1e-9, generator=generator())
    assert found is not None and rayleigh(found, h).tolist()[:3] == pytest.approx([20, 11, 7], rel=1e-9)


def test_float32_reaches_what_float32_can_tell() -> None:
    h = matrix(bulk()).float()
    found = top(h.double(), tolerance=1e-4)
    single = extremes(
        lambda rows: rows @ h,
        torch.randn(500, generator=generator(1)),
        count=5,
        steps=400,
        basis=24,
        tolerance=1e-4,
        generator=generator(2),
    )
    assert single is not None and single.products < 100 and found.products < 100
    assert ((single.vectors @ h) * single.vectors).sum(1).tolist()[:5] == pytest.approx([20, 11, 7, 5, 3.5], rel=1e-5)


def test_a_product_that_is_not_finite_gives_nothing() -> None:
    h = matrix(bulk())
    calls = []

    def product(rows: Tensor) -> Tensor:
        calls.append(1)
        return rows @ h * (math.nan if len(calls) == 4 else 1)

    start = torch.randn(500, dtype=torch.float64)
    assert extremes(product, start, count=2, steps=50, basis=12, tolerance=1e-9, generator=generator()) is None
    calls.clear()
    assert quadrature(product, start, 20, generator()) is None


def test_quadrature_is_exact_for_polynomials_below_twice_its_steps() -> None:
    h = matrix(torch.linspace(-1, 1, 60).double())
    start = torch.randn(60, dtype=torch.float64, generator=generator(3))
    unit = start / start.norm()
    got = quadrature(lambda rows: rows @ h, start, 6, generator())
    assert got is not None and len(got[0]) == 6
    power, exact = unit.clone(), []
    for _ in range(13):
        exact.append(float(unit @ power))
        power = h @ power
    moments = [float((got[1] * got[0] ** k).sum()) for k in range(13)]
    assert moments[:12] == pytest.approx(exact[:12], abs=1e-12)
    assert abs(moments[12] - exact[12]) > 1e-6
    assert (got[1] >= 0).all() and got[1].dtype == torch.float64


def test_quadrature_stops_where_the_space_is_invariant() -> None:
    h = torch.diag(torch.tensor([2.0, 2.0, 2.0, -1.0])).double()
    got = quadrature(lambda rows: rows @ h, torch.ones(4, dtype=torch.float64), 4, generator())
    assert got is not None
    assert got[0].tolist() == pytest.approx([-1, 2]) and got[1].tolist() == pytest.approx([0.25, 0.75])


def test_inner_products_of_long_rows_are_exact_to_single_precision() -> None:
    x = torch.full((1, 3_000_001), 0.1)
    assert float(inner(x, x)) == pytest.approx(3_000_001 * float(torch.tensor(0.1).double() ** 2), rel=1e-6)


# ------------------------------------------------------------------------------------------------------------------- the trace


def signs(n: int, draw: torch.Generator, count: int) -> Tensor:
    return torch.randint(0, 2, (count, n), generator=draw).double() * 2 - 1


@pytest.mark.parametrize("known", [0, 3])
def test_the_traces_standard_error_is_calibrated_over_200_seeds(known: int) -> None:
    h = matrix(bulk(60))
    vectors = torch.linalg.eigh(h)[1].T.flip(0)[:known]
    part = float(((vectors @ h) * vectors).sum())
    scores, errors = [], []
    for seed in range(200):
        draw = generator(seed)
        value, error = trace(lambda rows: rows @ h, lambda count, draw=draw: signs(60, draw, count), 30, vectors, part)  # type: ignore[misc]
        scores.append((value - float(torch.trace(h))) / error)
        errors.append(error)
    z = torch.tensor(scores)
    assert abs(float(z.mean())) < 0.22  # three standard errors of a mean of 200
    assert float(z.std()) == pytest.approx(1.04, abs=0.16)  # Student's t with 29 degrees; three standard errors of a deviation
    exact = h - vectors.T @ vectors @ h
    off = exact - torch.diag(exact.diagonal())
    assert sum(errors) / 200 == pytest.approx(math.sqrt(2 * float((off**2).sum()) / 30), rel=0.1)


def test_the_number_of_probes_is_fixed_and_so_is_the_work() -> None:
    h, rows_seen = matrix(bulk(60)), []

    def product(rows: Tensor) -> Tensor:
        rows_seen.append(len(rows))
        return rows @ h

    for probes in (3, 5, 12):
        rows_seen.clear()
        trace(product, lambda count: signs(60, generator(), count), probes, torch.zeros(0, 60).double(), 0.0)
        assert sum(rows_seen) == probes
        assert len(rows_seen) == math.ceil(probes / TOGETHER)  # each shares a forward and a first backward


def test_what_the_eigenvectors_hold_is_exact() -> None:
    h = matrix([7.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    vectors = torch.linalg.eigh(h)[1].T[-2:]
    value, error = trace(lambda rows: rows @ h, lambda count: signs(6, generator(), count), 5, vectors, 10.0)
    assert value == pytest.approx(10, rel=1e-12) and error < 1e-12


def test_a_trace_of_what_is_not_finite_is_not_a_number() -> None:
    value, error = trace(lambda rows: rows * math.inf, lambda count: signs(6, generator(), count), 5, torch.zeros(0, 6).double(), 0.0)
    assert math.isnan(value) and math.isnan(error)


def test_projecting_out_leaves_nothing_behind() -> None:
    basis = torch.linalg.qr(torch.randn(40, 7, dtype=torch.float64))[0].T.contiguous()
    x = torch.randn(3, 40, dtype=torch.float64)
    before = x.clone()
    coefficients = project_out(x, basis)
    assert (basis @ x.T).abs().max() < 1e-14
    assert torch.allclose(x + coefficients.T @ basis, before, atol=1e-13)
