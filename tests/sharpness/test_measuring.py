"""Measuring leaves everything as it was, also if it fails half-way, and gives the same numbers twice."""

from collections.abc import Callable

import pytest
import torch
from sharpness_toys import same
from torch import Tensor, nn

from data.image_data import ImageData
from sam.core.criteria import cross_entropy
from sam.sharpness import ascent
from sam.sharpness.context import context_of, measure
from sam.sharpness.dataset_loss import DatasetLoss
from sam.sharpness.settings import HessianConfig, LandscapeConfig, SharpnessConfig, SpectrumConfig


class Stop(Exception):
    pass


def network() -> nn.Module:
    """BatchNorm with and without running statistics, dropout, a frozen layer, modes mixed on purpose, gradients lying about."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)
    norms = nn.BatchNorm2d(3), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(16, track_running_stats=False)
    net = nn.Sequential(first, norms[0], nn.ReLU(), nn.Dropout(0.5), second, norms[1], nn.Flatten(), norms[2], nn.Linear(16, 3))
    net(torch.randn(9, 1, 6, 6))
    net.train()
    net[1].eval()
    net[4].weight.requires_grad_(False)
    for p in net[0].parameters():
        p.grad = torch.randn_like(p)
    return net


def image_data() -> ImageData:
    generator = torch.Generator().manual_seed(5)

    def images(n: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.randint(3, (n,), generator=generator)

    (train, labels), (test, test_labels) = images(11), images(7)
    empty = torch.zeros(0, 1, 6, 6, dtype=torch.uint8)
    return ImageData(
        train, labels, empty, empty[:, 0, 0, 0].long(), test, test_labels, torch.tensor([0.5]), torch.tensor([0.3]), 3, "", (), 0.2
    )  # fmt: skip


def state(model: nn.Module) -> list[object]:
    """Everything that measuring must not move, as values that compare bitwise."""
    tensors = [(name, t.clone(), t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [(m.training, p.requires_grad) for m in model.modules() for p in m.parameters()]
    formats = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    return [tensors, grads, modes, [m.training for m in model.modules()], torch.get_rng_state(), formats]


def train_loss(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> DatasetLoss:
    data = image_data()
    options = {"prepare": data.normalize, "batch_size": 4, "batchnorm": batchnorm, "progress": tick}
    return DatasetLoss(model, data.train_images, data.train_labels, **options)  # type: ignore[arg-type]


def full(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    return ascent.full(train_loss(model, tick, batchnorm), [0.5, 2.0])


def batchwise(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    return ascent.batchwise(train_loss(model, tick, batchnorm), [0.5, 2.0])


def everything(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    modes = list(dict.fromkeys(["eval", batchnorm]))
    return measure(context_of(model, image_data(), SharpnessConfig.of(rho=[0.5, 2.0], m=4, batchnorm=modes, batch_size=4), progress=tick))


def drawing(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    settings = LandscapeConfig(lines=["n_step", "top_eigenvector"], planes=["xsam"], points=3, grid=3, alphas=[0.0, 1.0], lanczos_steps=2)
    config = SharpnessConfig.of(notions=["landscape"], rho=[0.5], batch_size=11, landscape=settings)
    return measure(context_of(model, image_data(), config, progress=tick))


def curvature(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    own = HessianConfig(eigenvalues=1, steps=3, probes=3, subset=7), SpectrumConfig(probes=1, steps=2, subset=7)
    config = SharpnessConfig.of(notions=["hessian", "spectrum"], rho=[0.5, 2.0], batch_size=4, hessian=own[0], spectrum=own[1])
    return measure(context_of(model, image_data(), config, progress=tick))


def products(model: nn.Module, tick: Callable[[float], None], batchnorm: str) -> object:
    loss = train_loss(model, tick, batchnorm)
    with loss.measuring():
        return [t.double().sum() for t in loss.hessian_vector_products([loss.points])[0]]


MEASURES = [full, batchwise, everything, curvature, products, drawing]


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
@pytest.mark.parametrize("notion", MEASURES)
def test_nothing_moves_and_twice_is_the_same(notion: Callable[..., object], batchnorm: str) -> None:
    model = network()
    before = state(model)
    torch.rand(1)
    assert not same(before, state(model))  # the comparison does see a drawn number
    torch.set_rng_state(before[4])  # type: ignore[arg-type]
    first = notion(model, lambda units: None, batchnorm)
    assert same(before, state(model))
    assert repr(first) == repr(notion(model, lambda units: None, batchnorm))
    assert same(before, state(model))


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
@pytest.mark.parametrize("notion", MEASURES)
def test_nothing_moves_if_it_fails_at_any_point(notion: Callable[..., object], batchnorm: str) -> None:
    model, ticks = network(), []
    before = state(model)
    notion(model, ticks.append, batchnorm)
    for last in range(1, len(ticks) + 1):
        seen: list[float] = []

        def tick(units: float, seen: list[float] = seen, last: int = last) -> None:
            seen.append(units)
            if len(seen) == last:
                raise Stop

        with pytest.raises(Stop):
            notion(model, tick, batchnorm)
        assert same(before, state(model)), last


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_nothing_moves_if_the_criterion_raises(batchnorm: str) -> None:
    model, calls = network(), []

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 6:  # in the second pass, when the weights stand elsewhere
            raise Stop
        return cross_entropy(outputs, labels)

    data, before = image_data(), state(model)
    loss = DatasetLoss(
        model, data.train_images, data.train_labels, prepare=data.normalize, criterion=criterion, batch_size=3, batchnorm=batchnorm
    )
    with pytest.raises(Stop):
        ascent.full(loss, [0.5])
    assert same(before, state(model))
