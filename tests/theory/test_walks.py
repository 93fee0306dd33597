"""The toys end where theory says, the product's SAM in its cycle, and L^Asc has the gradient that it is descended along."""

import math

import pytest
import torch
from torch import Tensor

from sam.config import ConfigError
from sam.schema import from_dict
from sam.theory import toys
from sam.theory.limits import table
from sam.theory.settings import NetworkConfig, TheoryConfig
from sam.theory.toys import ENDS, cycle, heights, toy, toy_ascent_gradient, toy_trajectory
from sam.theory.walks import ascent_gradient, trajectory


def bumpy(w: Tensor) -> Tensor:
    """A loss without a constant Hessian."""
    return (w[0] ** 2 * (1 + w[1] ** 2) + torch.sin(w[1] * w[2]) + w[2] ** 4 + 0.3 * w.sum()).sum()


def after_ascent(w: Tensor, rho: float) -> Tensor:
    """L^Asc as it is defined, for automatic differentiation through all of it: the oracle."""
    g = torch.func.grad(bumpy)(w)
    return bumpy(w + rho * g / g.norm())


@pytest.mark.parametrize("rho", [0.05, 0.7])
def test_the_gradient_of_l_asc_goes_through_the_normalisation(rho: float) -> None:
    w = torch.tensor([0.4, -0.8, 0.9], dtype=torch.float64)
    (found,) = ascent_gradient(lambda v: bumpy(v[0]), [w], rho)
    torch.testing.assert_close(found, torch.func.grad(after_ascent)(w, rho), rtol=1e-10, atol=1e-12)
    parts = ascent_gradient(lambda v: bumpy(torch.cat(v)), [w[:1], w[1:]], rho)  # several tensors, one norm
    torch.testing.assert_close(torch.cat(parts), found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("x", [(0.5, 0.5, 0.3, 0.3), (0.9, 0.2, -0.01, 0.2), (0.1, 1.1, 0.4, -1e-3)])
def test_the_toys_own_gradient_of_l_asc_is_the_general_one(x: tuple[float, ...]) -> None:
    (general,) = ascent_gradient(lambda w: toy(w, None), [torch.tensor(x, dtype=torch.float64)], 0.3)
    assert toy_ascent_gradient(x, 0.3) == pytest.approx(general.tolist(), rel=1e-9, abs=1e-11)


def test_the_toys_samples_have_its_loss_as_mean() -> None:
    x = [torch.tensor([0.2, 0.7, 0.3, -0.4], dtype=torch.float64)]
    assert (toy(x, torch.tensor([0])) + toy(x, torch.tensor([1]))) / 2 == pytest.approx(toy(x, None).item())


ARMS = {
    "GD": {"method": "sgd", "lr": 0.05, "steps": 300},
    "SAM": {"method": "sam", "lr": 0.1, "rho": 0.5, "steps": 300},
    "SAM, batch 1": {"method": "sam", "batch": 1, "lr": 0.05, "rho": 0.3, "steps": 700},
    "GD on L^Asc": {"method": "ascent", "lr": 1e-4, "rho": 0.3, "steps": 15_000},
}


def toy_end(arm: str) -> dict[str, float]:
    return toy_trajectory(from_dict(TheoryConfig, {"arms": {arm: ARMS[arm]}, "records": 2}), arm)[-1]


def test_sam_ends_at_the_least_top_eigenvalue() -> None:
    end = toy_end("SAM")
    assert math.dist((end["x1"], end["x2"]), ENDS["argmin F1"]) < 0.02 and end["cos_top"] > 0.999


def test_with_batches_of_one_sam_ends_near_the_least_trace() -> None:
    """Near: at a radius of 0.3 the bias of a finite radius is seen. Of the way in F1 + F2, from 12 down to 10.66, most is gone."""
    end = toy_end("SAM, batch 1")
    height, least = (float(sum(heights(*map(torch.tensor, at)))) for at in ((end["x1"], end["x2"]), ENDS["argmin F1 + F2"]))
    assert (height - least) / (12 - least) < 0.3


def test_descent_of_l_asc_moves_towards_the_least_of_the_smallest() -> None:
    end = toy_end("GD on L^Asc")
    assert end["x1"] > 0.65 and end["x2"] > 0.52 and end["cos_smallest"] > 0.99  # from (0.5, 0.5)


def test_gradient_descent_stays() -> None:
    end = toy_end("GD")
    assert math.dist((end["x1"], end["x2"]), (0.5, 0.5)) < 0.08 and end["loss"] < 1e-12


@pytest.mark.parametrize(("lr", "rho", "n", "mean"), [(0.1, 0.05, 1, False), (0.3, 0.2, 5, False), (0.1, 0.05, 2, True)])
def test_on_a_quadratic_sam_ends_in_the_cycle_of_the_closed_form(lr: float, rho: float, n: int, mean: bool) -> None:
    found, predicted = cycle(lr, rho, n, mean, steps=300)
    assert found == pytest.approx(predicted, rel=1e-6)
    assert predicted == pytest.approx(lr * rho * 5 / (2 - lr * 5) * (0.75 if mean else 1))


def test_a_row_of_the_cycles_says_what_was_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[tuple] = []
    monkeypatch.setattr(toys, "cycle", lambda *given: walked.append(given) or (1.0, 1.0))
    rows = toys.cycles()
    assert [(row["lr"], row["rho"], row["ascent_steps"], row["descent_gradient"] == "mean") for row in rows] == walked


def test_the_notions_tend_to_their_limiting_regularisers() -> None:
    rows = table(radii=(1e-1, 1e-3))
    assert len(rows) == 12 and all(row["relative_error"] < 1e-3 for row in rows if row["rho"] == 1e-3)
    for coarse, fine in zip(rows[::2], rows[1::2], strict=True):
        assert fine["relative_error"] < 0.1 * float(coarse["relative_error"])


def test_a_trajectory_holds_the_start_and_evenly_spaced_records() -> None:
    taken: list[int] = []

    def steps():
        while True:
            taken.append(len(taken) + 1)
            yield

    rows = trajectory(steps(), 10, 5, lambda: {"taken": float(len(taken))})
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8, 10] == [row["taken"] for row in rows]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arms": {}}, "arms"),
        ({"arms": {"A": {"method": "adam"}}}, "method=adam: must be one of"),
        ({"arms": {"A": {}}, "part": 2.0}, "part=2.0"),
        ({"arms": {"A": {}}, "samples": 65}, "samples=65"),
        ({"arms": {"A": {}}, "inputs": "cifar"}, "inputs=cifar: must be one of digits, gaussian"),
    ],
)
def test_what_cannot_be_is_one_sentence(keys: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_dict(NetworkConfig, keys)
