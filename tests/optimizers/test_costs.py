"""Forwards and backwards of each method, as counted by the method and by the closure; and no waiting for the device inside a step."""

import gc
import weakref

import pytest
import torch
from optimizer_oracles import RULES, Bowl, Net, batch, net_closure
from registered import FOREIGN, passes
from torch.utils._python_dispatch import TorchDispatchMode

from sam.core.passes import Passes
from sam.optimizers.build import build
from sam.optimizers.sam import SAM
from sam.optimizers.settings import OptimizerConfig

STEPS_PER_EPOCH = 4
CONFIGS = {
    **{name: {"method": name} for name in passes()},
    "sam_n2": {"method": "sam", "ascent_steps": 2},
    "sam_n5_mean": {"method": "sam", "ascent_steps": 5, "descent_gradient": "mean"},
    "xsam_k3_twice_an_epoch": {"method": "xsam", "ascent_steps": 3, "alpha_refresh": 0.5},
    "xsam_short_grid": {"method": "xsam", "alpha_grid": [0.0, 1.0]},
    "xsam_constant": {"method": "xsam", "alpha": 1.5},
    "m_rwp": {"method": "rwp", "perturbed_weight": 0.5},
    "late_n3": {"method": "late_sam", "ascent_steps": 3, "start": 0.6},  # round(0.6 * 8) = 5 plain steps
    "early_sam": {"method": "late_sam", "start": 0.0, "stop": 0.3},  # round(0.3 * 8) = 2 steps of SAM
    "looksam_k3": {"method": "looksam", "looksam_interval": 3},  # looks in steps 0, 3, 6
}
# per step; probes per search, searches in two epochs of 4 steps
COSTS = {
    "sgd": (1, 0, 0),
    "rand_sam": (1, 0, 0),
    "sam": (2, 0, 0),
    **{name: (own.passes_in(8) / 8, 1, own.probes(STEPS_PER_EPOCH, 2)) for name in FOREIGN if (own := OptimizerConfig.of(method=name))},
    "sam_n2": (3, 0, 0),
    "sam_n5_mean": (6, 0, 0),
    "xsam": (2, 21, 2),
    "xsam_k3_twice_an_epoch": (4, 21, 4),
    "xsam_short_grid": (2, 2, 2),
    "xsam_constant": (2, 0, 0),
    **dict.fromkeys(("asam", "weighted_sam", "gsam", "friendly_sam", "vasso", "m_rwp"), (2, 0, 0)),
    "momentum_sam": (1, 0, 0),
    "rwp": (1, 0, 0),
    "late_sam": (9 / 8, 0, 0),  # start 0.875: the last step of eight
    "late_n3": ((5 + 3 * 4) / 8, 0, 0),
    "early_sam": ((2 * 2 + 6) / 8, 0, 0),
    "looksam": (10 / 8, 0, 0),  # looks in steps 0 and 5
    "looksam_k3": (11 / 8, 0, 0),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", CONFIGS)
def test_passes_of_two_epochs(name: str) -> None:
    passes, probes, searches = COSTS[name]
    config = OptimizerConfig.of(**CONFIGS[name])
    assert config.passes_in(2 * STEPS_PER_EPOCH) == 2 * STEPS_PER_EPOCH * passes
    assert config.passes == pytest.approx(passes, abs=0.1)  # a mean, where steps differ
    assert config.probes(STEPS_PER_EPOCH, 2) == searches * probes
    model, calls = Net(), []
    run = {"steps_per_epoch": STEPS_PER_EPOCH, "total_steps": 2 * STEPS_PER_EPOCH}
    optimizer = build(model, config, generator=torch.Generator(), **run)
    for k in range(2 * STEPS_PER_EPOCH):
        inner = net_closure(model, batch(seed=k))

        def closure(backward: bool = True, inner=inner):
            calls.append(backward)
            return inner(backward)

        optimizer.step(closure)
    assert calls.count(True) == optimizer.backwards == 2 * STEPS_PER_EPOCH * passes
    assert len(calls) == optimizer.forwards == 2 * STEPS_PER_EPOCH * passes + searches * probes


def test_groups_count_by_their_share() -> None:
    """A batch cut in ragged groups costs what the whole batch costs."""
    model = Net()
    optimizer = build(model, OptimizerConfig.of(method="xsam"), steps_per_epoch=10, generator=torch.Generator())
    for _ in range(2):
        optimizer.step([net_closure(model, batch(size)) for size in (6, 6, 3)], weights=[0.4, 0.4, 0.2])
    assert optimizer.forwards == pytest.approx(2 * 2 + 21) and optimizer.backwards == pytest.approx(4)


class CountReads(TorchDispatchMode):
    """Counts reads of a device scalar by the host: on an accelerator each would wait for all work queued before it."""

    OPS = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func._schema.name in self.OPS
        return func(*args, **(kwargs or {}))


def reads(optimizer, closure) -> int:
    with CountReads() as count:
        optimizer.step(closure)
    return count.reads


@pytest.mark.contract
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "sgd"},
        {"method": "rand_sam"},
        {"method": "sam"},
        *({"method": "sam", "ascent_steps": 3, "step_rule": rule, "descent_gradient": "mean"} for rule in RULES),
        {"method": "xsam", "alpha": 1.5},
        *({"method": name} for name in ("asam", "gsam", "friendly_sam", "momentum_sam", "vasso")),
        {"method": "weighted_sam", "normalized": False, "perturbed_weight": 0.8},
        {"method": "gsam", "gsam_floor": 0.2},
        {"method": "late_sam", "start": 0.5},
        {"method": "rwp", "rwp_eta": 0.1, "perturbed_weight": 0.5},
        {"method": "looksam", "looksam_interval": 2},
        *({"method": name} for name in FOREIGN),
    ],
    ids=str,
)
def test_no_host_reads_in_a_step(options: dict, scope: str, clip: float | None) -> None:
    """The first step too, where momentum is allocated."""
    model = Net(torch.float32)
    config = OptimizerConfig.of(**options, norm_scope=scope, grad_clip=clip, perturb="no_norm", weight_decay_scope="no_norm_bias")
    optimizer = build(model, config, steps_per_epoch=4, generator=torch.Generator())
    closure = net_closure(model, batch(dtype=torch.float32))
    assert [reads(optimizer, closure) for _ in range(3)] == [0, 0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "options", [{"method": "sgd"}, {"method": "rand_sam"}, {"method": "sam", "ascent_steps": 2}, {"method": "xsam", "alpha": 1.5}]
)
def test_a_step_on_a_gpu_never_waits_for_it(options: dict) -> None:
    model = Net(torch.float32).cuda()
    optimizer = build(model, OptimizerConfig.of(**options), steps_per_epoch=4, generator=torch.Generator("cuda"))
    x, y = batch(dtype=torch.float32)
    closure = net_closure(model, (x.cuda(), y.cuda()))
    optimizer.step(closure)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class CountNorms(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func._schema.name == "aten::_foreach_norm"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "norms"),
    [({"method": "sgd"}, 1), ({"method": "sam"}, 2), ({"method": "sam", "ascent_steps": 3}, 4), ({"method": "xsam", "alpha": 0.7}, 1)],
)
def test_no_norm_is_taken_twice(options: dict, norms: int) -> None:
    """One of each pass's gradient; of XSAM's second, the inner products that span the plane tell it."""
    model = Net(torch.float32)
    optimizer = build(model, OptimizerConfig.of(**options), steps_per_epoch=4, generator=torch.Generator())
    optimizer.diagnose = False
    closure = net_closure(model, batch(dtype=torch.float32))
    optimizer.step(closure)
    with CountNorms() as count:
        optimizer.step(closure)
    assert count.calls == norms


