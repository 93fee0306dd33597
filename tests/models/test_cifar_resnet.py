"""ResNet-20, 32 and 56 against hand counts, and against a forward pass written out with the layers' equations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import build
from models.networks import BasicBlock, CifarResNet

NAMES = {"resnet20": (3, 269_722), "resnet32": (5, 464_154), "resnet56": (9, 853_018)}  # blocks a stage, parameters as published


def on_meta(name: str, classes: int = 10, channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return build(name, classes=classes, channels=channels, image_size=32)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_by_hand(name: str) -> None:
    n, published = NAMES[name]
    stem = 27 * 16 + 2 * 16
    first = 2 * n * (9 * 16 * 16 + 2 * 16)
    second = 9 * 16 * 32 + (2 * n - 1) * 9 * 32 * 32 + 2 * n * 2 * 32
    third = 9 * 32 * 64 + (2 * n - 1) * 9 * 64 * 64 + 2 * n * 2 * 64
    model = on_meta(name)
    counted = sum(p.numel() for p in model.parameters())
    assert counted == stem + first + second + third + 64 * 10 + 10 == published
    assert sum(p.numel() for p in on_meta(name, 100, 1).parameters()) == published - 2 * 9 * 16 + 90 * 65
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * (6 * n + 1) and not any(c.bias is not None for c in convolutions)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 6 * n + 1  # none in a shortcut


@pytest.mark.parametrize(("size", "sizes"), [(32, (32, 16, 8)), (16, (16, 8, 4)), (15, (15, 8, 4)), (8, (8, 4, 2)), (1, (1, 1, 1))])
def test_shapes(size: int, sizes: tuple[int, ...]) -> None:
    model, shapes = build("resnet20", classes=7, channels=3, image_size=size), []
    for stage in (model.layer1, model.layer2, model.layer3):
        assert len(stage) == 3
        stage.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    assert model(torch.randn(2, 3, size, size)).shape == (2, 7)
    assert shapes == [(2, width, s, s) for width, s in zip((16, 32, 64), sizes, strict=True)]


def test_names_are_those_of_published_weights() -> None:
    names = dict(on_meta("resnet20").named_parameters())
    layers = [f"layer{s}.{b}.{part}" for s in (1, 2, 3) for b in (0, 1, 2) for part in ("conv1", "bn1", "conv2", "bn2")]
    layers = ["conv1", "bn1", *layers, "linear"]
    assert list(names) == [f"{layer}.{kind}" for layer in layers for kind in (("weight",) if "conv" in layer else ("weight", "bias"))]
    expected = {
        "conv1": (16, 3, 3, 3),
        "layer2.0.conv1": (32, 16, 3, 3),
        "layer3.0.conv1": (64, 32, 3, 3),
        "layer3.2.conv2": (64, 64, 3, 3),
    }
    assert {layer: tuple(names[f"{layer}.weight"].shape) for layer in expected} == expected


def test_option_a_by_hand() -> None:
    """4 -> 8 channels: two zero channels, the four old ones at every second pixel of every second row, two zero channels."""
    block = BasicBlock(4, 8, 2)
    x = torch.arange(4 * 9.0).reshape(1, 4, 3, 3)
    expected = torch.zeros(1, 8, 2, 2)
    for c in range(4):
        expected[0, 2 + c] = torch.tensor([[9 * c, 9 * c + 2], [9 * c + 6, 9 * c + 8]])
    nn.init.zeros_(block.bn2.weight)  # without its branch a block is its shortcut
    assert torch.equal(block(x), expected)
    block.eval()  # one value a channel has no variance
    assert block(torch.ones(1, 4, 1, 1)).flatten().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def written_out(x: Tensor, state: dict[str, Tensor], depth: int, train: bool) -> Tensor:
    """Logits in the order of the paper's section 4.2."""

    def convolved(x: Tensor, layer: str, number: int, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{layer}conv{number}.weight"], stride=stride, padding=1)
        norm = f"{layer}bn{number}"
        mean = x.mean((0, 2, 3)) if train else state[f"{norm}.running_mean"]
        var = x.var((0, 2, 3), correction=0) if train else state[f"{norm}.running_var"]
        scale, shift = (state[f"{norm}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * scale + shift

    x = convolved(x, "", 1).relu()
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            halved = stage > 1 and block == 0
            layer = f"layer{stage}.{block}."
            branch = convolved(convolved(x, layer, 1, 2 if halved else 1).relu(), layer, 2)
            skip = x
            if halved:
                skip = torch.zeros_like(branch)
                quarter = branch.shape[1] // 4
                skip[:, quarter:-quarter] = x[:, :, ::2, ::2]
            x = (branch + skip).relu()
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("depth", "channels", "size"), [(20, 3, 8), (32, 1, 9)])
def test_logits_equal_the_equations(depth: int, channels: int, size: int, train: bool) -> None:
    torch.manual_seed(0)
    model = CifarResNet(depth, 5, channels).double().train(train)
    for name, tensor in model.state_dict().items():  # no BatchNorm tensor may be at a value that hides it
        if "running_var" in name or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in name or ("bn" in name and name.endswith("bias")):
            tensor.normal_(0, 0.3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, channels, size, size, dtype=torch.float64)
    torch.testing.assert_close(model(x), written_out(x, state, depth, train), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_channels_last_and_tracing_change_nothing() -> None:
    model = build("resnet20", classes=10, channels=3, image_size=8).eval()
    x = torch.randn(2, 3, 8, 8)
    plain, formats = model(x), []
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), plain)
    for block in (*model.layer1, *model.layer2, *model.layer3):
        block.register_forward_hook(lambda _m, _i, out: formats.append(out.is_contiguous(memory_format=torch.channels_last)))
    last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain)
    assert formats == [True] * 9
