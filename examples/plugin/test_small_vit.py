"""The small ViT: its shapes, its size, and the image sizes that it refuses."""

import pytest
import small_vit
import torch

import models
from models.settings import ModelConfig


def test_logits_and_parameters() -> None:
    torch.manual_seed(0)
    model = models.build("small_vit", classes=7, channels=3, image_size=8, patch=2, blocks=2, dim=16, heads=2)
    assert isinstance(model, small_vit.SmallViT) and model(torch.randn(5, 3, 8, 8)).shape == (5, 7)
    images = torch.randn(2, 3, 8, 8)
    assert (model(images) - model(images.roll(2, 3))).abs().max() > 1e-4  # the same patches, elsewhere
    block = 4 * 16 * 16 + 4 * 16 + 2 * 16 * 32 + 32 + 16 + 4 * 16  # attention, feed-forward, two norms
    assert sum(p.numel() for p in model.parameters()) == (3 * 4 + 1) * 16 + 16 + 17 * 16 + 2 * block + 2 * 16 + 17 * 7


def test_sizes_that_its_patches_do_not_divide_are_refused_in_a_sentence() -> None:
    models.check("small_vit", image_size=28, channels=1, patch=4)
    with pytest.raises(models.ModelError, match=r"cannot take 8x8 images: .* divisible by 3, because its patches are 3x3\.$"):
        models.check("small_vit", image_size=8, channels=1, patch=3)


def test_its_label() -> None:
    assert ModelConfig.of(name="small_vit", patch=2).label == "ViT-4-64/2"
