"""A small vision transformer in plain torch (Dosovitskiy et al. 2021, pre-norm), for images of any size that its patches divide.

python ../../train.py plugins=small_vit model=small_vit model.patch=2 optimizer.base=adamw optimizer.lr=1e-3 dataset=digits
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.settings import MODELS, ModelConfig, Sizes
from sam.config import ConfigError, key

VERSION = 1


@dataclass(frozen=True)
class SmallViTConfig(ModelConfig):
    patch: int = key(4, "of the small ViT: pixels a side of a patch", low=1)
    blocks: int = key(4, "of the small ViT: transformer blocks", low=1)
    dim: int = key(64, "of the small ViT: size of a token", low=4)
    heads: int = key(4, "of the small ViT: attention heads of a block", low=1)

    def relate(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"model.heads={self.heads}: must divide model.dim={self.dim}.")

    @property
    def label(self) -> str:
        return f"ViT-{self.blocks}-{self.dim}/{self.patch}"


def sizes(patch: int = 4, **_: object) -> Sizes:
    return Sizes(patch, multiple=patch, reason=f"its patches are {patch}x{patch}")


class SmallViT(nn.Module):
    """Logits (batch, classes) from images (batch, channels, image_size, image_size): a class token, learned positions, `blocks` blocks."""

    def __init__(self, classes: int, channels: int, image_size: int, patch: int, blocks: int, dim: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.start = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image_size // patch) ** 2, dim))
        # dropout is 0: a step's passes see one function
        block = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(block, blocks, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.body(tokens)[:, 0])


MODELS.add("small_vit", f"{__name__}:SmallViT", SmallViTConfig, "small ViT", option={}, about=sizes)
