"""What a method's constructor and its step refuse, each in one sentence, and what no refusal leaves behind."""

import math
from typing import Any

import pytest
import torch
from optimizer_oracles import Net, batch, net_closure, same
from torch import Tensor, nn

import sam.optimizers
from sam.config import ConfigError
from sam.core.passes import Passes
from sam.optimizers.asam import ASAM
from sam.optimizers.base import Method
from sam.optimizers.build import build
from sam.optimizers.gsam import GSAM
from sam.optimizers.late import LateSAM
from sam.optimizers.looksam import LookSAM
from sam.optimizers.momentum import MomentumSAM
from sam.optimizers.rwp import RWP
from sam.optimizers.sam import SAM, RandSAM
from sam.optimizers.settings import METHODS as REGISTRY
from sam.optimizers.settings import OptimizerConfig
from sam.optimizers.xsam import XSAM

METHODS = [row.load() for row in REGISTRY.values()]
PHASE = {LateSAM: {"first": 0}}  # what has no default
NAN = float("nan")
SETTINGS = [
    *((method, "rho", value) for method in METHODS for value in (-1, NAN, float("inf"), None, "0.05", [0.05])),
    *((method, "loss_decay", value) for method in METHODS for value in (-1, NAN, None)),
    *((method, "grad_clip", value) for method in METHODS for value in (0, -1, NAN, "1")),
    *((method, "norm_scope", value) for method in METHODS for value in ("all", None, 3)),
    *((method, "steps", value) for method in (SAM, XSAM) for value in (0, -1, 1.5, None, "2")),
    *((method, "rule", value) for method in (SAM, XSAM) for value in ("none", None)),
    *((method, "radius", value) for method in (SAM, RandSAM) for value in ("normal", None)),
    *((SAM, "descent_gradient", value) for value in ("first", None)),
    *((XSAM, "rho_max", value) for value in (-1, NAN)),
    *((XSAM, "alpha", value) for value in (NAN, "1")),
    *((XSAM, "alphas", value) for value in ([], [0.5, NAN], None, 0.5)),
    *((XSAM, "search_interval", value) for value in (0, -3, 2.5, None)),
    *((ASAM, "asam_eta", value) for value in (-1, NAN, None)),
    *((GSAM, "gsam_floor", value) for value in (-0.1, 1.1)),
    *((LookSAM, "looksam_interval", value) for value in (0, 2.5)),
    *((RWP, "rwp_beta", value) for value in (-0.1, 1.1, "1")),
]


@pytest.mark.contract
@pytest.mark.parametrize(("method", "name", "value"), SETTINGS)
def test_a_setting_out_of_its_bounds(method: Any, name: str, value: object) -> None:
    base = torch.optim.SGD(Net().parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ConfigError) as caught:
        method(base, **PHASE.get(method, {}), **{name: value})
    assert str(caught.value).startswith(f"{method.__name__}: {name}=") and "must" in str(caught.value) and "\n" not in str(caught.value)


def test_a_constructor_written_by_hand_names_its_own_keys() -> None:
    class ByHand(Method):
        own = ("percentile",)

        def __init__(self, base: torch.optim.Optimizer, *, rho: float = 0.05, percentile: float = 0.9, **common: Any) -> None:
            super().__init__(base, rho=rho, **common)
            self.percentile = percentile

    optimizer = ByHand(torch.optim.SGD(Net().parameters(), lr=0.1), percentile=0.5, grad_clip=1.0)
    assert (optimizer.percentile, optimizer.grad_clip, optimizer.param_groups[0]["rho"]) == (0.5, 1.0, 0.05)
    config = type("Config", (), {"percentile": 0.7})
    assert ByHand.options(config, steps_per_epoch=1, total_steps=1, generator=torch.Generator()) == {"percentile": 0.7}
    with pytest.raises(ConfigError, match="ByHand: rho=-1: must be"):
        ByHand(torch.optim.SGD(Net().parameters(), lr=0.1), rho=-1)


def test_a_method_that_is_not_registered_has_keywords_of_its_own() -> None:
    class Mine(Method):
        rho: float = 0.05
        beta: float = 0.9

        def run_passes(self, closure: Any, ascent: Any) -> Any:
            return self.first_pass(closure)

    net = Net()
    optimizer = Mine(torch.optim.SGD(net.parameters(), lr=0.1), beta=0.5)
    optimizer.step(net_closure(net, batch()))
    assert (optimizer.rho, optimizer.beta) == (0.05, 0.5)
    with pytest.raises(ConfigError, match="Mine: rho=-1: must be"):
        Mine(torch.optim.SGD(net.parameters(), lr=0.1), rho=-1)


