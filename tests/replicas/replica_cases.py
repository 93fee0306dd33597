"""What one process computes alone and two compute together. As a program it is one of the two:

python replica_cases.py RANK PORT FILE    # computes every case with its peer and saves the results
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from optimizer_oracles import Net, batch, net_closure
from torch import Tensor, nn

import data
from models import networks as nets
from sam.core.passes import Passes
from sam.core.replicas import ALONE, ReplicaError, Replicas
from sam.optimizers.base import Method
from sam.optimizers.friendly import FriendlySAM
from sam.optimizers.looksam import LookSAM
from sam.optimizers.rwp import RWP
from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.xsam import XSAM
from sam.schema import from_dict, to_dict
from sam.settings import TrainConfig
from sam.training import loop
from sam.training.loop import Trainer
from sam.training.objective import Objective

# Sizes of the groups of each step; the first replica has the first two. In the last step the second one has none.
STEPS = ((6, 6, 6, 6), (6, 6, 3), (6, 6, 6, 5), (4,))
GRID = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0]
METHODS: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "sgd clipped": (SGD, {"grad_clip": 0.3}),
    "rand_sam": (RandSAM, {}),
    "rand_sam drawn": (RandSAM, {"radius": "uniform"}),
    "sam": (SAM, {}),
    "sam drawn": (SAM, {"radius": "uniform"}),
    "sam clipped": (SAM, {"grad_clip": 0.3}),
    "sam split": (SAM, {"steps": 3}),
    "sam project": (SAM, {"steps": 3, "rule": "project"}),
    "sam mean": (SAM, {"steps": 3, "descent_gradient": "mean"}),
    "xsam": (XSAM, {"alphas": GRID}),
    "xsam twice": (XSAM, {"alphas": GRID, "steps": 2, "search_interval": 2}),
    "friendly_sam": (FriendlySAM, {}),
    "looksam": (LookSAM, {"looksam_interval": 2}),
    "rwp": (RWP, {"rwp_eta": 0.5, "perturbed_weight": 0.5}),
}
TRAINERS: dict[str, dict[str, Any]] = {
    "groups": {"m": 10, "optimizer": {"method": "xsam"}},
    "groups, rand_sam": {"m": 10, "optimizer": {"method": "rand_sam"}},
    "own perturbations": {"perturbation": "replica"},
    "together": {},
    "together, without BatchNorm": {"optimizer": {"method": "sam", "ascent_steps": 2, "lr": 0.01}},
    # The epoch's only diagnosed step of SAM is its last, of whose one group the second process has nothing.
    "late": {"m": 20, "dataset": {"name": "digits", "train_size": 416}, "optimizer": {"method": "late_sam", "start": 0.4545}},
    "dropout": {"model": {"depth": 10, "width": 1, "dropout": 0.3}},
}


def network(batchnorm: bool) -> nn.Module:
    model = Net()
    if not batchnorm:
        model.norm1, model.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return model


def method(name: str, model: nn.Module, replicas: Replicas, grouped: bool) -> Method:
    cls, options = METHODS[name]
    if cls in (RandSAM, RWP) or "radius" in options:
        options = options | {"generator": torch.Generator().manual_seed(5)}
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    passes = Passes(model, replicas)
    return cls(base, rho=0.2, loss_decay=0.01, passes=passes, replicas=replicas if grouped else ALONE, **options)


def outcome(model: nn.Module, optimizer: Method, losses: list[Tensor]) -> dict[str, Any]:
    momentum = [state["momentum_buffer"] for state in optimizer.base.state.values()]
    return {
        "weights": [p.detach() for p in model.parameters()],
        "buffers": list(model.buffers()),
        "momentum": momentum,
        "losses": losses,
        "passes": (optimizer.forwards, optimizer.backwards),
        "skipped": int(optimizer.skipped),
        "alpha": optimizer.report().get("alpha"),
        "probe_losses": optimizer.report().get("probe_losses"),
    }


def over_groups(name: str, replicas: Replicas = ALONE) -> dict[str, Any]:
    """Groups with a perturbation of their own, the first two of a step on the first replica."""
    model = network(batchnorm=True)
    optimizer = method(name, model, replicas, grouped=True)
    losses, stats = [], []
    for step, sizes in enumerate(STEPS):
        closures = [
            net_closure(model, batch(n, 10 * step + i)) if replicas.size == 1 or i // 2 == replicas.rank else None
            for i, n in enumerate(sizes)
        ]
        losses.append(optimizer.step(closures, weights=[n / sum(sizes) for n in sizes]))
        stats.append(optimizer.stats)
    return outcome(model, optimizer, losses) | {"stats": stats}


def whole_batches(name: str, replicas: Replicas = ALONE, *, batchnorm: bool = False, micro_batch: int | None = None) -> dict[str, Any]:
    """Batches of 12, 12 and 10 that share one perturbation, half of each on a replica."""
    model = network(batchnorm)
    optimizer = method(name, model, replicas, grouped=False)
    objective = Objective(model, nullcontext, micro_batch=micro_batch, replicas=replicas)
    losses = []
    for step, size in enumerate((12, 12, 10)):
        x, y = batch(size, step)
        share = None
        if replicas.size > 1:
            x, y = (t.tensor_split(replicas.size)[replicas.rank] for t in (x, y))
            share = len(y) / size
        losses.append(optimizer.step(objective.closure(x, y, share)))
        objective.settle()
    return outcome(model, optimizer, losses) | {"totals": objective.totals(), "stats": optimizer.stats}


def unused_and_non_finite(replicas: Replicas = ALONE) -> dict[str, Any]:
    """Three parameters: one is used by the first replica's group, one by the second's, one by none. The second step is infinite in the
    second replica's group alone."""
    draw = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, dtype=torch.float64, generator=draw)) for _ in range(3)]
    base = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
    optimizer = SAM(base, rho=0.1, replicas=replicas)

    def closure(index: int, scale: float) -> Any:
        def evaluate() -> Tensor:
            loss = scale * (parameters[index] ** 2).sum()
            loss.backward()
            return loss

        return evaluate

    after = []
    for scale in (1.0, float("inf"), 2.0):
        closures = [closure(i, scale if i else 1.0) if replicas.size == 1 or i == replicas.rank else None for i in range(2)]
        optimizer.step(closures)
        after.append([p.detach().clone() for p in parameters])
    return {"weights": after, "skipped": int(optimizer.skipped)}


