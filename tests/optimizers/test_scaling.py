"""Loss scaling: a step with scaled gradients is the step without, and an overflow costs one step and half the scale."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_oracles import Net, batch, flat, net_closure, same
from registered import of, passes, registered
from torch import Tensor, nn
from torch.nn import functional

from sam.config import ConfigError
from sam.core.device import LossScale, autocast, loss_scale
from sam.core.passes import Passes
from sam.optimizers.base import Method
from sam.optimizers.sam import SAM
from sam.optimizers.xsam import XSAM

METHODS: dict[str, Callable[..., Method]] = {
    **registered(rho=0.1),
    "sam_clipped": lambda base, **k: SAM(base, rho=0.1, grad_clip=0.05, **k),
    "sam_n3_mean": lambda base, **k: SAM(base, rho=0.1, steps=3, rule="project", descent_gradient="mean", **k),
    "usam": of(method="weighted_sam", rho=0.1, normalized=False),
    "sam_filter": lambda base, **k: SAM(base, rho=0.1, steps=2, norm_scope="filter", **k),
    "xsam": lambda base, **k: XSAM(base, rho=0.1, steps=2, search_interval=3, **k),
}
PASSES = passes() | {"sam_clipped": 2, "sam_n3_mean": 4, "sam_filter": 3, "usam": 2, "xsam": 3}


def build(name: str, scaling: LossScale | None, fused: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Net, Method]:
    model = Net(dtype)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=fused)
    return model, METHODS[name](base, loss_decay=1e-2, passes=Passes(model), scaling=scaling)


def scaled_closure(
    model: nn.Module, data: tuple[Tensor, Tensor], scaling: LossScale | None, bad_at: int | None = None
) -> Callable[..., Tensor]:
    inner, calls = net_closure(model, data), []

    def closure(backward: bool = True) -> Tensor:
        loss = inner(False)
        if backward:
            (loss if scaling is None else loss * scaling.value).backward()
            calls.append(1)
            if len(calls) - 1 == bad_at:
                model.conv2.weight.grad[0, 0, 0, 0] = float("inf")
        return loss

    return closure


@pytest.mark.contract
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_the_scale_cancels(name: str, groups: int) -> None:
    """Weight decay in the loss, clipping, averages over passes and groups, XSAM's plane and search: all as without a scale."""
    ends, stats, alphas = [], [], []
    for scaling in (None, LossScale("cpu", start=2.0**12)):
        model, optimizer = build(name, scaling)
        for k in range(6):
            closures = [scaled_closure(model, batch(4 + 2 * g, seed=10 * k + g), scaling) for g in range(groups)]
            loss = optimizer.step(closures)
        ends.append(flat(model.parameters()))
        stats.append({key: value.item() for key, value in optimizer.stats.items()} | {"loss": loss.item()})
        alphas.append(getattr(optimizer, "alpha", None))
    assert ends[1] == pytest.approx(ends[0], rel=1e-11)
    assert stats[1] == pytest.approx(stats[0], rel=1e-5)  # statistics are kept in float32
    assert alphas[0] == alphas[1]


@pytest.mark.contract
@pytest.mark.parametrize("name", METHODS)
def test_a_number_without_dimensions_is_a_parameter_like_others(name: str) -> None:
    """float32, beside the scale's float64, which has no dimensions either (timm's NFNets have such gains)."""
    weight, gain, scaling = nn.Parameter(torch.ones(3)), nn.Parameter(torch.tensor(1.0)), LossScale("cpu")

    def closure(backward: bool = True) -> Tensor:
        loss = (gain * weight).square().sum()
        if backward:
            (loss * scaling.value).backward()
        return loss

    optimizer = METHODS[name](torch.optim.SGD([weight, gain], lr=0.01, momentum=0.9), scaling=scaling)
    losses = [optimizer.step(closure).item() for _ in range(4)]
    assert losses[-1] < losses[0] and gain.dtype == torch.float32


@pytest.mark.contract
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("name", "at"), [(name, at) for name, passes in PASSES.items() for at in range(passes)])
def test_an_overflow_in_any_pass_skips_the_step_and_halves_the_scale(name: str, at: int, fused: bool) -> None:
    scaling = LossScale("cpu", start=1024.0)
    model, optimizer = build(name, scaling, fused, torch.float32)
    data = batch(dtype=torch.float32)
    optimizer.step(scaled_closure(model, data, scaling))
    weights = [p.detach().clone() for p in model.parameters()]
    momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    optimizer.step(scaled_closure(model, data, scaling, bad_at=at))
    assert same(list(model.parameters()), weights)
    assert same([state["momentum_buffer"] for state in optimizer.state.values()], momenta)
    assert (scaling.value.item(), int(scaling.streak), int(optimizer.skipped), bool(optimizer.bad)) == (512.0, 0, 1, True)
    optimizer.step(scaled_closure(model, data, scaling))
    assert not same(list(model.parameters()), weights) and (scaling.value.item(), int(scaling.streak)) == (512.0, 1)


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("groups", [1, 2])
def test_a_search_lost_to_an_overflow_is_made_up_in_the_next_step(at: int, groups: int) -> None:
    """The scale is found in the first steps, and the first search is due in the first: without this, an epoch would be trained with the
    alpha of before. Later searches keep their places."""
    scaling = LossScale("cpu", start=1024.0)
    model, optimizer = build("xsam", scaling, dtype=torch.float32)
    assert isinstance(optimizer, XSAM)
    searched = []
    for step in range(7):
        before = optimizer.forwards
        data = [batch(4, seed=10 * step + g, dtype=torch.float32) for g in range(groups)]
        bad_at = [at if step == 0 and g == groups - 1 else None for g in range(groups)]
        optimizer.step([scaled_closure(model, d, scaling, bad) for d, bad in zip(data, bad_at, strict=True)])
        searched.append(optimizer.forwards - before > PASSES["xsam"])
        if step == 0:
            restored = build("xsam", LossScale("cpu"), dtype=torch.float32)[1]
            restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert restored.defer  # a run that is continued here makes it up too
    assert searched == [True, True, False, True, False, False, True]
    assert all(map(math.isfinite, optimizer.probe_losses)) and int(optimizer.skipped) == 1


