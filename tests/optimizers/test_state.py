"""What an optimizer remembers: a run cut in two equals the whole one bitwise. Six of six popular implementations lose the momentum."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from optimizer_oracles import Bowl, Net, batch, flat, net_closure, sam_gradient, same
from registered import of, registered
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.build import build, parameter_groups
from sam.optimizers.late import LateSAM
from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.settings import OptimizerConfig
from sam.optimizers.xsam import XSAM

METHODS = {
    **registered(rho=0.1),
    "sam_n3_mean": lambda base, **k: SAM(base, rho=0.1, steps=3, rule="boundary", descent_gradient="mean", **k),
    "sam_drawn": lambda base, **k: SAM(base, rho=0.1, radius="uniform", generator=torch.Generator().manual_seed(3), **k),
    "xsam": lambda base, **k: XSAM(base, rho=0.1, steps=2, search_interval=4, **k),  # alpha found in step 5 is used in 6 to 8
    "xsam_constant": lambda base, **k: XSAM(base, rho=0.1, alpha=1.5, **k),
    "late_sam": lambda base, **k: LateSAM(base, rho=0.1, first=7, **k),  # its first step is the second run's second
    "rwp": of(method="rwp", rho=0.1, rwp_eta=0.1, perturbed_weight=0.5),
    "looksam": of(method="looksam", rho=0.1, looksam_interval=4),  # g_v of step 5 is used in 6 to 8
}


def fresh(name: str, fused: bool):
    model = Net(torch.float32)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=fused)
    optimizer = METHODS[name](base, loss_decay=1e-2, passes=Passes(model))
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)


def advance(model, optimizer, scheduler, steps: range) -> None:
    for k in steps:
        optimizer.step(net_closure(model, batch(seed=k, dtype=torch.float32)))
        scheduler.step()


@pytest.mark.contract
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_equals_uninterrupted(name: str, fused: bool) -> None:
    whole = fresh(name, fused)
    advance(*whole, range(8))
    first = fresh(name, fused)
    advance(*first, range(6))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = fresh(name, fused)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    advance(*second, range(6, 8))
    assert same(list(second[0].state_dict().values()), list(whole[0].state_dict().values()))
    a, b = second[1], whole[1]
    assert (a.forwards, a.backwards, int(a.skipped), a.method_state().keys()) == (
        b.forwards,
        b.backwards,
        int(b.skipped),
        b.method_state().keys(),
    )
    if "xsam" in name:
        assert (a.alpha, a.steps_taken, a.probe_losses) == (b.alpha, b.steps_taken, b.probe_losses)
        assert a.alpha not in (0.0, 1.0)
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"] != 0.1


def test_without_the_momentum_the_comparison_fails() -> None:
    whole, first, second = fresh("sam", True), fresh("sam", True), fresh("sam", True)
    advance(*whole, range(9))
    advance(*first, range(6))
    state = first[1].state_dict()
    state["base"]["state"] = {}
    for part, saved in zip(second, (first[0].state_dict(), state, first[2].state_dict()), strict=True):
        part.load_state_dict(copy.deepcopy(saved))
    advance(*second, range(6, 9))
    assert not same(list(second[0].parameters()), list(whole[0].parameters()))


def test_groups_stay_shared_after_loading() -> None:
    """A scheduler on the wrapper must move the base optimizer's learning rate, before and after loading."""
    model, optimizer, _ = fresh("sam", True)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is optimizer.base.param_groups and optimizer.state is optimizer.base.state
    optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(net_closure(model, batch(dtype=torch.float32)))
    assert same(list(model.parameters()), before)


@pytest.mark.parametrize("on", ["wrapper", "base"])
def test_schedulers_work_without_a_warning(on: str) -> None:
    model = Net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, passes=Passes(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer if on == "wrapper" else optimizer.base, 1, gamma=0.5)
        rates = []
        for k in range(3):
            rates.append(optimizer.base.param_groups[0]["lr"])
            optimizer.step(net_closure(model, batch(seed=k)))
            scheduler.step()
    assert rates == [0.1, 0.05, 0.025]


def test_adding_a_parameter_group() -> None:
    """It takes part from the next step on, with the wrapper's defaults where it names none."""
    bowl = Bowl()
    parameters = bowl.parameters()
    optimizer = SAM(torch.optim.SGD(parameters[:2], lr=0.1), rho=0.3)
    for p in parameters[2:]:
        p.requires_grad_(False)
    optimizer.step(bowl.closure(parameters))
    for p in parameters[2:]:
        p.requires_grad_(True)
    optimizer.add_param_group({"params": parameters[2:], "lr": 0.05})
    assert len(optimizer.param_groups) == 2 and optimizer.base.param_groups is optimizer.param_groups
    assert optimizer.param_groups[1]["rho"] == 0.3 and optimizer.param_groups[1]["perturb"] is True
    w = flat(parameters)
    optimizer.step(bowl.closure(parameters))
    rates = np.array([0.1] * 10 + [0.05] * 2)
    np.testing.assert_allclose(flat(parameters), w - rates * sam_gradient(bowl.grad, w, 0.3), rtol=1e-12)


def expected_group(perturb: str, kind: str) -> bool:
    return {"all": True, "no_norm": kind != "norm", "norm_only": kind == "norm", "weights_only": kind == "weight"}[perturb]


