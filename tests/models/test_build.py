"""The registry, its refusals, and the initialisations."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models import ModelError, build, check
from models.networks import initialise
from models.settings import ModelConfig

SMALL = {"classes": 10, "channels": 3, "image_size": 8, "depth": 10, "width": 4}


def test_a_model_config_is_a_set_of_keywords() -> None:
    config = ModelConfig.of(depth=10, width=1, dropout=0.1, shortcut="zero_pad", init="foret")
    check(**dataclasses.asdict(config), image_size=8, channels=1)
    model = build(**dataclasses.asdict(config), classes=10, channels=1, image_size=8)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_checking_needs_no_torch() -> None:
    code = (
        "import sys, models; models.check('wide_resnet', image_size=32, channels=3, depth=28); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("wide_resnet", 30, "model wide_resnet cannot take 30x30 images: the size must be at least 8 and divisible by 4"),
        ("wide_resnet", 4, "at least 8"),
        ("resnet18", 12, "model resnet18 cannot take 12x12 images: the size must be at least 8 and divisible by 8"),
        ("densenet121", 28, "model densenet121 cannot take 28x28 images: the size must be at least 8 and divisible by 8"),
        ("vgg11_bn", 8, "model vgg11_bn cannot take 8x8 images: the size must be exactly 32"),
        ("vgg11_bn", 64, "exactly 32"),
        (
            "alexnet",
            32,
            "model alexnet: unknown; must be one of wide_resnet, resnet18, resnet20, resnet32, resnet56, vgg11_bn, densenet121, timm",
        ),
    ],
)
def test_refused_by_check_and_build(name: str, size: int, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        check(name, image_size=size, channels=3)
    assert str(refusal.value).endswith(".")
    with pytest.raises(ModelError, match=message):
        build(name, classes=10, channels=3, image_size=size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("wide_resnet", 8), ("wide_resnet", 28), ("resnet18", 64), ("resnet20", 7), ("densenet121", 8), ("vgg11_bn", 32), ("timm", 7)],
)
def test_accepted_sizes(name: str, size: int) -> None:
    check(name, image_size=size, channels=1)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown option deph"):
        check("wide_resnet", image_size=32, channels=3, deph=28)
    with pytest.raises(ModelError, match="0 channels; must be at least 1"):
        check("wide_resnet", image_size=32, channels=0)
    with pytest.raises(ModelError, match="init he: unknown; must be one of fan_out, foret, torch"):
        build("wide_resnet", **SMALL, init="he")
    with pytest.raises(ModelError, match="Conv2d has no linear layer"):
        initialise(nn.Conv2d(3, 4, 1), "foret")


# --------------------------------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize("init", ["fan_out", "foret"])
def test_convolutions_are_he_normal_by_fan_out(init: str) -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", **SMALL, init=init)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            standard = module.weight.detach() / std
            n = standard.numel()
            assert abs(standard.mean()) < 5 / math.sqrt(n)
            assert abs(standard.square().mean() - 1) < 5 * math.sqrt(2 / n)
            assert n < 1000 or standard.abs().max() > 2.5  # normal, not uniform: that would end at sqrt(3)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()


def test_grouped_convolution_counts_its_own_outputs() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(64, 64, 3, groups=64)
    initialise(convolution, "fan_out")
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.15)
    assert convolution.bias is not None and convolution.bias.eq(0).all()


@pytest.mark.parametrize(("init", "bound", "zero_bias"), [("fan_out", 1 / 16, False), ("torch", 1 / 16, False), ("foret", 0.1, True)])
def test_head(init: str, bound: float, zero_bias: bool) -> None:
    """PyTorch draws U(+-1/sqrt(inputs)), here 256; Foret U(+-1/sqrt(classes)), here 100."""
    torch.manual_seed(0)
    head = build("wide_resnet", **{**SMALL, "classes": 100}, init=init).head
    assert 0.99 * bound < head.weight.abs().max() <= bound
    assert head.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert bool(head.bias.eq(0).all()) == zero_bias


def test_foret_leaves_hidden_linear_layers_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 4))
    before = model[0].weight.clone()
    initialise(model, "foret")
    assert torch.equal(model[0].weight, before)
    assert model[1].weight.abs().max() > 0.45


def test_torch_touches_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.constant_(model[1].weight, 2)
    before = [p.clone() for p in model.parameters()]
    initialise(model, "torch")
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("init", ["fan_out", "foret", "torch"])
def test_the_seed_decides_the_weights(init: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build("wide_resnet", **SMALL, init=init).parameters())

    first = weights(3)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))
