"""The notions "ascent" and "gap" together: names, and each number against float64 by hand."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.image_data import ImageData
from sam.config import SharpnessConfig
from sam.sharpness.notions import Notion, work
from sam.sharpness.notions import measure as measure_subject
from sam.sharpness.subject import Measures, Sizes, subject_of

MEAN, STD, NOISE = 0.4, 0.25, 0.3


def network(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(48, 4))
    net.eval()
    net[1].running_mean.fill_(0.3)
    net[1].running_var.fill_(1.7)
    return net.train()


def image_data() -> ImageData:
    generator = torch.Generator().manual_seed(7)

    def images(n: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.randint(4, (n,), generator=generator)

    (train, labels), (test, test_labels) = images(26), images(15)
    clean, empty = (labels + 1) % 4, torch.zeros(0, 1, 6, 6, dtype=torch.uint8)
    mean, std = torch.tensor([MEAN]), torch.tensor([STD])
    return ImageData(train, labels, clean, empty, empty[:, 0, 0, 0].long(), test, test_labels, mean, std, 4, "", (), NOISE)


def measure(
    model: nn.Module, data: ImageData, config: SharpnessConfig, *, progress: Callable[[float], None] = lambda units: None
) -> Measures:
    return measure_subject(subject_of(model, data, config, progress=progress), config.chosen).values


CONFIG = SharpnessConfig(rho=[0.05, 0.5], m=8, batch_size=10)
PLAIN = [
    "test_loss",
    "test_accuracy",
    "test_loss_channel",
    "ece",
    "train_loss",
    "train_accuracy",
    "grad_norm",
    "gap",
    "error_gap",
    "weight_norm",
]


def keys(modes: tuple[str, ...]) -> set[str]:
    names = set(PLAIN)
    for rho in ("0.05", "0.5"):
        names |= {f"first_order[rho={rho}]", f"second_order[rho={rho}]"}
        for mode in modes:
            names |= {f"{kind}[rho={rho},bn={mode},batch={b}]" for kind in ("sharpness", "ascent_loss") for b in ("all", "m")}
            names.add(f"sharpness_stderr[rho={rho},bn={mode},batch=m]")
    return names | ({"train_loss[bn=train]", "train_accuracy[bn=train]", "grad_norm[bn=train]"} if "train" in modes else set())


def oracle() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """The network in float64 and eval mode, and the normalised images."""
    data = image_data()
    train, test = (((x.double() / 255) - MEAN) / STD for x in (data.train_images, data.test_images))
    return copy.deepcopy(network()).double().eval(), train, data.train_labels, test, data.test_labels


def test_names_and_plain_values() -> None:
    values = measure(network(), image_data(), CONFIG)
    assert set(values) == keys(("eval", "train"))
    assert set(measure(network(), image_data(), SharpnessConfig(rho=[0.05, 0.5], m=8, batchnorm=["eval"]))) == keys(("eval",))
    net, train, labels, test, test_labels = oracle()
    train_loss = functional.cross_entropy(net(train), labels)
    logp = functional.log_softmax(net(test), dim=1)
    right = -logp[torch.arange(15), test_labels]
    wrong = (-logp.sum(dim=1) - right) / 3
    channel = ((1 - NOISE) * right + NOISE * wrong).mean().item()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(train_loss, list(net.parameters()))])
    confidence = logp.exp().max(1).values
    bins = [((confidence > b / 15) & (confidence <= (b + 1) / 15)) for b in range(15)]
    hits = (logp.argmax(1) == test_labels).double()
    ece = 100 * sum(abs((hits[b] - confidence[b]).sum().item()) for b in bins) / 15
    accuracy = 100 * (net(train).argmax(1) == labels).double().mean().item()
    test_accuracy = 100 * (logp.argmax(1) == test_labels).double().mean().item()
    expected = {
        "test_loss": right.mean().item(),
        "test_accuracy": test_accuracy,
        "test_loss_channel": channel,
        "ece": ece,
        "train_loss": train_loss.item(),
        "train_accuracy": accuracy,
        "grad_norm": gradient.norm().item(),
        "gap": channel - train_loss.item(),
        "error_gap": accuracy - test_accuracy,
        "weight_norm": math.sqrt(sum((p**2).sum().item() for p in net.parameters())),
        "first_order[rho=0.5]": 0.5 * gradient.norm().item(),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=2e-6, abs=2e-6)
    assert values["gap"] == values["test_loss_channel"] - values["train_loss"]  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("batch", ["all", "m"])
def test_sharpness_of_each_variant(mode: str, batch: str) -> None:
    """batch=all: one gradient and one loss; in train mode each piece of m images is normalised by its own statistics."""
    net, x, y, _, _ = oracle()
    if mode == "train":
        net[1].train()
    pieces = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 26, 8)]
    parameters = dict(net.named_parameters())

    def loss(weights: dict[str, Tensor], group: list[tuple[Tensor, Tensor]]) -> Tensor:
        count = sum(len(b) for _, b in group)
        return sum(functional.cross_entropy(torch.func.functional_call(net, weights, (a,)), b, reduction="sum") for a, b in group) / count  # type: ignore[return-value]

    total = 0.0
    groups = [pieces] if batch == "all" else [[piece] for piece in pieces]
    for group in groups:
        at_w = loss(parameters, group)
        gradient = torch.autograd.grad(at_w, list(parameters.values()))
        length = torch.cat([g.flatten() for g in gradient]).norm()
        moved = {name: p + 0.5 * g / length for (name, p), g in zip(parameters.items(), gradient, strict=True)}
        total += (loss(moved, group) - at_w).item() * sum(len(b) for _, b in group) / 26
    values = measure(network(), image_data(), CONFIG)
    assert values[f"sharpness[rho=0.5,bn={mode},batch={batch}]"] == pytest.approx(total, rel=2e-5)


def test_dropout_is_off() -> None:
    assert measure(network(0.5), image_data(), CONFIG) == measure(network(0.0), image_data(), CONFIG)


@pytest.mark.parametrize("modes", [["eval"], ["eval", "train"]])
@pytest.mark.parametrize("rho", [[0.05], [0.05, 0.1, 0.5]])
def test_work_is_what_is_reported(modes: list[str], rho: list[float]) -> None:
    config, done = SharpnessConfig(rho=rho, m=8, batchnorm=modes, batch_size=10), []
    measure(network(), image_data(), config, progress=done.append)
    by_hand = 15 + len(modes) * 2 * 26 * (3 + len(rho))
    assert sum(done) == by_hand == work(config.chosen, Sizes(26, 15), config)


@pytest.fixture
def tf32() -> Iterator[Callable[..., tuple[bool, bool]]]:
    """Sets (if given) and returns the two switches; they are put back afterwards."""

    def switches(*values: bool) -> tuple[bool, bool]:
        if values:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = values
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    yield switches
    switches(*before)


@pytest.mark.parametrize("outside", [(True, True), (True, False), (False, True)])
def test_tf32_is_off_inside_and_as_it_was_outside(tf32: Callable[..., tuple[bool, bool]], outside: tuple[bool, bool]) -> None:
    seen = set()
    net = network()
    net.register_forward_hook(lambda *_: seen.add(tf32()))
    tf32(*outside)
    measure(net, image_data(), CONFIG)
    assert tf32() == outside
    assert seen == {(False, False)}


def test_a_row_is_reused_only_under_the_settings_that_change_its_numbers() -> None:
    def settings(config: SharpnessConfig) -> list[dict[str, object]]:
        return [Notion(name).settings(config) for name in ("ascent", "gap")]

    base = SharpnessConfig()
    assert settings(SharpnessConfig(batch_size=7)) == settings(SharpnessConfig(notions=["all"])) == settings(base)
    for config in (SharpnessConfig(rho=[0.1]), SharpnessConfig(m=64), SharpnessConfig(batchnorm=["eval"])):
        ascent, gap = settings(config)
        assert ascent != settings(base)[0]
        assert gap == settings(base)[1]
