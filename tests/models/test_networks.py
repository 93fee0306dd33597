"""ResNet-18, VGG-11-BN and DenseNet-121: published sizes, structure, and that every parameter learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.torchvision_guard import ensure
from models import build
from models.networks import DenseLayer

COUNTS = {
    "vgg11_bn": (28_149_514, 28_518_244, 28_927_944),
    "resnet18": (11_173_962, 11_220_132, 11_271_432),
    "densenet121": (6_956_298, 7_048_548, 7_151_048),
}


def on_meta(name: str, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build(name, classes=classes, channels=3, image_size=32)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name: str) -> None:
    counted = tuple(sum(p.numel() for p in on_meta(name, classes).parameters()) for classes in (10, 100, 200))
    assert counted == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("resnet18", 3, 32),
        ("resnet18", 1, 8),
        ("resnet20", 1, 8),
        ("resnet56", 3, 16),
        ("vgg11_bn", 3, 32),
        ("densenet121", 3, 16),
        ("densenet121", 1, 8),
        ("wide_resnet", 1, 8),
    ],
)
def test_logits_and_gradients(name: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build(name, classes=7, channels=channels, image_size=size, depth=10, width=1)
    logits = model(torch.randn(4, channels, size, size))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    # A bias before BatchNorm has gradient zero by construction, so weights only.
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.dim() > 1)


def test_resnet_sees_a_4x4_map_on_32x32_images() -> None:
    model = build("resnet18", classes=10, channels=3, image_size=32)
    shapes = []
    model.blocks.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
    model.eval()(torch.randn(1, 3, 32, 32))
    assert shapes == [(1, 512, 4, 4)]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 20


def test_densenet_transitions_have_no_relu() -> None:
    transitions = [m for m in on_meta("densenet121").layers if isinstance(m, nn.Sequential)]
    assert [[type(layer) for layer in t] for t in transitions] == [[nn.BatchNorm2d, nn.Conv2d, nn.AvgPool2d]] * 3
    assert [t[1].out_channels for t in transitions] == [128, 256, 512]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_vgg_head_dropout_is_the_option(dropout: float) -> None:
    with torch.device("meta"):
        model = build("vgg11_bn", classes=10, channels=3, image_size=32, dropout=dropout)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [dropout, dropout]
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_resnet18_is_torchvisions_with_another_stem() -> None:
    ensure()
    from torchvision.models import resnet18

    ours, peer = build("resnet18", classes=7, channels=3, image_size=8), resnet18(num_classes=7)
    peer.conv1, peer.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    peer.load_state_dict(dict(zip(peer.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(ours(x), peer(x))


def test_a_dense_layer_is_torchvisions() -> None:
    ensure()
    from torchvision.models.densenet import _DenseLayer

    ours, peer, x = DenseLayer(8), _DenseLayer(8, 32, 4, 0.0), torch.randn(4, 8, 4, 4)
    peer.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), torch.cat([x, peer([x])], 1))


def test_densenet121_is_torchvisions_with_another_stem_and_bare_transitions() -> None:
    ensure()
    from torchvision.models import DenseNet

    ours, peer = build("densenet121", classes=7, channels=3, image_size=8), DenseNet(num_classes=7)
    features = peer.features
    features.conv0, features.norm0, features.relu0 = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    features.pool0 = features.transition1.relu = features.transition2.relu = features.transition3.relu = nn.Identity()
    peer.load_state_dict(dict(zip(peer.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(ours(x), peer(x))


def test_vggs_layers_are_torchvisions() -> None:
    ensure()
    from torchvision.models.vgg import cfgs, make_layers

    ours, peer, x = build("vgg11_bn", classes=7, channels=3, image_size=32), make_layers(cfgs["A"], True), torch.randn(2, 3, 32, 32)
    peer.load_state_dict(ours.features.state_dict())
    torch.testing.assert_close(ours.features(x), peer(x))
    assert [type(layer) for layer in ours.head] == [*[nn.Linear, nn.ReLU, nn.Dropout] * 2, nn.Linear]
