"""Steps as captured graphs equal steps taken one kernel after the other.

Without a GPU, a recorder stands in for CUDA's graphs. It keeps the tensor operations of a captured step and repeats them at the same
addresses, with the host's numbers as they were: whatever a step computes on the host, or keeps in a new place, comes out wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import data
from sam.config import ConfigError
from sam.core.device import number_format
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.training import loop
from sam.training.graphs import GraphedSteps
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], Trainer]
LONG = {"batch_size": 10, "epochs": 2, "dataset": {"train_size": 64}}  # 7 steps an epoch, the last of 4 images


def storages(values: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tree_leaves(values) if isinstance(t, Tensor)}


class Recorder(TorchDispatchMode):
    """Does every operation, and keeps it; `repeat` does them again, their results where they were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero"):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        out = func(*args, **(kwargs or {}))
        there = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs or {}))  # a graph knows addresses, not names
        self.calls.append((func, *there, out))
        return out

    @torch.no_grad()
    def repeat(self) -> None:
        for func, args, kwargs, out in self.calls:
            if func._schema.name in ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty"):
                continue  # memory is there, and nothing clears it
            again = func(*args, **kwargs)
            inputs = storages((args, kwargs))
            for now, then in zip(tree_leaves(again), tree_leaves(out), strict=True):
                if isinstance(then, Tensor) and not storages(then) & inputs:  # neither a view nor in place
                    then.copy_(now)


class Recorded:
    """`CudaGraphs` for a CPU."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.captures, self.replays = trainer, 0, 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        optimizer, recorder = self.trainer.optimizer, Recorder()
        kept: list[Tensor] = [*self.trainer.model.state_dict().values(), optimizer.skipped]
        kept += [t for state in optimizer.state.values() for t in state.values()]
        kept += [t for t in tree_leaves(optimizer.method_state()) if isinstance(t, Tensor) and t.dtype != torch.uint8]  # but for streams
        if optimizer.scaling is not None:
            kept += [optimizer.scaling.value, optimizer.scaling.streak]
        values = [t.clone() for t in kept]
        streams = [g.get_state() for g in optimizer.generators]
        with recorder:
            work()
        for t, value in zip(kept, values, strict=True):  # a capture does nothing
            t.copy_(value)
        for generator, state in zip(optimizer.generators, streams, strict=True):
            generator.set_state(state)
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            recorder.repeat()

        return replay


def graphed(trainer: Trainer) -> Recorded:
    """Have a trainer on a CPU take its steps as recorded graphs."""
    recorded = Recorded(trainer)
    trainer._take_step = GraphedSteps(trainer.optimizer, trainer.objective, recorded)  # type: ignore[arg-type]
    return recorded


def train(trainer: Trainer) -> list[dict[str, Any]]:
    rows = [dict(trainer.run_epoch(lambda passes: None)) for _ in range(trainer.config.epochs - trainer.epoch)]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def everything(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state_dict()
    return {"model": state["model"], "optimizer": state["optimizer"]}


def assert_bitwise(a: Any, b: Any) -> None:
    assert [type(x) for x in tree_leaves(a)] == [type(x) for x in tree_leaves(b)]
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == (pytest.approx(y, rel=1e-12) if isinstance(x, float) else y)


CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("sgd", "rand_sam", "sam", "sam_n3", "sam_mean", "xsam", "xsam_often", "xsam_rare", "xsam_constant")),
    ("xsam_often", {"precision": "fp16"}),
    ("rand_sam", {"precision": "bf16"}),
    ("rand_sam", {"optimizer": {"radius": "uniform"}}),
    ("sam_drawn", {}),
    ("xsam_often", {"m": 4}),
    ("sam_mean", {"micro_batch": 3}),
    ("sgd", {"label_smoothing": 0.1, "schedule": "wrn_step", "warmup_epochs": 1}),
    ("xsam_constant", {"optimizer": {"weight_decay_mode": "loss", "grad_clip": 1.0, "norm_scope": "layer"}}),
    ("gsam", {"optimizer": {"gsam_floor": 0.2}}),
    ("friendly_sam", {"precision": "fp16"}),
    ("late_sam", {"optimizer": {"start": 0.5}}),
    ("rwp", {"optimizer": {"rwp_eta": 0.1, "perturbed_weight": 0.5}}),
    ("looksam", {"optimizer": {"looksam_interval": 2}}),
    ("momentum_sam", {}),
]


# Of methods that keep something between steps, or whose steps differ; and the longest two.
LATER = ("gsam", "friendly_sam", "late_sam", "rwp", "looksam", "momentum_sam")
LONGEST = ({"m": 4}, {"micro_batch": 3})


@pytest.mark.parametrize(
    ("method", "changes"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] in LATER or case[1] in LONGEST else ()) for case in CASES],
    ids=str,
    indirect=["method"],
)
def test_recorded_steps_are_the_eager_ones(method: dict[str, Any], changes: dict[str, Any], tiny: Tiny, trainer: Make) -> None:
    """Bitwise: weights, statistics, momentum, XSAM's alpha, the records. Every epoch has another rate, every step another batch."""
    config = tiny(**LONG, **changes | {"optimizer": method | changes.get("optimizer", {})})
    eager, replayed = trainer(config), trainer(config)
    recorded = graphed(replayed)
    assert train(eager) == train(replayed)
    assert_bitwise(everything(eager), everything(replayed))
    assert recorded.captures >= 1 and recorded.replays >= (3 if method.get("alpha_refresh") == 0.5 else 6)


