"""DenseNet-121 in its CIFAR form (Huang et al., arXiv:1608.06993): 3x3 stem, no max-pool. The form that XSAM's code trains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (6, 12, 24, 16)
GROWTH = 32


class DenseNet121(nn.Module):
    """Logits (batch, classes) from images (batch, channels, size, size), size divisible by 8.

    Dense blocks of 6, 12, 24, 16 layers, growth 32, bottleneck 4 x growth, compression 0.5; 6,956,298 parameters for 10 classes and 3
    channels. A transition has no ReLU, as in XSAM's code (the published network has one).
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        width = 2 * GROWTH
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for block, count in enumerate(BLOCKS):
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
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], 1)
