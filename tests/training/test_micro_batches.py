"""Gradient accumulation: k micro-batches are one batch, for every method."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam.core.device import LossScale
from sam.core.passes import Passes
from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.xsam import XSAM
from sam.settings import TrainConfig
from sam.training.loop import Trainer
from sam.training.objective import Objective

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "rand_sam": (RandSAM, {}),
    "sam": (SAM, {}),
    "sam split": (SAM, {"steps": 3}),
    "sam project": (SAM, {"steps": 3, "rule": "project"}),
    "sam mean": (SAM, {"steps": 3, "descent_gradient": "mean"}),
    "xsam": (XSAM, {"alphas": [0.0, 0.5, 1.0, 1.5, 2.0]}),
}


def network(batchnorm: bool = False) -> nn.Module:
    draw = np.random.RandomState(3)
    norm = nn.BatchNorm1d(6) if batchnorm else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(draw.standard_normal(p.shape)))
    return model


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = np.random.RandomState(seed)
    return torch.from_numpy(draw.standard_normal((n, 4))), torch.from_numpy(draw.randint(3, size=n))


def after_steps(name: str, make: Callable[[nn.Module, Tensor, Tensor], Any]) -> tuple[list[Tensor], list[float]]:
    """Weights, and XSAM's probe losses, after batches of 8, 8 and 5."""
    model = network()
    cls, options = OPTIMIZERS[name]
    if cls is RandSAM:
        options = {"generator": torch.Generator().manual_seed(1)}
    optimizer = cls(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho=0.3, loss_decay=0.02, passes=Passes(model), **options)
    for seed, n in enumerate((8, 8, 5)):
        optimizer.step(make(model, *samples(n, seed)))
    return [p.detach() for p in model.parameters()], optimizer.report().get("probe_losses", [])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("micro_batch", [3, 4, 8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_micro_batches_are_one_batch(name: str, micro_batch: int, smoothing: float) -> None:
    """The reference is one plain forward of the whole batch. Micro-batches of 3 leave ragged ones of 2."""

    def plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        def evaluate(backward: bool = True) -> Tensor:
            loss = functional.cross_entropy(model(x), y, label_smoothing=smoothing)
            if backward:
                loss.backward()
            return loss

        return evaluate

    def accumulated(model: nn.Module, x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        return Objective(model, nullcontext, smoothing, micro_batch=micro_batch).closure(x, y)

    weights, probes = after_steps(name, plain)
    got, got_probes = after_steps(name, accumulated)
    for a, b in zip(got, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert got_probes == pytest.approx(probes, rel=1e-12)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_micro_batches_groups_and_a_loss_scale_go_together(name: str, clip: float | None) -> None:
    """Groups of 5, 5 and 2 in micro-batches of 3, with weight decay in the loss; with a scale of 2^12 and without one: weights, probe
    losses, loss, and what the objective records."""
    cls, options = OPTIMIZERS[name]
    ends = []
    for scaling in (None, LossScale("cpu", start=2.0**12)):
        model = network()
        base = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, fused=True)
        own = options | ({"generator": torch.Generator().manual_seed(1)} if cls is RandSAM else {})
        optimizer = cls(base, rho=0.3, loss_decay=0.02, grad_clip=clip, passes=Passes(model), scaling=scaling, **own)
        objective = Objective(model, nullcontext, 0.1, scaling, micro_batch=3)
        for seed in range(3):
            groups = list(zip(*(t.split(5) for t in samples(12, seed)), strict=True))
            loss = optimizer.step([objective.closure(x, y) for x, y in groups], weights=[len(y) / 12 for _, y in groups])
            objective.settle(optimizer.bad)
        numbers = [loss.item(), *objective.totals().values(), *optimizer.report().get("probe_losses", [])]
        ends.append(([p.detach() for p in model.parameters()], numbers))
    for a, b in zip(ends[1][0], ends[0][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-12)


def test_no_forward_sees_more_than_a_micro_batch_and_the_loss_is_that_of_the_batch() -> None:
    model, (x, y) = network(), samples(8, 0)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    objective = Objective(model, nullcontext, micro_batch=3)
    closure = objective.closure(x, y)
    losses = [closure().item(), closure(backward=False).item()]
    objective.settle()
    assert seen == [3, 3, 2, 3, 3, 2]
    expected = functional.cross_entropy(model(x), y).item()
    right = 100 * (model(x).argmax(1) == y).double().mean().item()
    assert losses == pytest.approx([expected] * 2, rel=1e-12)
    assert objective.totals() == pytest.approx({"train_loss": expected, "train_accuracy": right, "perturbed_loss": expected}, rel=1e-12)


def test_batchnorm_normalises_each_micro_batch_by_its_own_statistics() -> None:
    """Which is another computation: why micro_batch is part of a run's identity."""
    (x, y) = samples(8, 0)
    model, whole = network(batchnorm=True), network(batchnorm=True)
    Objective(model, nullcontext, micro_batch=4).closure(x, y)()
    losses = [functional.cross_entropy(whole(part), target) for part, target in zip(x.split(4), y.split(4), strict=True)]
    (sum(losses) / 2).backward()  # type: ignore[union-attr]
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14)
    for a, b in zip(model.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_run_accumulates(tiny: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], Trainer]) -> None:
    """Batches of 40, 40 and 16 in micro-batches of 12."""
    run = trainer(tiny(micro_batch=12))
    seen: list[int] = []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    run.run_epoch(lambda units: None)
    assert seen == [12, 12, 12, 4] * 2 * 2 + [12, 4] * 2
