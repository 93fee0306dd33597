"""Wide residual networks (Zagoruyko & Komodakis, arXiv:1605.07146), and the variant with parameter-free shortcuts of Foret et al."""

import torch.nn.functional as F
from torch import Tensor, nn

from models import ModelError

SHORTCUTS = ("conv", "zero_pad")


class WideResNet(nn.Module):
    """WRN-depth-width: logits (batch, classes) from images (batch, channels, size, size), size divisible by 4.

    A 3x3 convolution to 16 channels; three groups of (depth - 4) / 6 pre-activation basic blocks with 16, 32, 64 times `width` channels
    and strides 1, 2, 2; BatchNorm, ReLU, global average pool, linear layer. `dropout` acts between the two convolutions of a block.

    shortcut  conv: where the channels change, a 1x1 convolution of the block's first activation: WRN-28-10 has 36,479,194 parameters
              for 10 classes and 36,536,884 for 100. (Many ports build one block more per group, which is WRN-34-10.)
              zero_pad: average pool by the stride and zero channels (google-research/sam): 36,220,634 and 36,278,324 parameters. Its
              stride-2 convolutions keep PyTorch's symmetric padding, where JAX's SAME pads only below and to the right.
    Raises `ModelError` for a depth that is not 6n + 4 or another shortcut.
    """

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3, dropout: float = 0.0, shortcut: str = "conv") -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ModelError(f"WideResNet depth {depth}: must be 6n + 4: 10, 16, 22, 28, 34, 40, ...")
        if shortcut not in SHORTCUTS:
            raise ModelError(f"WideResNet shortcut {shortcut}: must be one of {', '.join(SHORTCUTS)}.")
        self.stem = conv3x3(channels, 16)
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for index in range((depth - 4) // 6):
                stride = first_stride if index == 0 else 1
                # The published network shares the activation wherever the channels change, Foret's in the very first block only.
                shared = inputs != outputs if shortcut == "conv" else not blocks
                blocks.append(Block(inputs, outputs, stride, dropout, make_shortcut(shortcut, inputs, outputs, stride), shared))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Block(nn.Module):
    """BN-ReLU-conv3x3-(dropout)-BN-ReLU-conv3x3 plus a shortcut: (batch, inputs, s, s) -> (batch, outputs, s / stride, s / stride).

    shared: the shortcut starts from the block's first activation rather than from its raw input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, shortcut: nn.Module, shared: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = shortcut
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        branch = self.dropout(self.conv1(active))
        branch = self.conv2(F.relu(self.norm2(branch)))
        return branch + self.shortcut(active if self.shared else x)


def make_shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where the shape stays; else a 1x1 convolution without BatchNorm (conv), or an average pool by the stride and zero
    channels behind the others, without parameters (zero_pad)."""
    if inputs == outputs:  # strides other than 1 come only with a change of channels
        return nn.Identity()
    if kind == "zero_pad":
        return nn.Sequential(nn.AvgPool2d(stride), nn.ConstantPad3d((0, 0, 0, 0, 0, outputs - inputs), 0.0))
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the image size, up to its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
