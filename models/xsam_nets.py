"""ResNet-18 (He et al., arXiv:1512.03385), DenseNet-121 (Huang et al., arXiv:1608.06993) and VGG-11 with BatchNorm (Simonyan & Zisserman,
arXiv:1409.1556, configuration A) for small images, in the forms that XSAM's code trains: 3x3 stem, no max-pool after it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DENSE_LAYERS, GROWTH = (6, 12, 24, 16), 32  # of DenseNet-121: layers of each block, channels that each of them adds
VGG_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels of the 3x3 convolutions, one tuple for each max-pool


class ResNet18(nn.Module):
    """Logits (batch, classes) from images (batch, channels, size, size), size divisible by 8.

    Basic blocks 2-2-2-2 with 64, 128, 256, 512 channels; 11,173,962 parameters for 10 classes and 3 channels. The global average pool
    equals the usual 4x4 pool on 32x32 images.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus a shortcut (1x1 convolution and BN where the shape changes), then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


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
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], 1)


class VGG11BN(nn.Module):
    """Logits (batch, classes) from images (batch, channels, 32, 32).

    Convolutions with a bias, each followed by BatchNorm and ReLU; head 512-4096-4096-classes with `dropout` after each of its two ReLUs
    (the published value is 0.5). 28,149,514 parameters for 10 classes and 3 channels.
    """

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
