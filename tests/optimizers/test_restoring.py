"""Whatever happens between two steps of the base optimizer, the weights are bitwise what they were, in the same storage."""

import pytest
import torch
from optimizer_oracles import Net, batch, buffers, flat, net_closure, same
from registered import FOREIGN, passes, registered
from torch import nn

from sam.core.passes import Passes
from sam.optimizers.sam import SAM
from sam.optimizers.settings import METHODS as REGISTRY
from sam.optimizers.xsam import XSAM

METHODS = {
    **{name: make for name, make in registered(rho=0.3).items() if REGISTRY[name].load().moves},
    "sam_n3_project": lambda base, **k: SAM(base, rho=0.3, steps=3, rule="project", **k),
    "sam_n3_mean": lambda base, **k: SAM(base, rho=0.3, steps=3, descent_gradient="mean", **k),
    "xsam": lambda base, **k: XSAM(base, rho=0.3, steps=2, alphas=[0.0, 1.0, 2.0], **k),
}
# With probes.
PASSES = {name: n for name, n in passes().items() if name in METHODS} | {"sam_n3_project": 4, "sam_n3_mean": 4, "xsam": 6}


def still(model: nn.Module, name: str, **options):
    """The method around an SGD that does not move (lr 0), with a momentum."""
    return METHODS[name](torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), passes=Passes(model), **options)


@pytest.mark.contract
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", METHODS)
def test_weights_stay_where_and_what_they_are(name: str, layout: torch.memory_format) -> None:
    model = Net(torch.float32).to(memory_format=layout)
    before, addresses = [p.detach().clone() for p in model.parameters()], [p.data_ptr() for p in model.parameters()]
    strides = [p.stride() for p in model.parameters()]
    optimizer, seen, home = still(model, name), [], [p.detach() for p in model.parameters()]
    inner = net_closure(model, batch(dtype=torch.float32))

    def closure(backward: bool = True):
        seen.append((flat(model.parameters()), [p.stride() for p in model.parameters()]))
        assert same(home, before)  # in every pass: nothing is written to w that would have to be put back
        return inner(backward)

    for _ in range(3):
        optimizer.step(closure)
    assert same(list(model.parameters()), before)
    assert [p.data_ptr() for p in model.parameters()] == addresses and [p.stride() for p in model.parameters()] == strides
    assert len(seen) == optimizer.forwards and (name in FOREIGN or len(seen) == 3 * PASSES[name])
    assert all(layout == strides for _, layout in seen)
    away = max((weights != flat(before)).mean() for weights, _ in seen)
    assert away > (0 if name in FOREIGN else 0.9)


class TwoHeads(nn.Module):
    """Which heads take part is chosen anew for each forward pass, as with stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = (nn.Linear(3, 3).double() for _ in range(3))
        self.plan: list[str] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.body(x))
        heads = self.plan.pop(0)
        return sum(getattr(self, head)(x).pow(2).mean() for head in heads)


@pytest.mark.parametrize("plan", [["ab", "a"], ["a", "ab"], ["a", "b"], ["a", "a"]])
@pytest.mark.parametrize("rounds", [1, 3])
def test_parameters_unused_in_either_pass_do_not_drift(plan: list[str], rounds: int) -> None:
    """Known from peers: a weight with a gradient in one pass only stays perturbed, or a stale perturbation is subtracted later."""
    model = TwoHeads()
    optimizer, x = still(model, "sam"), torch.ones(2, 3, dtype=torch.float64)
    before = [p.detach().clone() for p in model.parameters()]

    def closure(backward: bool = True):
        loss = model(x)
        loss.backward()
        return loss

    for k in range(rounds):
        model.plan = list(plan if k % 2 == 0 else reversed(plan))
        optimizer.step(closure)
    assert same(list(model.parameters()), before)


def test_an_unused_parameter_is_left_alone_by_the_base_optimizer() -> None:
    """No gradient in any pass: no weight decay, no momentum, as with torch's own SGD. Used in the last pass only: it descends."""
    model = TwoHeads()
    optimizer = SAM(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5), rho=0.1, loss_decay=0.5, passes=Passes(model)
    )
    before_a, before_b = model.a.weight.detach().clone(), model.b.weight.detach().clone()
    model.plan = ["a", "a"]

    def closure(backward: bool = True):
        loss = model(torch.ones(2, 3, dtype=torch.float64))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(model.b.weight, before_b) and not torch.equal(model.a.weight, before_a)
    model.plan = ["a", "ab"]
    optimizer.step(closure)
    assert not torch.equal(model.b.weight, before_b)


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, count in PASSES.items() for at in range(count)])
def test_an_exception_in_any_pass_leaves_everything_as_before(name: str, at: int) -> None:
    model = Net()
    optimizer, inner, calls = still(model, name), net_closure(model, batch()), []
    optimizer.step(inner)  # buffers of the optimizer itself are in use

    def closure(backward: bool = True):
        calls.append(backward)
        loss = inner(backward)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return loss

    weights, running = [p.detach().clone() for p in model.parameters()], buffers(model)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(list(model.parameters()), weights)
    assert same(list(model.buffers()), running)


@pytest.mark.contract
@pytest.mark.parametrize("name", METHODS)
def test_an_exception_in_the_second_group_leaves_everything_as_before(name: str) -> None:
    model = Net()
    optimizer = still(model, name)

    def broken(backward: bool = True):
        raise KeyboardInterrupt

    weights, running = [p.detach().clone() for p in model.parameters()], buffers(model)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step([net_closure(model, batch()), broken])
    assert same(list(model.parameters()), weights)
    assert same(list(model.buffers()), running)


def test_an_interrupted_search_does_not_leak_into_the_next_step() -> None:
    """Probe losses of the first group, met before the second group failed, must not be added to the next step's."""
    alphas = []
    for interrupted in (False, True):
        model = Net()
        optimizer = XSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.3, passes=Passes(model))

        def broken(backward: bool = True):
            raise KeyboardInterrupt

        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                optimizer.step([net_closure(model, batch()), broken])
        optimizer.step(net_closure(model, batch(seed=1)))
        alphas.append((optimizer.alpha, optimizer.probe_losses))
    assert alphas[0] == alphas[1]


def test_a_model_cast_to_another_dtype_is_restored_exactly() -> None:
    """What a step keeps of the weights must follow: float64 weights kept in float32 come back rounded."""
    model = Net(torch.float32)
    optimizer = still(model, "sam")
    optimizer.step(net_closure(model, batch(dtype=torch.float32)))
    model.double()
    with torch.no_grad():
        for t in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            t.mul_(1 + 1e-12)
    before = [p.detach().clone() for p in model.parameters()]
    twin = Net()
    twin.load_state_dict(model.state_dict())
    optimizer.step(net_closure(model, batch()))
    twin(batch()[0])
    assert same(list(model.parameters()), before)
    assert same(list(model.buffers()), list(twin.buffers()))