@pytest.mark.contract
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_forward_that_overflows_leaves_no_trace_in_batchnorm(name: str, groups: int) -> None:
    """Activations beyond float16's 65504 are infinite, and so would the running statistics be, for good."""
    scaling, context = LossScale("cpu", start=256.0), autocast("fp16", torch.device("cpu"))
    model, optimizer = build(name, scaling, dtype=torch.float32)

    def closures(size: float) -> list[Callable[..., Tensor]]:
        def closure_of(x: Tensor, y: Tensor) -> Callable[..., Tensor]:
            def closure(backward: bool = True) -> Tensor:
                with context():
                    loss = functional.cross_entropy(model(x), y)
                if backward:
                    (loss * scaling.value).backward()
                return loss

            return closure

        data = [batch(4, seed=g, dtype=torch.float32) for g in range(groups)]
        return [closure_of(x * (size if g == groups - 1 else 1.0), y) for g, (x, y) in enumerate(data)]

    optimizer.step(closures(1.0))
    before = [b.clone() for b in model.buffers()]
    optimizer.step(closures(1e6))
    assert bool(optimizer.bad) and same(list(model.buffers()), before)
    optimizer.step(closures(1.0))
    assert not bool(optimizer.bad) and not same(list(model.buffers()), before)
    assert all(b.isfinite().all() for b in model.buffers())


def test_the_scale_grows_after_a_streak_and_stays_within_bounds() -> None:
    scaling = LossScale("cpu", start=4.0, interval=3)
    good, bad = torch.tensor(False), torch.tensor(True)
    values = []
    for flag in (good, good, bad, good, good, good, good, good, good, good):
        scaling.update(flag)
        values.append(scaling.value.item())
    assert values == [4, 4, 2, 2, 2, 4, 4, 4, 8, 8]
    for _ in range(100):
        scaling.update(bad)
    assert scaling.value.item() == 2.0**-14
    for _ in range(200):
        scaling.update(good)
    assert scaling.value.item() == 2.0**24


def test_the_scale_is_part_of_the_state() -> None:
    first = build("sam", LossScale("cpu", start=64.0))[1]
    first.scaling.update(torch.tensor(True))
    first.scaling.update(torch.tensor(False))
    state = copy.deepcopy(first.state_dict())
    second = build("sam", LossScale("cpu"))[1]
    second.load_state_dict(state)
    assert (second.scaling.value.item(), int(second.scaling.streak)) == (32.0, 1)
    assert "scaling" not in build("sam", None)[1].state_dict()


# ------------------------------------------------------------------------------------- number formats against float64


def trained(precision: str, dtype: torch.dtype, scaling: LossScale | None, shrink: float = 1.0) -> tuple[Tensor, Tensor]:
    """(start, end) of 20 SAM steps of a small perceptron; `shrink` multiplies the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 12, generator=draw, dtype=torch.float64).to(dtype), torch.randint(0, 4, (24,), generator=draw)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1 / shrink, momentum=0.9, fused=True), rho=0.1, scaling=scaling)
    context = autocast(precision, torch.device("cpu"))
    start = nn.utils.parameters_to_vector(model.parameters()).detach().double()

    def closure(backward: bool = True) -> Tensor:
        with context():
            loss = functional.cross_entropy(model(x), y) * shrink
        (loss if scaling is None else loss * scaling.value).backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    return start, nn.utils.parameters_to_vector(model.parameters()).detach().double()


def error(precision: str, scaling: LossScale | None, **options: Any) -> float:
    start, exact = trained("fp32", torch.float64, None, **options)
    return ((trained(precision, torch.float32, scaling, **options)[1] - exact).norm() / (exact - start).norm()).item()


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("tf32", 1e-5), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_each_precision_stays_near_float64(precision: str, bound: float) -> None:
    """Relative error of the way gone in 20 SAM steps (tf32 is fp32 on a CPU). Coarser formats are coarser: the bounds are not slack."""
    found = error(precision, loss_scale(precision, torch.device("cpu")))
    assert found < bound
    assert found > bound / 100


def test_small_gradients_survive_float16_only_with_the_scale() -> None:
    """A loss of 1e-6: its gradients in float16 are below 6e-8 and vanish; scaled by 2^16 they do not."""
    assert error("fp16", LossScale("cpu"), shrink=1e-6) < 1e-2
    assert error("fp16", None, shrink=1e-6) > 0.1


def test_only_float16_is_scaled() -> None:
    assert [loss_scale(p, torch.device("cpu")) is not None for p in ("fp32", "tf32", "bf16", "fp16")] == [False, False, False, True]


def test_torchs_scaler_is_refused() -> None:
    """It unscales the gradients of the closure before, and a step would go 65,536 times too far."""
    model, optimizer = build("sam", None)
    scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    scaler.scale(torch.ones(()))
    with pytest.raises(ConfigError, match="use scaling=LossScale"):
        scaler.step(optimizer, net_closure(model, batch()))
