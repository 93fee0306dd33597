"""The residual networks that He et al. built for CIFAR (arXiv:1512.03385, section 4.2), with shortcuts without parameters (option A)."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """Logits (batch, classes) from images (batch, channels, size, size) of any size; `depth` is 6n + 2.

    A 3x3 convolution to 16 channels; three stages of n basic blocks with 16, 32, 64 channels and strides 1, 2, 2; global average pool,
    linear layer. Depths 20, 32, 56: 269,722, 464,154, 853,018 parameters for 10 classes and 3 channels. Layers are named as in the weights
    that people publish (conv1, bn1, layer1.0.conv1, ..., linear), so that these can be loaded.
    """

    def __init__(self, depth: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = stage(16, 16, 1, blocks)
        self.layer2 = stage(16, 32, 2, blocks)
        self.layer3 = stage(32, 64, 2, blocks)
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
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(branch)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every stride-th pixel, and zero channels where channels are added, as many before the old ones as behind them."""
        if self.stride == 1:  # channels are added only where the image is halved
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))


def stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    """`blocks` basic blocks, the first of which changes channels and size."""
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
