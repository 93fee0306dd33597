"""Known behaviour over many steps: Wen et al.'s limit cycles, and what each method minimises on a 4-D toy of their form.

Wen, Ma & Li 2023 ("How Does SAM Minimize Sharpness?"): L = 1/2 F1(x1, x2) x3^2 + 1/2 F2(x1, x2) x4^2 with F1 > F2 > 0 has the minimisers
{x3 = x4 = 0} with Hessian eigenvalues F1, F2 there. The functions F1, F2 below are recalled, not checked against the paper's appendix.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sam.optimizers.sam import SAM, SGD, RandSAM


class Cycle:
    """1/2 x'Ax with A = diag(5, 3, 1, 1/2)."""

    EIGENVALUES, LR, RHO = (5.0, 3.0, 1.0, 0.5), 0.1, 0.05

    def run(self, **options) -> np.ndarray:
        x, diagonal = (
            nn.Parameter(torch.tensor([0.3, -0.2, 0.4, 0.1], dtype=torch.float64)),
            torch.tensor(self.EIGENVALUES, dtype=torch.float64),
        )
        optimizer = SAM(torch.optim.SGD([x], lr=self.LR, fused=True), rho=self.RHO, **options)
        optimizer.diagnose = False

        def closure(backward: bool = True) -> Tensor:
            x.grad = diagonal * x.detach()
            return x.new_zeros(())

        for _ in range(700):
            optimizer.step(closure)
        return x.detach().numpy()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_limit_cycle_of_theorem_4_8(steps: int) -> None:
    """SAM ends on +-v_1 with norm eta rho l1 / (2 - eta l1); so does every N of the split rule (the steps are then collinear)."""
    x = Cycle().run(steps=steps)
    assert np.linalg.norm(x) == pytest.approx(0.1 * 0.05 * 5 / (2 - 0.1 * 5), rel=1e-9)  # 1/60
    assert abs(x[0]) == pytest.approx(np.linalg.norm(x), rel=1e-9)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_the_mean_gradients_cycle_is_smaller(steps: int) -> None:
    """Averaging over w^1 .. w^N perturbs by rho (N+1)/(2N) in the mean, and the cycle shrinks by that factor."""
    x = Cycle().run(steps=steps, descent_gradient="mean")
    assert np.linalg.norm(x) == pytest.approx((steps + 1) / (2 * steps) / 60, rel=1e-9)
    assert abs(x[0]) == pytest.approx(np.linalg.norm(x), rel=1e-9)


class Toy:
    """F1 = x1^2 + 6 x2^2 + 8, F2 = 4 (1-x1)^2 + (1-x2)^2 + 1. F1 is least at (0, 0), F2 at (1, 1), F1 + F2 at (4/5, 1/7)."""

    def __init__(self, start: tuple[float, ...] = (0.5, 0.5, 0.3, 0.3)) -> None:
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.term = 0  # 0: the whole loss; 1, 2: twice one term (1-SAM picks one sample a step)

    def closure(self, backward: bool = True) -> Tensor:
        a, b, c, d = self.x.tolist()
        first, second = (1.0, 1.0) if not self.term else (2.0 * (self.term == 1), 2.0 * (self.term == 2))
        f1, f2 = first * (a * a + 6 * b * b + 8), second * (4 * (1 - a) ** 2 + (1 - b) ** 2 + 1)
        gradient = [
            first * a * c * c - second * 4 * (1 - a) * d * d,
            first * 6 * b * c * c - second * (1 - b) * d * d,
            f1 * c,
            f2 * d,
        ]
        self.x.grad = torch.tensor(gradient, dtype=torch.float64)
        return torch.tensor(0.5 * f1 * c * c + 0.5 * f2 * d * d)

    def run(self, optimizer, steps: int, pick: np.random.RandomState | None = None) -> np.ndarray:
        optimizer.diagnose = False
        for _ in range(steps):
            if pick is not None:
                self.term = 1 + pick.randint(2)
            optimizer.step(self.closure)
        return self.x.detach().numpy()

    def base(self, lr: float) -> torch.optim.SGD:
        return torch.optim.SGD([self.x], lr=lr, fused=True)


def test_full_batch_sam_minimises_the_top_eigenvalue() -> None:
    """Theorem 4.5: SAM drifts along the minimisers towards the smallest l1 = F1, to (0, 0)."""
    toy = Toy()
    x = toy.run(SAM(toy.base(0.05), rho=0.2), 3000)
    np.testing.assert_allclose(x[:2], 0, atol=1e-3)
    assert abs(x[2]) / np.linalg.norm(x[2:]) > 0.999  # aligned with the top eigenvector


@pytest.mark.slow
def test_full_batch_sam_drifts_at_the_rate_of_the_flow() -> None:
    """dX/dt = -eta rho^2/2 grad F1 a step: x1 halves ... as exp(-eta rho^2 t), x2 six times faster. Leading order in rho."""
    toy, lr, rho = Toy((0.5, 0.02, 0.01, 0.0)), 0.01, 0.05
    optimizer = SAM(toy.base(lr), rho=rho)
    begin = toy.run(optimizer, 200).copy()  # onto the cycle
    end = toy.run(optimizer, 3000)
    assert math.log(begin[0] / end[0]) == pytest.approx(lr * rho**2 * 3000, rel=0.1)
    assert math.log(begin[1] / end[1]) == pytest.approx(6 * lr * rho**2 * 3000, rel=0.1)


@pytest.mark.slow
def test_n_steps_drift_as_one_does() -> None:
    ends = []
    for n in (1, 2, 3):
        toy = Toy()
        ends.append(toy.run(SAM(toy.base(0.02), rho=0.1, steps=n), 1500)[:2].copy())
    assert np.linalg.norm(ends[0] - [0.5, 0.5]) > 0.1
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, atol=5e-3)


@pytest.mark.slow
def test_1_sam_minimises_the_trace() -> None:
    """Theorem 5.3: with one sample a step the drift is that of F1 + F2, towards (4/5, 1/7) and not towards (0, 0)."""
    toy, lr, rho = Toy((0.8, 0.5, 0.01, 0.01)), 0.02, 0.1
    x = toy.run(SAM(toy.base(lr), rho=rho), 5000, np.random.RandomState(0))
    flow = 1 / 7 + (0.5 - 1 / 7) * math.exp(-7 * lr * rho**2 * 5000)
    assert x[1] == pytest.approx(flow, abs=0.06) and x[1] < 0.2
    assert x[0] == pytest.approx(0.8, abs=0.06)  # SAM on both terms would have moved it to 0.8 exp(-1) = 0.29


@pytest.mark.slow
def test_rand_sam_minimises_the_trace() -> None:
    """Average direction: the drift is -eta rho^2/(2D) grad(F1 + F2), D = 4, slower by 4 than 1-SAM's."""
    toy, lr, rho = Toy((0.8, 0.5, 0.01, 0.01)), 0.05, 0.2
    x = toy.run(RandSAM(toy.base(lr), rho=rho, generator=torch.Generator().manual_seed(0)), 6000)
    flow = 1 / 7 + (0.5 - 1 / 7) * math.exp(-7 * lr * rho**2 / 4 * 6000)
    assert x[1] == pytest.approx(flow, abs=0.08)
    assert x[0] == pytest.approx(0.8, abs=0.08)


def test_gradient_descent_drifts_nowhere() -> None:
    toy = Toy((0.8, 0.5, 0.01, 0.01))
    np.testing.assert_allclose(toy.run(SGD(toy.base(0.05)), 2000)[:2], [0.8, 0.5], atol=1e-3)