def test_each_kind_of_step_is_captured_once(tiny: Tiny, trainer: Make) -> None:
    """Three kinds: with diagnostics (the first of an epoch), without, and the ragged last one; two eager steps before each."""
    made = trainer(tiny(**LONG | {"epochs": 5}))
    recorded = graphed(made)
    train(made)
    assert recorded.captures == 3 and recorded.replays == 5 * 7 - 3 * 2


def test_a_run_continues_with_graphs_of_its_own(tiny: Tiny, trainer: Make) -> None:
    """What was captured points at the momentum of before; loading a state lets go of it."""
    config = tiny(**LONG | {"epochs": 4})
    eager, replayed = trainer(config), trainer(config)
    graphed(replayed)
    for _ in range(2):
        replayed.run_epoch(lambda passes: None)
        replayed.load_state_dict(replayed.state_dict())
    train(eager), train(replayed)
    assert_bitwise(everything(eager), everything(replayed))


@pytest.mark.parametrize("baked", ["rate", "alpha"])
def test_a_number_of_the_host_is_noticed(baked: str, tiny: Tiny, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's own test: hand a step the learning rate, or alpha, as a number of the host, and replays go wrong."""
    config = tiny(**LONG, optimizer={"method": "xsam", "alpha_grid": [0.3, 0.9, 1.7], "alpha_refresh": 0.7})
    eager, replayed = trainer(config), trainer(config)
    graphed(replayed)
    if baked == "rate":
        take = GraphedSteps._take
        monkeypatch.setattr(GraphedSteps, "_take", lambda self, x, y, rate, diagnose: take(self, x, y, float(self.last), diagnose))
        monkeypatch.setattr(GraphedSteps, "last", property(lambda self: replayed._under_way.rate), raising=False)
    else:
        replayed.optimizer._turn = torch.tensor(0.3, dtype=torch.float64)  # type: ignore[union-attr]
        monkeypatch.setattr(type(replayed.optimizer), "__setattr__", object.__setattr__)
    train(eager), train(replayed)
    weights = [torch.cat([p.detach().reshape(-1) for p in t.model.parameters()]) for t in (eager, replayed)]
    assert not torch.equal(*weights)


def test_what_cannot_be_captured_is_refused(tiny: Tiny, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cuda_graph=true: this run is on cpu; a CUDA device is needed; allowed: false"):
        trainer(tiny(cuda_graph=True))
    with pytest.raises(ConfigError, match="cuda_graph=true with replicas=2"):
        tiny(cuda_graph=True, replicas=2)

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * self.weight / max(x.abs().max().item(), 1.0)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    monkeypatch.setattr(loop, "build_model", lambda config, images: Waits())
    made = trainer(tiny(**LONG, optimizer={"method": "sgd"}))
    graphed(made)
    with pytest.raises(ConfigError, match=r"a step of this run cannot be captured \(operation not permitted"):
        train(made)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_gpu
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *((name, {}) for name in ("sgd", "rand_sam", "sam", "sam_n3", "sam_drawn", "xsam_often", "xsam_constant")),
        ("rand_sam", {"precision": "bf16"}),
        ("xsam_often", {"precision": "fp16"}),
        ("sam", {"precision": "bf16", "compile": "default"}),
    ],
    ids=str,
    indirect=["method"],
)
def test_cuda_graphs_equal_eager_steps_on_a_gpu(method: dict[str, Any], changes: dict[str, Any], tiny: Tiny) -> None:
    """5 epochs of 7 steps: bit for bit, as an eager run repeats itself (compiled: within 1e-4 of the way gone)."""
    ends, rows = [], []
    for cuda_graph in (False, False, True):
        more = {"cuda_graph": cuda_graph, "device": "cuda", "augmentation": {"crop_padding": 1, "flip": True}}
        config = tiny(**LONG | {"epochs": 5}, optimizer=method, **changes, **more)
        made = Trainer(config, data.load(**to_dict(config.dataset)), torch.device("cuda"))
        start = torch.cat([p.detach().reshape(-1) for p in made.model.parameters()]).clone()
        with number_format(config.precision, 1):
            rows.append(train(made))
        ends.append(torch.cat([p.detach().reshape(-1) for p in made.model.parameters()]))
        if cuda_graph:
            assert isinstance(made._take_step, GraphedSteps) and made._take_step._captured
    bound = 1e-4 if "compile" in changes else 0
    assert all((end - ends[0]).norm() <= bound * (ends[0] - start).norm() for end in ends)
    for eager, _, replayed in zip(*rows, strict=True):
        assert (eager["forwards"], eager["backwards"]) == (replayed["forwards"], replayed["backwards"])
        assert replayed["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-3)


@needs_gpu
def test_a_model_with_dropout_is_refused_on_a_gpu(tiny: Tiny) -> None:
    config = tiny(cuda_graph=True, device="cuda", model={"dropout": 0.3})
    with pytest.raises(ConfigError, match="drops out at random"):
        Trainer(config, data.load(**to_dict(config.dataset)), torch.device("cuda"))
