"""The WideResNet against its published size, and against a forward pass written in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from models import ModelError, build
from models.networks import WideResNet

BN_EPS = 1e-5


def on_meta(**options) -> nn.Module:
    """The architecture without its numbers: no memory, no time."""
    with torch.device("meta"):
        return WideResNet(**options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "classes", "shortcut", "count"),
    [
        (28, 10, 10, "conv", 36_479_194),
        (28, 10, 100, "conv", 36_536_884),
        (28, 10, 10, "zero_pad", 36_220_634),
        (28, 10, 100, "zero_pad", 36_278_324),
        (10, 1, 10, "conv", 77_850),
        (16, 1, 10, "conv", 175_066),
        (16, 2, 10, "conv", 691_674),
        (28, 2, 10, "conv", 1_467_610),
        (16, 4, 10, "conv", 2_748_890),
        (16, 8, 10, "conv", 10_961_370),
    ],
)
def test_parameter_count(depth: int, width: int, classes: int, shortcut: str, count: int) -> None:
    assert parameters(on_meta(depth=depth, width=width, classes=classes, shortcut=shortcut)) == count


def test_wrn_28_10_is_not_wrn_34_10() -> None:
    model = on_meta(depth=28, width=10, classes=10)
    assert len(list(model.parameters())) == 80
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 25
    assert sum(m.kernel_size == (1, 1) for m in convolutions) == 3
    assert sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()) == 17_952


# ------------------------------------------------------------------------------------------------ a forward pass in NumPy


def np_conv(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    k = weight.shape[-1]
    size = x.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((len(x), len(weight), -(-size // stride), -(-size // stride)))
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            window = x[:, :, row * stride : row * stride + k, column * stride : column * stride + k]
            out[:, :, row, column] = np.einsum("bchw,ochw->bo", window, weight)
    return out


def np_bn_relu(x: np.ndarray, state: dict[str, np.ndarray], name: str, train: bool) -> np.ndarray:
    mean = x.mean((0, 2, 3)) if train else state[f"{name}.running_mean"]
    var = x.var((0, 2, 3)) if train else state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / np.sqrt(var + BN_EPS)
    return np.maximum((x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None], 0)


def np_forward(x: np.ndarray, state: dict[str, np.ndarray], depth: int, width: int, shortcut: str, train: bool) -> np.ndarray:
    x = np_conv(x, state["stem.weight"], 1)
    per_group = (depth - 4) // 6
    for index in range(3 * per_group):
        name = f"blocks.{index}"
        stride = 2 if index in (per_group, 2 * per_group) else 1
        outputs = (16, 32, 64)[index // per_group] * width
        active = np_bn_relu(x, state, f"{name}.norm1", train)
        branch = np_conv(active, state[f"{name}.conv1.weight"], stride)
        branch = np_conv(np_bn_relu(branch, state, f"{name}.norm2", train), state[f"{name}.conv2.weight"], 1)
        if shortcut == "conv":
            skip = x if x.shape[1] == outputs else np_conv(active, state[f"{name}.shortcut.weight"], stride)
        else:
            source = active if index == 0 else x
            pooled = sum(source[:, :, a::stride, b::stride] for a in range(stride) for b in range(stride)) / stride**2
            skip = np.zeros_like(branch)
            skip[:, : pooled.shape[1]] = pooled
        x = branch + skip
    return np_bn_relu(x, state, "norm", train).mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shortcut", ["conv", "zero_pad"])
@pytest.mark.parametrize(("depth", "width", "channels"), [(10, 1, 1), (16, 2, 3)])
def test_logits_equal_numpy(depth: int, width: int, channels: int, shortcut: str, train: bool) -> None:
    torch.manual_seed(0)
    model = WideResNet(depth, width, 5, channels, shortcut=shortcut).double().train(train)
    for name, tensor in model.state_dict().items():  # no BatchNorm tensor may be at a value that hides it
        if "running_var" in name or ("norm" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in name or ("norm" in name and name.endswith("bias")):
            tensor.normal_(0, 0.3)
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, channels, 8, 8, dtype=torch.float64)
    expected = np_forward(x.numpy(), state, depth, width, shortcut, train)
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=0, atol=1e-10)


# -------------------------------------------------------------------------------------------------------------- behaviour


@pytest.mark.parametrize("shortcut", ["conv", "zero_pad"])
def test_channels_last_and_compile_change_nothing(shortcut: str) -> None:
    torch.manual_seed(0)
    model = WideResNet(10, 2, 10, shortcut=shortcut).eval()
    x = torch.randn(2, 3, 8, 8)
    plain = model(x)
    traced = torch.compile(model, backend="eager", fullgraph=True)  # fullgraph: a graph break would be an error
    torch.testing.assert_close(traced(x), plain)
    formats = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: formats.append(out.is_contiguous(memory_format=torch.channels_last)))
    last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain)
    assert formats == [True] * 3


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1, dropout=0.3)
    x = torch.randn(4, 1, 8, 8)
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == 3
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"), [({"depth": 27}, "depth 27: must be 6n"), ({"shortcut": "pool"}, "must be one of conv, zero_pad")]
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        WideResNet(**{"depth": 10, "width": 1, "classes": 10, **options})


# ---------------------------------------------------------------------------------------------------------- other normalisation


@pytest.mark.parametrize(("norm", "layers", "count"), [("batch", 7, 77_850), ("group", 7, 77_850), ("none", 0, 77_850 - 2 * 240)])
def test_what_stands_for_batch_norm(norm: str, layers: int, count: int) -> None:
    """In WRN-10-1: norms of 16, 16, 16, 32, 32, 64 and 64 channels, with a weight and a bias each."""
    model = build("wide_resnet", classes=10, channels=3, image_size=8, depth=10, width=1, norm=norm)
    kinds = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(kinds) == layers and all(isinstance(m, nn.GroupNorm) == (norm == "group") for m in kinds)
    assert parameters(model) == count


def test_group_norm_standardises_eight_channels_of_one_image() -> None:
    layer = build("wide_resnet", classes=10, channels=3, image_size=8, depth=10, width=1, norm="group").blocks[1].norm1
    x = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    parts = x.reshape(3, 2, -1)
    expected = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected.view_as(x))


def test_without_batch_norm_an_image_is_alone_in_its_batch() -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for norm in ("group", "none"):
        model = build("wide_resnet", classes=10, channels=3, image_size=8, depth=10, width=1, norm=norm)  # in training mode
        torch.testing.assert_close(model(x)[:1], model(x[:1]))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="norm layer: must be one of batch, group, none"):
        on_meta(depth=10, width=1, classes=10, norm="layer")


def test_dropout_stands_behind_the_first_convolution_of_a_block() -> None:
    model, met = build("wide_resnet", classes=10, channels=1, image_size=8, depth=10, width=1, dropout=0.3), []
    for name, module in model.blocks[1].named_children():
        module.register_forward_hook(lambda *_, name=name: met.append(name))
    model(torch.randn(2, 1, 8, 8))
    assert met == ["norm1", "conv1", "dropout", "norm2", "conv2", "shortcut"]
