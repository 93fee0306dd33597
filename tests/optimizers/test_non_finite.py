"""A gradient that is not finite costs one step, not the run; degenerate but finite gradients are no special case."""

import numpy as np
import pytest
import torch
from optimizer_oracles import Bowl, Net, batch, flat, net_closure, sam_gradient, same
from registered import FOREIGN, passes, registered
from torch import nn

from sam.config import ConfigError
from sam.core.passes import Passes
from sam.optimizers.sam import SAM, SGD
from sam.optimizers.xsam import XSAM

METHODS = {
    **{name: (passes()[name], make) for name, make in registered(rho=0.1).items()},
    "sam_n3": (4, lambda base, **k: SAM(base, rho=0.1, steps=3, **k)),
    "sam_n3_boundary_mean": (4, lambda base, **k: SAM(base, rho=0.1, steps=3, rule="boundary", descent_gradient="mean", **k)),
    "sam_n3_layer_scope": (4, lambda base, **k: SAM(base, rho=0.1, steps=3, norm_scope="layer", **k)),
    "xsam": (2, lambda base, **k: XSAM(base, rho=0.1, alphas=[0.0, 1.0, 2.0], **k)),
    "xsam_k2": (3, lambda base, **k: XSAM(base, rho=0.1, steps=2, alpha=0.5, **k)),
}
CASES = [(name, at) for name, (passes, _) in METHODS.items() for at in range(passes)]


def build(name: str, fused: bool) -> tuple[Net, torch.optim.Optimizer]:
    model = Net(torch.float32)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=fused)
    return model, METHODS[name][1](base, passes=Passes(model))


def momenta(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [state["momentum_buffer"].clone() for state in optimizer.state.values() if state.get("momentum_buffer") is not None]


def poison(model: nn.Module, at: int, value: float):
    """A closure whose `at`-th backward pass yields one entry `value` in one gradient, as a half-precision overflow does."""
    inner, calls = net_closure(model, batch(dtype=torch.float32)), []

    def closure(backward: bool = True):
        loss = inner(backward)
        if backward:
            calls.append(1)
            if len(calls) == at + 1:
                model.conv2.weight.grad[0, 0, 0, 0] = value
        return loss

    return closure


@pytest.mark.contract
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("name", "at"), CASES)
def test_a_non_finite_gradient_in_any_pass_skips_the_step(name: str, at: int, first: bool, fused: bool, value: float) -> None:
    """The very first step counts too: torch's fused SGD leaves its momentum uninitialised if that one is skipped."""
    model, optimizer = build(name, fused)
    clean, reference = build(name, fused)
    good = net_closure(model, batch(seed=1, dtype=torch.float32)), net_closure(clean, batch(seed=1, dtype=torch.float32))
    if not first:
        optimizer.step(good[0])
        reference.step(good[1])
    weights, before = [p.detach().clone() for p in model.parameters()], momenta(optimizer)
    optimizer.step(poison(model, at, value))
    assert same(list(model.parameters()), weights)
    assert int(optimizer.skipped) == 1
    assert same(momenta(optimizer), before) or (first and all(not m.any() for m in momenta(optimizer)))
    if not optimizer.generators:  # the next draw is another one
        optimizer.step(good[0])
        if first and "xsam" not in name and (name not in FOREIGN or optimizer.phase is None):
            reference.step(good[1])
            assert same(list(model.parameters()), list(clean.parameters()))  # as if the bad step had not been
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(("name", "at"), [("sam", 0), ("sam_n3", 2), ("xsam_k2", 1)])
def test_an_ascent_that_is_not_finite_is_noticed_even_if_the_last_gradient_is(name: str, at: int, value: float) -> None:
    """A loss may hide NaN weights (a clamp, an untaken branch): the last gradient is finite then, and means nothing."""
    w = nn.Parameter(torch.ones(3))
    optimizer = METHODS[name][1](torch.optim.SGD([w], lr=0.1, fused=True))
    calls = []

    def closure(backward: bool = True):
        calls.append(1)
        w.grad = torch.full((3,), value if len(calls) == at + 1 else 1.0)
        return torch.zeros(())

    optimizer.step(closure)
    assert torch.equal(w, torch.ones(3)) and int(optimizer.skipped) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_plain_sgd_dies_of_it(fused: bool) -> None:
    """The comparison: without the guard one infinite entry ends the run."""
    model = Net(torch.float32)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    poison(model, 0, float("inf"))()
    base.step()
    assert not model.conv2.weight.isfinite().all()


