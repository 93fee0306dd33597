"""`radius=uniform`: r ~ U[0, rho], one for each step, against the papers' updates with the same r."""

import numpy as np
import pytest
import torch
from optimizer_oracles import RULES, BaseSGD, Bowl, Net, batch, flat, net_closure, net_gradient, sam_gradient, unit
from scipy import stats

from sam.core.passes import Passes
from sam.optimizers.build import build
from sam.optimizers.sam import SAM, RandSAM
from sam.optimizers.settings import OptimizerConfig

RHO, SEED = 0.4, 11
SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True}


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def drawn(draws: torch.Generator) -> float:
    return torch.rand((), generator=draws, dtype=torch.float64).item()


def direction(draws: torch.Generator, shapes) -> np.ndarray:
    """As Rand-SAM draws it: each tensor on its own, which for long ones is another order than one draw of all."""
    return unit(torch.cat([torch.empty(s, dtype=torch.float64).normal_(generator=draws).reshape(-1) for s in shapes]).numpy())


@pytest.mark.parametrize("descent", ["last", "mean"])
@pytest.mark.parametrize(("steps", "rule"), [(1, "split"), *((3, rule) for rule in RULES)])
def test_sam(steps: int, rule: str, descent: str) -> None:
    """Five steps: the radius of the paper's update (of every step of an ascent, and of the ball) is r."""
    bowl, draws, base, w = Bowl(quartic=1.0), stream(), BaseSGD(0.05, 0.9, True), Bowl(quartic=1.0).start
    parameters = bowl.parameters()
    optimizer = SAM(
        torch.optim.SGD(parameters, **SGD),
        rho=RHO, steps=steps, rule=rule, descent_gradient=descent, radius="uniform", generator=stream(),
    )  # fmt: skip
    lengths = []
    for _ in range(5):
        r = RHO * drawn(draws)
        w = base.step(w, sam_gradient(bowl.grad, w, r, steps, rule, descent))
        optimizer.step(bowl.closure(parameters))
        lengths.append(optimizer.stats["eps_over_rho"].item() * RHO / r)
        np.testing.assert_allclose(flat(parameters), w, rtol=1e-11)
    if steps == 1 or rule == "boundary":
        assert lengths == pytest.approx([1.0] * 5, rel=1e-6)  # ||eps|| / rho is r / rho


def test_rand_sam() -> None:
    bowl, draws, w = Bowl(), stream(), Bowl().start
    parameters = bowl.parameters()
    optimizer = RandSAM(torch.optim.SGD(parameters, lr=0.1), rho=RHO, radius="uniform", generator=stream())
    for _ in range(5):
        u = drawn(draws)
        w = w - 0.1 * bowl.grad(w + u * RHO * direction(draws, bowl.shapes))
        optimizer.step(bowl.closure(parameters))
        assert optimizer.stats["eps_over_rho"].item() == pytest.approx(u, rel=1e-6)
        np.testing.assert_allclose(flat(parameters), w, rtol=1e-12)


@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
@pytest.mark.parametrize("cls", [SAM, RandSAM])
def test_lengths_are_uniform(cls, scope: str) -> None:
    """600 steps that do not move: ||eps|| / rho against U[0, 1], and each step's is drawn anew."""
    bowl = Bowl()
    parameters = bowl.parameters()
    seen, evaluate = [], bowl.closure(parameters)

    def closure(backward: bool = True):
        seen.append(np.linalg.norm(flat(parameters) - bowl.start))
        return evaluate(backward)

    optimizer = cls(torch.optim.SGD(parameters, lr=0.0), rho=RHO, radius="uniform", generator=stream(), norm_scope=scope)
    for _ in range(600):
        optimizer.step(closure)
    lengths = np.array(seen[1::2] if cls is SAM else seen) / RHO
    assert stats.kstest(lengths, "uniform").pvalue > 1e-3 and lengths.max() <= 1
    assert abs(np.corrcoef(lengths[1:], lengths[:-1])[0, 1]) < 4 / 600**0.5


def test_all_groups_of_samples_share_it() -> None:
    """m-sharpness: one r a step, and for Rand-SAM a direction for each group after it."""
    for cls in (SAM, RandSAM):
        model, draws = Net(), stream()
        data, shares = [batch(n, seed) for seed, n in enumerate((6, 6, 3))], [0.4, 0.4, 0.2]
        optimizer = cls(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, radius="uniform", generator=stream(), passes=Passes(model))
        for _ in range(2):
            w, r = flat(model.parameters()), RHO * drawn(draws)
            expected = np.zeros_like(w)
            for share, part in zip(shares, data, strict=True):
                g = net_gradient(model, part, w)
                step = unit(g) if cls is SAM else direction(draws, [p.shape for p in model.parameters()])
                expected += share * net_gradient(model, part, w + r * step)
            optimizer.step([net_closure(model, part) for part in data], weights=shares)
            np.testing.assert_allclose(flat(model.parameters()), w - 0.1 * expected, rtol=1e-10, atol=1e-12)


def test_each_parameter_group_has_its_share_of_its_own_rho() -> None:
    bowl, u = Bowl(), drawn(stream())
    parameters = bowl.parameters()
    groups = [{"params": parameters[:1], "rho": 0.1}, {"params": parameters[1:], "rho": 0.7}]
    optimizer = SAM(torch.optim.SGD(groups, lr=0.1), radius="uniform", generator=stream())
    optimizer.step(bowl.closure(parameters))
    eps = u * np.array([0.1] * 6 + [0.7] * 6) * unit(bowl.grad(bowl.start))
    np.testing.assert_allclose(flat(parameters), bowl.start - 0.1 * bowl.grad(bowl.start + eps), rtol=1e-12)


@pytest.mark.parametrize("method", ["sam", "rand_sam", "xsam", "sgd"])
def test_what_a_fixed_radius_holds_is_as_ever(method: str) -> None:
    """No stream is drawn from, or saved, but Rand-SAM's; XSAM and SGD do not read the key."""
    optimizer = build(Net(), OptimizerConfig.of(method=method), steps_per_epoch=2, generator=stream())
    assert len(optimizer.generators) == (method == "rand_sam")
    assert ("streams" in optimizer.method_state()) == (method == "rand_sam")
    drawing = build(Net(), OptimizerConfig.of(method=method, radius="uniform"), steps_per_epoch=2, generator=stream())
    assert len(drawing.generators) == (method in ("sam", "rand_sam"))


def test_a_state_that_names_its_one_stream_otherwise_is_read() -> None:
    """As checkpoints of old hold it."""
    first, second = (RandSAM(torch.optim.SGD(Bowl().parameters(), lr=0.1), generator=stream()) for _ in range(2))
    first.generators[0].manual_seed(5)
    second.load_method_state({"generator": first.generators[0].get_state()})
    assert torch.equal(second.generators[0].get_state(), first.generators[0].get_state())
