"""VGG-11 with BatchNorm for 32x32 images (Simonyan & Zisserman, arXiv:1409.1556, configuration A). The form that XSAM's code trains."""

from __future__ import annotations

from torch import Tensor, nn

# Channels of the 3x3 convolutions, one tuple for each max-pool.
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11BN(nn.Module):
    """Logits (batch, classes) from images (batch, channels, 32, 32).

    Convolutions with a bias, each followed by BatchNorm and ReLU; head 512-4096-4096-classes with `dropout` after each of its two ReLUs
    (the published value is 0.5). 28,149,514 parameters for 10 classes and 3 channels.
    """

    def __init__(self, classes: int, channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage in STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(inputs, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))