@pytest.mark.contract
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_moves_nothing(name: str, dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.ones(3, 2, dtype=dtype))
    optimizer = METHODS[name][1](torch.optim.SGD([w], lr=0.1, momentum=0.9, fused=True))

    def closure(backward: bool = True):
        loss = (w * 0).sum()
        if backward:
            loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert torch.equal(w, torch.ones_like(w)) and int(optimizer.skipped) == 0
    assert not any(torch.isnan(v) for k, v in optimizer.stats.items() if k != "decay_ratio")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parallel_directions_give_the_gradient(dtype: torch.dtype) -> None:
    """A loss linear in the weights: g_1 = g_0, the two directions span no plane, XSAM acts as SAM (and SGD)."""
    for seed in range(20):
        slope = torch.randn(50, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        w = nn.Parameter(torch.zeros(50, dtype=dtype))
        optimizer = XSAM(torch.optim.SGD([w], lr=1.0, fused=True), rho=0.1)

        def closure(backward: bool = True, w=w, slope=slope):
            loss = w @ slope
            if backward:
                loss.backward()
            return loss

        optimizer.step(closure)
        assert torch.allclose(w, -slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_another_base_optimizer(fused: bool) -> None:
    """AdamW as the base: fed SAM's gradient (Foret et al. 2021, Eq. 3), and a bad step leaves its moments and step count alone."""
    bowl = Bowl()
    parameters, reference = bowl.parameters(), bowl.parameters()
    optimizer = SAM(torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1, fused=fused), rho=0.3)
    plain = torch.optim.AdamW(reference, lr=0.05, weight_decay=0.1, fused=fused)
    closure = bowl.closure(parameters)

    def bad(backward: bool = True):
        loss = closure()
        parameters[0].grad[0, 0] = float("inf")
        return loss

    for _ in range(4):
        optimizer.step(bad)
        optimizer.step(closure)
        g = torch.tensor(sam_gradient(bowl.grad, flat(reference), 0.3))
        for p, piece in zip(reference, g.split(bowl.sizes), strict=True):
            p.grad = piece.view(p.shape)
        plain.step()
        np.testing.assert_allclose(flat(parameters), flat(reference), rtol=1e-11)
    assert int(optimizer.skipped) == 4


def test_dampened_momentum() -> None:
    """torch's first step ignores the dampening: a momentum started at zero, as the fused skip needs, would not."""
    bowl = Bowl()
    parameters, reference = bowl.parameters(), bowl.parameters()
    options = {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "fused": True}
    optimizer, plain = SGD(torch.optim.SGD(parameters, **options)), torch.optim.SGD(reference, **options)
    for _ in range(3):
        optimizer.step(bowl.closure(parameters))
        plain.zero_grad()
        bowl.closure(reference)()
        plain.step()
        assert same(parameters, reference)
    before = [p.detach().clone() for p in parameters]
    optimizer.step(lambda backward=True: (bowl.closure(parameters)(), parameters[0].grad.fill_(float("nan")))[0])
    assert same(parameters, before)


def test_every_gradient_missing_is_an_error_and_a_step_that_does_nothing() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = SGD(torch.optim.SGD([w], lr=0.1, weight_decay=0.1))
    with pytest.raises(ConfigError, match=r"left no gradient; it must call loss.backward\(\)"):
        optimizer.step(lambda backward=True: torch.zeros(()))
    assert torch.equal(w, torch.ones(2)) and optimizer.steps_taken == 0
