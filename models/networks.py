"""The networks, timm's among them: logits (batch, classes) from images (batch, channels, size, size); and their initialisation."""

import difflib
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import ModelError
from models.settings import INITS, NORMS, SHORTCUTS

DENSE_LAYERS, GROWTH = (6, 12, 24, 16), 32  # of DenseNet-121: layers of each block, channels that each of them adds
VGG_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels of the 3x3 convolutions, one tuple for each max-pool


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the image size, up to its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko & Komodakis, arXiv:1605.07146), for sizes divisible by 4.

    A 3x3 convolution to 16 channels; three groups of (depth - 4) / 6 pre-activation basic blocks with 16, 32, 64 times `width` channels
    and strides 1, 2, 2; global average pool. `dropout` acts behind the first convolution of a block (theirs:
    behind the second ReLU). ModelError for another depth.

    shortcut  conv: where the channels change, a 1x1 convolution of the block's first activation: WRN-28-10 has 36,479,194 parameters
              for 10 classes and 36,536,884 for 100. (Many ports build one block more per group, which is WRN-34-10.)
              zero_pad: average pool by the stride and zero channels (google-research/sam): 36,220,634 and 36,278,324 parameters. Its
              stride-2 convolutions keep PyTorch's symmetric padding, where JAX's SAME pads only below and to the right.
    norm      batch | group | none: `make_norm`.
    """

    def __init__(
        self, depth: int, width: int, classes: int, channels: int = 3, dropout: float = 0.0, shortcut: str = "conv", norm: str = "batch"
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ModelError(f"WideResNet depth {depth}: must be 6n + 4: 10, 16, 22, 28, 34, 40, ...")
        for name, kind, known in (("shortcut", shortcut, SHORTCUTS), ("norm", norm, NORMS)):
            if kind not in known:
                raise ModelError(f"WideResNet {name} {kind}: must be one of {', '.join(known)}.")
        self.stem = conv3x3(channels, 16)
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for index in range((depth - 4) // 6):
                stride = first_stride if index == 0 else 1
                # The published network shares the activation wherever the channels change, Foret's in the very first block only.
                shared = inputs != outputs if shortcut == "conv" else not blocks
                blocks.append(WideBlock(inputs, outputs, stride, dropout, make_shortcut(shortcut, inputs, outputs, stride), shared, norm))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = make_norm(norm, inputs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class WideBlock(nn.Module):
    """BN-ReLU-conv3x3-(dropout)-BN-ReLU-conv3x3 plus a shortcut: (batch, inputs, s, s) -> (batch, outputs, s / stride, s / stride). shared:
    the shortcut starts from the block's first activation rather than from its raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, shortcut: nn.Module, shared: bool, norm: str) -> None:
        super().__init__()
        self.norm1, self.conv1 = make_norm(norm, inputs), conv3x3(inputs, outputs, stride)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm2, self.conv2 = make_norm(norm, outputs), conv3x3(outputs, outputs)
        self.shortcut, self.shared = shortcut, shared

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        branch = self.dropout(self.conv1(active))
        branch = self.conv2(F.relu(self.norm2(branch)))
        return branch + self.shortcut(active if self.shared else x)


