"""Rand-SAM's draws: on the sphere, isotropic, and from a stream of their own."""

import numpy as np
import pytest
import torch
from optimizer_oracles import Bowl, Net, batch, flat, net_closure
from scipy import stats
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.sam import RandSAM

RHO = 0.2


def draws(count: int, rho: float = RHO, shapes: tuple[tuple[int, ...], ...] = ((2, 2), (3,)), seed: int = 0, **options) -> np.ndarray:
    """(count, D) perturbations of one optimizer whose base does not move."""
    parameters = [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in shapes]
    seen = []

    def closure(backward: bool = True):
        seen.append(flat(parameters))
        for p in parameters:
            p.grad = torch.zeros_like(p)
        return parameters[0].new_zeros(())

    optimizer = RandSAM(torch.optim.SGD(parameters, lr=0.0, fused=True), rho=rho, generator=torch.Generator().manual_seed(seed), **options)
    optimizer.diagnose = False
    for _ in range(count):
        optimizer.step(closure)
    return np.array(seen)


@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_length_is_exactly_rho(rho: float, scope: str) -> None:
    np.testing.assert_allclose(np.linalg.norm(draws(20, rho, norm_scope=scope), axis=1), rho, rtol=1e-12)


def test_length_in_float32_on_a_net() -> None:
    model = Net(torch.float32)
    before, seen = flat(model.parameters()), []
    inner = net_closure(model, batch(dtype=torch.float32))

    def closure(backward: bool = True):
        seen.append(flat(model.parameters()) - before)
        return inner(backward)

    optimizer = RandSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, passes=Passes(model))
    optimizer.step(closure)
    assert np.linalg.norm(seen[0]) == pytest.approx(RHO, rel=1e-5)
    assert optimizer.stats["eps_over_rho"].item() == pytest.approx(1, rel=1e-6)


@pytest.mark.slow
def test_isotropic() -> None:
    """Mean 0 and covariance rho^2 I / D over 4000 draws: every entry's z-score, against the largest of as many normals at level 1e-3.

    For a uniform direction u in D dimensions: Var u_i = 1/D, E u_i^4 = 3/(D(D+2)), E u_i^2 u_j^2 = 1/(D(D+2)).
    """
    u = draws(4000) / RHO
    n, d = u.shape
    z = [u.mean(0) / (1 / (d * n)) ** 0.5]
    moments = np.einsum("ni,nj->ij", u, u) / n
    off = moments[np.triu_indices(d, 1)] / (1 / (d * (d + 2)) / n) ** 0.5
    on = (np.diag(moments) - 1 / d) / ((3 / (d * (d + 2)) - 1 / d**2) / n) ** 0.5
    z = np.concatenate([*z, off, on])
    assert len(z) == 7 + 21 + 7
    assert np.abs(z).max() < stats.norm.isf(1e-3 / 2 / len(z))
    np.testing.assert_allclose(np.trace(moments), 1, rtol=1e-12)
    assert stats.kstest(u[:, 0], stats.beta((d - 1) / 2, (d - 1) / 2, loc=-1, scale=2).cdf).pvalue > 1e-3


def test_each_step_draws_anew() -> None:
    u = draws(50) / RHO
    cosines = (u @ u.T)[np.triu_indices(50, 1)]
    assert np.abs(cosines).max() < 1 - 1e-6


def test_its_stream_is_its_own() -> None:
    """Neither torch's nor anybody else's stream moves, and none of them moves the draws."""
    other = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    before = torch.get_rng_state(), other.get_state(), np.random.get_state()[1].copy()
    first = draws(5)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(other.get_state(), before[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])
    torch.manual_seed(77)
    np.testing.assert_array_equal(draws(5), first)
    assert np.abs(draws(5, seed=1) - first).min() > 0


def test_state_continues_the_same_draws() -> None:
    bowl = Bowl()
    runs = []
    for interrupted in (False, True):
        parameters = bowl.parameters()
        optimizer = RandSAM(torch.optim.SGD(parameters, lr=0.1), rho=RHO, generator=torch.Generator().manual_seed(4))
        for k in range(6):
            if interrupted and k == 3:
                state = optimizer.state_dict()
                optimizer = RandSAM(torch.optim.SGD(parameters, lr=0.1), rho=RHO, generator=torch.Generator().manual_seed(99))
                optimizer.load_state_dict(state)
            optimizer.step(bowl.closure(parameters))
        runs.append(flat(parameters))
    np.testing.assert_array_equal(*runs)


def test_seeds_draw_other_directions_without_a_generator_of_their_own() -> None:
    def eps(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        w, seen = nn.Parameter(torch.zeros(4, dtype=torch.float64)), []

        def closure(backward: bool = True):
            seen.append(flat([w]))
            w.grad = torch.zeros_like(w)
            return w.new_zeros(())

        RandSAM(torch.optim.SGD([w], lr=0.0), rho=RHO).step(closure)
        return np.array(seen)

    assert (eps(1) == eps(1)).all() and not np.allclose(eps(1), eps(2))
    torch.manual_seed(1)
    weights = torch.randn(4, dtype=torch.float64).numpy()  # as a model's are made
    assert not np.allclose(eps(1)[0] / RHO, weights / np.linalg.norm(weights))