def infinite_ascent(replicas: Replicas = ALONE) -> dict[str, Any]:
    """Two groups of SAM. In the second step the gradient that the second group climbs along is infinite, and no gradient after it is: the
    descent gradient alone would not tell the first replica that this step means nothing."""
    parameters = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizer = SAM(torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True), rho=0.1, replicas=replicas)

    def closure(index: int, first: float) -> Any:
        slopes = iter((first, 1.0))

        def evaluate() -> Tensor:
            parameters[index].grad = torch.full((3,), next(slopes), dtype=torch.float64)
            return torch.ones((), dtype=torch.float64)

        return evaluate

    after, bad = [], []
    for first in (1.0, float("inf"), 2.0):
        closures = [closure(i, first if i else 1.0) if replicas.size == 1 or i == replicas.rank else None for i in range(2)]
        optimizer.step(closures)
        after.append([p.detach().clone() for p in parameters])
        bad.append(bool(optimizer.bad))
    return {"weights": after, "skipped": int(optimizer.skipped), "bad": bad}


@contextmanager
def networks(plain: bool) -> Iterator[None]:
    """Trainers build their models with a smooth activation, and without BatchNorm if `plain`. A unit that sits at ReLU's kink would turn
    float32's rounding into differences of 1e-3."""
    build, functions = loop.build_model, nets.F

    def without(config: TrainConfig, images: Any) -> nn.Module:
        model = build(config, images)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        return model

    loop.build_model = without if plain else build
    nets.F = SimpleNamespace(**vars(functions) | {"relu": functions.softplus})  # type: ignore[misc]
    yield
    loop.build_model, nets.F = build, functions  # type: ignore[misc]


def configuration(name: str) -> TrainConfig:
    values = {"model": {"depth": 10, "width": 1}, "optimizer": {"method": "sam", "rho": 0.1}}
    values |= {"dataset": {"name": "digits", "train_size": 96}, "epochs": 2, "batch_size": 40, "device": "cpu", "threads": 1}
    return from_dict(TrainConfig, values | TRAINERS[name])


def trained(config: TrainConfig, replicas: Replicas = ALONE, *, stop: int | None = None) -> dict[str, Any]:
    """A whole run; with `stop` it is left after so many steps, and continued by another trainer from its state."""
    images = data.load(**to_dict(config.dataset))
    trainer = Trainer(config, images, torch.device("cpu"), replicas)
    steps, seeds = 0, set[int]()

    def after_step() -> None:
        nonlocal steps, state
        steps += 1
        seeds.add(torch.initial_seed())  # of the stream that dropout draws from
        if steps == stop:
            state = replicas.from_first(trainer.state_dict())
            raise StopIteration

    state: dict[str, Any] | None = None
    try:
        while trainer.epoch < config.epochs:
            trainer.run_epoch(lambda units: None, after_step)
    except StopIteration:
        torch.rand(7)  # whatever else draws meanwhile
        assert state is not None
        trainer = Trainer(config, images, torch.device("cpu"), replicas)
        trainer.load_state_dict(state)
        while trainer.epoch < config.epochs:
            trainer.run_epoch(lambda units: None)
    times = ("seconds", "train_seconds")
    return {
        "weights": [p.detach() for p in trainer.model.parameters()],
        "buffers": list(trainer.model.buffers()),
        "seeds": seeds,
        "rows": [{key: value for key, value in row.items() if key not in times} for row in trainer.rows],
    }


def replicated(config: TrainConfig, replicas: Replicas) -> TrainConfig:
    return from_dict(TrainConfig, to_dict(config) | {"replicas": replicas.size})


def main(rank: int, port: int, file: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    here = Replicas(rank, 2)
    results: dict[str, Any] = {f"groups {name}": over_groups(name, here) for name in METHODS}
    results |= {f"whole {name}": whole_batches(name, here) for name in METHODS}
    results |= {f"normed {name}": whole_batches(name, here, batchnorm=True) for name in METHODS}
    results["micro"] = whole_batches("sam", here, micro_batch=4)
    results["odd"] = unused_and_non_finite(here)
    results["infinite ascent"] = infinite_ascent(here)
    for name in TRAINERS:
        with networks("without" in name):
            results[f"trained {name}"] = trained(replicated(configuration(name), here), here)
    for name in ("groups, rand_sam", "dropout"):
        with networks(plain=False):
            results[f"continued {name}"] = trained(replicated(configuration(name), here), here, stop=5)
    if rank == 0:
        torch.save(results, file)
        return  # and leaves the other one alone
    torch.save(results, file)
    try:
        here.wait()
    except ReplicaError as error:
        Path(file).with_suffix(".txt").write_text(str(error))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