def make_norm(kind: str, channels: int) -> nn.Module:
    """batch: BatchNorm; group: GroupNorm over groups of 8 channels, which sees one image at a time; none: the identity."""
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(channels // 8, channels) if kind == "group" else nn.BatchNorm2d(channels)


def make_shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where the shape stays; else conv: a 1x1 convolution; zero_pad: an average pool by the stride and zero channels."""
    if inputs == outputs:  # strides other than 1 come only with a change of channels
        return nn.Identity()
    if kind == "zero_pad":
        return nn.Sequential(nn.AvgPool2d(stride), nn.ConstantPad3d((0, 0, 0, 0, 0, outputs - inputs), 0.0))
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class CifarResNet(nn.Module):
    """The residual network that He et al. built for CIFAR (arXiv:1512.03385, section 4.2), for any size; `depth` is 6n + 2.

    A 3x3 convolution; three stages of n basic blocks with 16, 32, 64 channels and strides 1, 2, 2; shortcuts without parameters (option A).
    Depths 20, 32, 56: 269,722, 464,154, 853,018 parameters for 10 classes and 3 channels. Layers are named as in the weights that people
    publish, which can be loaded."""

    def __init__(self, depth: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, 16), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)))
            for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


ResNet20, ResNet32, ResNet56 = (partial(CifarResNet, depth) for depth in (20, 32, 56))


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus a shortcut, then ReLU: (batch, inputs, s, s) -> (batch, outputs, s / stride, s / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:  # option A: every stride-th pixel, and zero channels, as many before the old ones as behind them
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(branch + x)


class ResNet18(nn.Module):
    """ResNet-18 (He et al., arXiv:1512.03385) as XSAM's code trains it, with a 3x3 stem and no max-pool after it, for sizes divisible by 8.
    Blocks 2-2-2-2 with 64, 128, 256, 512 channels; 11,173,962 parameters for 10 classes and 3 channels."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem, self.norm = conv3x3(channels, 64), nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
            blocks += [ProjectingBlock(inputs, outputs, stride), ProjectingBlock(outputs, outputs, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


class ProjectingBlock(nn.Module):
    """A basic block whose shortcut is a 1x1 convolution and BN where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class DenseNet121(nn.Module):
    """DenseNet-121 (Huang et al., arXiv:1608.06993) as XSAM's code trains it, for sizes divisible by 8. Bottleneck 4 x growth, compression
    0.5; 6,956,298 parameters for 10 classes and 3 channels. A transition has no ReLU, as in that code (the published network has one)."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        width = 2 * GROWTH
        self.stem = conv3x3(channels, width)
        layers: list[nn.Module] = []
        for block, count in enumerate(DENSE_LAYERS):
            if block:
                layers.append(nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)))
                width //= 2
            for _ in range(count):
                layers.append(DenseLayer(width))
                width += GROWTH
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(x))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    """Appends 32 channels: BN-ReLU-conv1x1 (to 128)-BN-ReLU-conv3x3 of everything so far."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * GROWTH), conv3x3(4 * GROWTH, GROWTH)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], 1)


class VGG11BN(nn.Module):
    """VGG-11 with BatchNorm (Simonyan & Zisserman, arXiv:1409.1556, configuration A) for size 32. Convolutions with a bias; head
    512-4096-4096-classes with `dropout` after each of its two ReLUs (the published value is 0.5). 28,149,514 parameters for 10 classes and
    3 channels."""

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage in VGG_STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = []
        for width in (inputs, 4096):
            head += [nn.Linear(width, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.head = nn.Sequential(*head, nn.Linear(4096, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def build_timm(timm_name: str | None, classes: int, channels: int, image_size: int) -> nn.Module:
    """Build timm's model `timm_name`, without pretrained weights; only here timm and torchvision are imported. ModelError if timm is not
    installed, does not know the name, or cannot build it at this size."""
    from data.torchvision_guard import ensure

    if not timm_name:
        raise ModelError("model timm: name the architecture with timm_name, for example resnet18.")
    try:
        ensure()  # timm imports torchvision, whose usual wheel does not load beside a CPU build of torch
        import timm
    except ImportError as error:
        raise ModelError(f"model timm needs the packages timm and torchvision ({error}): pip install timm torchvision.") from error
    # Names are looked up here because create_model would take "hf-hub:..." to the network.
    if not timm.is_model(timm_name):
        close = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() lists them."
        raise ModelError(f"timm_name {timm_name}: timm {timm.__version__} has no such model{hint}")
    known = timm.models.get_pretrained_cfg(timm_name)
    size: dict[str, Any] = {"img_size": image_size} if known is not None and known.fixed_input_size else {}
    refusal = f"timm_name {timm_name} cannot be built for {channels} x {image_size} x {image_size} images"
    try:
        model: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=classes, in_chans=channels, **size)
        # A transformer whose patch exceeds the image builds without a complaint, and then never looks at the image.
        if getattr(getattr(model, "patch_embed", None), "num_patches", 1) == 0:
            raise ValueError("its patches are larger than the image")
        with torch.no_grad():  # in eval mode: nothing is drawn, no buffer moves
            model.eval()(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # each architecture refuses an impossible size in its own way, by a failed division even
        raise ModelError(f"{refusal}: {error}.") from error
    return model.train()


@torch.no_grad()
def initialise(model: nn.Module, init: str) -> None:
    """Draw the model's weights in place from torch's global random generator. ModelError if `foret` finds no linear layer.

    fan_out: convolutions N(0, 2 / fan_out) with fan_out = out_channels * kernel area / groups (He et al. 2015; Zagoruyko & Komodakis
             until September 2016, then fan_in), their biases 0, BatchNorm weight 1 and bias 0, linear layers as PyTorch draws them.
    foret:   the same, and the last linear layer's weight U(-1/sqrt(classes), 1/sqrt(classes)), its bias 0 (google-research/sam).
    torch:   nothing is touched: the layers' own defaults.
    """
    if init not in INITS:
        raise ModelError(f"model init {init}: unknown; must be one of {', '.join(INITS)}.")
    if init == "torch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # torch's own fan_out counts every output channel as fed by every input channel, which is wrong for grouped convolutions.
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
            module.weight.normal_(0, (2 / fan_out) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.fill_(1)
            module.bias.zero_()
    if init != "foret":
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"model init foret: {type(model).__name__} has no linear layer to draw; use init fan_out or torch.")
    head = linear[-1]
    bound = head.out_features**-0.5
    head.weight.uniform_(-bound, bound)
    if head.bias is not None:
        head.bias.zero_()