@pytest.mark.parametrize(("factor", "length"), [(10.0, 1.0), (float("inf"), 0.0)])
def test_a_first_gradient_changed_in_place_is_clipped_and_looked_at_as_it_is(factor: float, length: float) -> None:
    class Scaled(Method):
        def run_passes(self, closure: Any, ascent: Any) -> Any:
            loss, gradient = self.first_pass(closure)
            torch._foreach_mul_(gradient, factor)
            return loss, gradient

    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = Scaled(torch.optim.SGD([w], lr=1.0), grad_clip=1.0)

    def closure() -> torch.Tensor:
        loss = (w * torch.tensor([3.0, 4.0])).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    assert float(w.detach().norm()) == pytest.approx(length, abs=1e-5) and int(optimizer.skipped) == (not length)


def test_a_network_without_what_is_to_be_perturbed() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"perturb=norm_only: this network has no such parameter to train; must be another"):
        build(bare, OptimizerConfig.of(method="sam", perturb="norm_only"), steps_per_epoch=1, generator=torch.Generator())
    with pytest.raises(ConfigError, match=r"perturb=all: this network has no parameter to train\.$"):
        build(bare.requires_grad_(False), OptimizerConfig.of(method="sgd"), steps_per_epoch=1, generator=torch.Generator())


def test_a_groups_own_settings_are_checked_too() -> None:
    model = Net()
    with pytest.raises(ConfigError, match="SAM: rho=-1: must be"):
        SAM(torch.optim.SGD([{"params": list(model.parameters()), "rho": -1}], lr=0.1))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="SAM: loss_decay=nan: must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "loss_decay": NAN})


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (lambda w: w, "wraps a torch optimizer, .* not a list"),
        (lambda w: torch.optim.SGD, "wraps a torch optimizer, .* not a type"),
        (lambda w: SAM(torch.optim.SGD(w, lr=0.1)), "wraps a torch optimizer, .* not a SAM"),
        (torch.optim.LBFGS, "cannot wrap LBFGS, which needs a closure"),
        (torch.optim.Adadelta, "cannot wrap Adadelta, which has a setting `rho` of its own"),
    ],
)
def test_what_cannot_be_wrapped(base: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SAM(base(list(Net().parameters())))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "Rprop", "Adafactor"])
def test_other_bases_take_the_gradient_of_sam(name: str) -> None:
    """With a radius of 0 the wrapped step is the plain one."""
    nets = Net(), Net()
    plain = getattr(torch.optim, name)(nets[0].parameters(), lr=0.01)
    wrapped = SAM(getattr(torch.optim, name)(nets[1].parameters(), lr=0.01), rho=0.0)
    for k in range(3):
        plain.zero_grad()
        net_closure(nets[0], batch(seed=k))()
        plain.step()
        wrapped.step(net_closure(nets[1], batch(seed=k)))
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def answering(model: nn.Module, answer: Any, back: bool = True) -> Any:
    def closure(backward: bool = True) -> Any:
        loss = net_closure(model, batch())(backward and back)
        return answer(loss)

    return closure


CLOSURES = {
    "no backward": ("left no gradient", lambda m: answering(m, lambda loss: loss, back=False)),
    "no backward, no graph": ("left no gradient", lambda m: torch.no_grad()(answering(m, lambda loss: loss, back=False))),
    "gradients cleared": ("left no gradient", lambda m: answering(m, lambda loss: (loss, m.zero_grad())[0])),
    "nothing": ("not a NoneType", lambda m: answering(m, lambda loss: None)),
    "a float": ("not a float", lambda m: answering(m, lambda loss: loss.item())),
    "a pair": ("not a tuple", lambda m: answering(m, lambda loss: (loss, loss))),
    "a loss a sample": (r"not a Tensor \(4,\)", lambda m: answering(m, lambda loss: loss.expand(4))),
    "no closure": ("needs a closure .* not None", lambda m: None),
    "the loss itself": ("needs a closure .* not tensor", lambda m: torch.ones(())),
    "a list with a hole": ("needs a closure .* not None", lambda m: [answering(m, lambda loss: loss), None]),
}


@pytest.mark.contract
@pytest.mark.parametrize("kind", CLOSURES)
@pytest.mark.parametrize("method", METHODS)
def test_a_closure_that_trains_nothing_is_an_error_at_the_first_step(method: Any, kind: str) -> None:
    words, make = CLOSURES[kind]
    model = Net()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = method(base, rho=0.1, passes=Passes(model), **PHASE.get(method, {}))
    before = [t.detach().clone() for t in model.state_dict().values()]
    with pytest.raises(ConfigError, match=words) as caught:
        optimizer.step(make(model))
    assert "\n" not in str(caught.value) and optimizer.steps_taken == 0
    assert same(list(model.state_dict().values()), before)
    optimizer.step(net_closure(model, batch()))  # and the next step is a step
    assert optimizer.steps_taken == 1


def test_step_without_arguments_is_the_same_error() -> None:
    with pytest.raises(ConfigError, match="needs a closure"):
        SAM(torch.optim.SGD(Net().parameters(), lr=0.1)).step()