@pytest.mark.parametrize("groups", [1, 3])
def test_an_xsam_search_reads_its_losses_and_nothing_else(groups: int) -> None:
    """One `tolist` of 21 losses (entries read singly on a CPU, in one copy from a device); none in a step without a search."""
    model = Net(torch.float32)
    config = OptimizerConfig.of(method="xsam", alpha_refresh=0.5)
    optimizer = build(model, config, steps_per_epoch=4, generator=torch.Generator())
    closure = [net_closure(model, batch(seed=k, dtype=torch.float32)) for k in range(groups)]
    with CountReads() as count:
        torch.zeros(21).tolist()
    assert [reads(optimizer, closure) for _ in range(4)] == [count.reads, 0, count.reads, 0]


def test_the_counter_counts() -> None:
    """A base optimizer that is not fused must ask whether the gradient was finite: one read a step."""
    bowl = Bowl()
    parameters = bowl.parameters()
    optimizer = SAM(torch.optim.SGD(parameters, lr=0.1), rho=0.1)
    assert reads(optimizer, bowl.closure(parameters)) == 1


def test_cumulative_batch_norm_reads_its_own_counter() -> None:
    """momentum=None divides by `num_batches_tracked` on the host, inside torch's layer: once a pass and layer; not ours to avoid."""
    model = Net(torch.float32, momentum=None)
    optimizer = build(model, OptimizerConfig.of(method="sgd"), steps_per_epoch=4, generator=torch.Generator())
    optimizer.passes = Passes(model)
    assert reads(optimizer, net_closure(model, batch(dtype=torch.float32))) == 2


def test_no_gradient_outlives_its_step() -> None:
    """Beside the last one, in `.grad`: the first pass's gradients are gone, of every group, before the next step needs the room."""
    model = Net(torch.float32)
    optimizer = build(model, OptimizerConfig.of(weight_decay=0.0), steps_per_epoch=4, generator=torch.Generator())
    seen: list[weakref.ref] = []

    def closure(seed: int):
        inner = net_closure(model, batch(seed=seed, dtype=torch.float32))

        def evaluate(backward: bool = True):
            loss = inner(backward)
            seen.extend(weakref.ref(p.grad) for p in model.parameters())
            return loss

        return evaluate

    optimizer.step([closure(0), closure(1)])
    gc.collect()
    kept = {id(p.grad) for p in model.parameters()}
    alive = [r() for r in seen]
    assert all(g is None or id(g) in kept for g in alive) and len(alive) == 4 * len(kept)