@pytest.mark.parametrize("mode", ["loss", "optimizer"])
@pytest.mark.parametrize("scope", ["all", "no_norm_bias"])
@pytest.mark.parametrize("perturb", ["all", "no_norm", "norm_only", "weights_only"])
def test_parameter_groups_of_a_config(perturb: str, scope: str, mode: str) -> None:
    model = Net()
    kinds = {"conv1.weight": "weight", "conv2.weight": "weight", "head.weight": "weight", "head.bias": "bias"}
    kinds |= {f"norm{k}.{part}": "norm" for k in (1, 2) for part in ("weight", "bias")}
    model.conv1.weight.requires_grad_(False)
    config = OptimizerConfig.of(perturb=perturb, weight_decay_scope=scope, weight_decay_mode=mode, weight_decay=0.01)
    found = {id(p): group for group in parameter_groups(model, config) for p in group["params"]}
    assert len(found) == 7 and id(model.conv1.weight) not in found
    for name, p in model.named_parameters():
        if p.requires_grad:
            decay = 0.01 if scope == "all" or kinds[name] == "weight" else 0.0
            group = found[id(p)]
            assert group["perturb"] == expected_group(perturb, kinds[name])
            assert (group["loss_decay"], group["weight_decay"]) == ((decay, 0.0) if mode == "loss" else (0.0, decay))


OTHER = {"momentum": 0.8, "nesterov": False}, {"grad_clip": 0.1, "norm_scope": "layer"}


@pytest.mark.parametrize(("sgd", "common"), [({}, {}), OTHER], ids=["defaults", "other"])
@pytest.mark.parametrize("method", ["sgd", "rand_sam", "sam", "xsam"])
def test_build_follows_the_config(method: str, sgd: dict, common: dict) -> None:
    """`build` against the same method put together by hand."""
    options = {"ascent_steps": 3, "step_rule": "boundary", "descent_gradient": "mean", "alpha_refresh": 0.5}
    config = OptimizerConfig.of(method=method, rho=0.2, lr=0.03, **options, **sgd, **common)
    by_hand = {
        "sgd": (SGD, {}),
        "rand_sam": (RandSAM, {"generator": torch.Generator().manual_seed(8)}),
        "sam": (SAM, {"steps": 3, "rule": "boundary", "descent_gradient": "mean"}),
        "xsam": (XSAM, {"steps": 3, "rule": "boundary", "search_interval": 2}),
    }
    weights = []
    for hand in (False, True):
        model = Net()
        if hand:
            cls, own = by_hand[method]
            base = torch.optim.SGD(model.parameters(), lr=0.03, **{"momentum": 0.9, "nesterov": True} | sgd)
            optimizer = cls(base, rho=0.2, loss_decay=5e-4, passes=Passes(model), **own, **common)
        else:
            optimizer = build(model, config, steps_per_epoch=4, generator=torch.Generator().manual_seed(8))
        for k in range(4):
            optimizer.step(net_closure(model, batch(seed=k)))
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-14)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair))}


@pytest.mark.contract
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_takes_the_same_steps_on_its_own_parameters(name: str, fused: bool, how: str) -> None:
    """In the middle of a run, with a scheduler, which has put itself around `step`."""
    model, optimizer, scheduler = fresh(name, fused)
    advance(model, optimizer, scheduler, range(3))
    other, twin = COPIES[how]((model, optimizer))
    assert twin.param_groups is twin.base.param_groups and twin.state is twin.base.state
    assert twin.passes.model is other and "step" not in vars(twin)
    before = [p.detach().clone() for p in model.parameters()]
    twin.step(net_closure(other, batch(seed=3, dtype=torch.float32)))
    assert same(list(model.parameters()), before) and not same(list(other.parameters()), before)
    optimizer.step(net_closure(model, batch(seed=3, dtype=torch.float32)))
    assert same(list(model.state_dict().values()), list(other.state_dict().values()))
    rates = torch.optim.lr_scheduler.StepLR(twin, 1, gamma=0.5)
    rates.step()
    assert twin.base.param_groups[0]["lr"] != optimizer.base.param_groups[0]["lr"]


def test_a_copy_of_the_optimizer_alone_moves_the_parameters_that_it_holds() -> None:
    bowl = Bowl()
    optimizer = SAM(torch.optim.SGD(bowl.parameters(), lr=0.1, momentum=0.9), rho=0.1)
    twin = copy.deepcopy(optimizer)
    w = flat(twin.parameters)
    twin.step(bowl.closure(twin.parameters))
    np.testing.assert_allclose(flat(twin.parameters), w - 0.1 * sam_gradient(bowl.grad, w, 0.1), rtol=1e-12)
    np.testing.assert_array_equal(flat(optimizer.parameters), w)


SCHEDULES = {
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=8),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05),
    "CosineAnnealingWarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
}


@pytest.mark.parametrize("base", ["SGD", "AdamW"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_scheduler_on_the_wrapper_does_what_it_does_on_the_base(kind: str, base: str) -> None:
    def walked(wrapped: bool) -> list[tuple[object, ...]]:
        model = Net()
        options = {"momentum": 0.9} if base == "SGD" else {}
        inner = getattr(torch.optim, base)(model.parameters(), lr=0.1, **options)
        optimizer = SAM(inner, rho=0.1) if wrapped else inner
        scheduler, seen = SCHEDULES[kind](optimizer), []
        for k in range(6):
            if wrapped:
                optimizer.step(net_closure(model, batch(seed=k)))
            else:
                optimizer.step()
            scheduler.step(*((1.0,) if kind == "ReduceLROnPlateau" else ()))
            seen.append(tuple(inner.param_groups[0].get(key) for key in ("lr", "momentum", "betas")))
        return seen

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert walked(True) == walked(False) and len(set(walked(True))) > 1