@pytest.mark.parametrize("answer", [Tensor.detach, lambda loss: loss[None]])
def test_a_loss_that_is_detached_or_of_one_number_will_do(answer: Any) -> None:
    """Lightning hands over detached ones."""
    model = Net()
    loss = SAM(torch.optim.SGD(model.parameters(), lr=0.1)).step(answering(model, answer))
    assert loss.shape == () and not loss.requires_grad


@pytest.mark.parametrize("name", ["scale", "shrink", "state"])
def test_a_key_that_is_something_else_in_every_method(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Mine: {name} is something else in every method"):
        type("Mine", (Method,), {"__annotations__": {name: float}, name: 2.0})


def test_an_annotation_that_is_no_key_of_the_settings() -> None:
    class Counting(Method):
        rho: float = 0.05
        counter: int = 0

    with pytest.raises(ConfigError, match="Counting: counter is no key of its settings"):
        Counting.options(OptimizerConfig.of(method="sam"), steps_per_epoch=1, total_steps=1, generator=torch.Generator())


def test_a_base_that_maximises() -> None:
    with pytest.raises(ConfigError, match="SAM: cannot wrap SGD, which has a setting `maximize`"):
        SAM(torch.optim.SGD([{"params": list(Net().parameters()), "maximize": True}], lr=0.1))


def test_a_memory_is_of_the_parameters_that_it_was_made_of() -> None:
    net = Net()
    optimizer = REGISTRY["friendly_sam"].load()(torch.optim.SGD(net.parameters(), lr=0.1))
    net.conv1.requires_grad_(False)
    optimizer.step(net_closure(net, batch()))
    net.conv1.requires_grad_(True)
    for _ in range(2):
        with pytest.raises(ConfigError, match="other parameters are perturbed than before"):
            optimizer.step(net_closure(net, batch()))


def test_gsams_radius_never_exceeds_rho_under_a_scheduler() -> None:
    w = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    base = torch.optim.SGD([w], lr=0.1)
    optimizer = GSAM(base, rho=0.5, gsam_floor=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(base, max_lr=1.0, total_steps=6)
    for _ in range(5):
        home, far = w.detach().clone(), []

        def closure() -> torch.Tensor:
            far.append(float((w.detach() - home).norm()))  # noqa: B023
            loss = 0.5 * (w**2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)
        schedule.step()
        assert 0.05 <= max(far) <= 0.5 * (1 + 1e-9)


def test_by_its_class_name_and_whole() -> None:
    assert sam.optimizers.RandSAM is RandSAM
    with pytest.raises(AttributeError, match="has no attribute 'SMA'"):
        sam.optimizers.SMA  # noqa: B018
    base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(TypeError, match="first"):
        LateSAM(base, rho=0.1)  # type: ignore[call-arg]  # without a phase it would be SAM
    with pytest.raises(ConfigError, match="SAM: this is a base optimizer's state"):
        SAM(base, rho=0.1).load_state_dict(base.state_dict())


def test_gsams_radius_follows_the_largest_rate_of_all_groups() -> None:
    w, v = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    for groups in ([(w, 0.01), (v, 0.1)], [(v, 0.1), (w, 0.01)]):
        base = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in groups], lr=0.1)
        optimizer = GSAM(base, rho=0.5, gsam_floor=0.1)
        optimizer.begin()
        assert float(optimizer.shrink) == pytest.approx(1.0)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop])
def test_momentum_sam_wants_a_momentum(base: Any) -> None:
    with pytest.raises(ConfigError, match=f"MomentumSAM: perturbs against the momentum, and this {base.__name__} has none"):
        MomentumSAM(base([torch.nn.Parameter(torch.zeros(2))], lr=0.1), rho=0.1)
    assert MomentumSAM(torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)).moves


def test_frozen_weights_do_not_decay() -> None:
    w, frozen = torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.full((2,), 1e6), requires_grad=False)
    optimizer = SAM(torch.optim.SGD([w, frozen], lr=0.1), rho=0.1, loss_decay=0.5)

    def closure() -> Tensor:
        loss = (w * torch.tensor([1.0, 0.0])).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    assert float(optimizer.stats["decay_ratio"]) == pytest.approx(2.5 / math.hypot(1 + 1.5, 2.0))  # 0.5 ||w|| over the gradient with it


def test_the_pull_of_several_groups_is_one_vectors() -> None:
    w, v = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    optimizer = SAM(torch.optim.SGD([{"params": [w]}, {"params": [v], "rho": 0.2}], lr=0.1), rho=0.1, loss_decay=0.5)

    def closure() -> Tensor:
        loss = 0 * (w.sum() + v.sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    assert float(optimizer.stats["decay_ratio"]) == pytest.approx(1)  # the gradient is lambda w alone
