"""Every augmentation against an oracle that treats one image at a time, in NumPy, with the same random draws."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data import DataError, check_augmentation
from data.augment import Augment

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
# Identity statistics: the output holds the raw pixel values, up to rounding.
RAW_MEAN, RAW_STD = torch.zeros(1), torch.full((1,), 1 / 255)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(b: int = 7, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(1, 256, (b, channels, size, size), generator=seeded(seed), dtype=torch.uint8)


def textbook(images: np.ndarray) -> np.ndarray:
    """(x / 255 - mean) / std in float64."""
    mean, std = MEAN.double().numpy()[:, None, None], STD.double().numpy()[:, None, None]
    return (images.astype(np.float64) / 255 - mean) / std


def numbered(b: int, size: int) -> Tensor:
    """b copies of an image in which each pixel holds its own number, row by row, counted from 1."""
    return (1 + torch.arange(size * size)).reshape(1, 1, size, size).to(torch.uint8).expand(b, -1, -1, -1)


ALL = [
    {},
    {"flip": True},
    {"crop_padding": 2},
    {"crop_padding": 2, "padding_mode": "zeros", "flip": True},
    {"cutout": 4},
    {"cutout": 3, "cutout_per": "batch"},
    {"crop_padding": 7, "flip": True, "cutout": 4, "cutout_probability": 0.5},
    {"policy": "autoaugment", "flip": True, "cutout": 2},
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", ALL, ids=str)
@pytest.mark.parametrize("b", [1, 5])
def test_layout_and_reproducibility(options: dict, b: int, channels_last: bool) -> None:
    images = random_images(b)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    augment = Augment(**options)
    first, again = augment(images, seeded(3), MEAN, STD), augment(images, seeded(3), MEAN, STD)
    assert first.shape == images.shape and first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, again) and torch.equal(images, before)


def test_nothing_enabled_is_normalisation_and_draws_nothing() -> None:
    images, generator = random_images(), seeded()
    state = generator.get_state()
    result = Augment()(images, generator, MEAN, STD)
    np.testing.assert_allclose(result, textbook(images.numpy()), atol=2e-6)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("zeros", "constant")])
@pytest.mark.parametrize("pad", [1, 3, 7])
def test_crop_and_flip_match_the_padded_image(pad: int, mode: str, numpy_mode: str, flip: bool) -> None:
    images = random_images(b=33)
    result = Augment(crop_padding=pad, padding_mode=mode, flip=flip)(images, seeded(5), MEAN, STD)
    generator = seeded(5)
    top, left = torch.randint(0, 2 * pad + 1, (2, 33, 1), generator=generator)[..., 0].tolist()
    mirrored = (torch.rand(33, 1, generator=generator) < 0.5)[:, 0].tolist() if flip else [False] * 33
    for k, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode=numpy_mode)
        crop = padded[:, top[k] : top[k] + 8, left[k] : left[k] + 8]
        np.testing.assert_allclose(result[k], textbook(crop[:, :, ::-1] if mirrored[k] else crop), atol=2e-6)


def test_flip_alone_mirrors_half_of_the_images() -> None:
    images = numbered(20_000, 3)
    result = Augment(flip=True)(images, seeded(1), RAW_MEAN, RAW_STD).round()
    mirrored = result[:, 0, 0, 0] == 3
    assert torch.equal(result[mirrored], images[mirrored].flip(3).float())
    assert torch.equal(result[~mirrored], images[~mirrored].float())
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / 20_000**0.5


def test_every_crop_offset_is_equally_likely() -> None:
    n, size, pad = 20_000, 5, 2
    result = Augment(crop_padding=pad)(numbered(n, size), seeded(2), RAW_MEAN, RAW_STD).round().long()
    source = result[:, 0, 2, 2] - 1  # the pixel that the middle shows
    offsets = (source // size) * size + source % size
    counts = torch.bincount(offsets, minlength=25).double()
    expected = n / 25
    assert (counts > 0).all() and len(counts) == 25
    assert float(((counts - expected) ** 2 / expected).sum()) < 51.2  # 99.9% of chi-square with 24 degrees of freedom


def test_zero_padding_pads_raw_pixels() -> None:
    result = Augment(crop_padding=7, padding_mode="zeros")(random_images(200), seeded(), MEAN, STD)
    black = -MEAN / STD
    assert ((result - black[:, None, None]).abs() < 1e-6).all(dim=1).double().mean() > 0.3
    assert not (result == 0).any(dim=1).all()


@pytest.mark.parametrize("per", ["image", "batch"])
@pytest.mark.parametrize("probability", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_matches_plain_loops(side: int, probability: float, per: str) -> None:
    images = random_images(b=40)
    result = Augment(cutout=side, cutout_probability=probability, cutout_per=per)(images, seeded(9), MEAN, STD)
    generator, draws = seeded(9), 1 if per == "batch" else 40
    rows, columns = torch.randint(0, 8, (2, draws, 1), generator=generator)[..., 0].tolist()
    chosen = (torch.rand(draws, 1, 1, generator=generator).flatten() < probability).tolist()
    for k, image in enumerate(images.numpy()):
        d = 0 if per == "batch" else k
        expected = textbook(image)
        if chosen[d]:
            for y in range(rows[d] - side // 2, rows[d] - side // 2 + side):
                for x in range(columns[d] - side // 2, columns[d] - side // 2 + side):
                    if 0 <= y < 8 and 0 <= x < 8:
                        expected[:, y, x] = 0
        np.testing.assert_allclose(result[k], expected, atol=2e-6)


def holes(**options: object) -> Tensor:
    """(b, 8, 8): where Cutout wrote zeros into images without a zero."""
    return Augment(cutout=4, **options)(random_images(4000), seeded(4), -torch.ones(3), torch.ones(3))[:, 0] == 0


def test_cutout_areas_are_clipped_at_the_borders() -> None:
    area = holes().sum(dim=(1, 2))
    # Centres 0..7, side 4: the rows covered are 2, 3, 4, 4, 4, 4, 4, 3, so 3.5 in the mean; rows and columns are independent.
    assert set(area.tolist()) == {4, 6, 8, 9, 12, 16}
    assert abs(area.double().mean() - 3.5**2) < 4 * float(area.double().std()) / 4000**0.5


def test_cutout_per_image_moves_and_per_batch_does_not() -> None:
    assert len(torch.unique(holes().flatten(1), dim=0)) == 64  # every centre gives its own hole
    assert len(torch.unique(holes(cutout_per="batch").flatten(1), dim=0)) == 1


def test_cutout_probability() -> None:
    share = holes(cutout_probability=0.3).any(dim=(1, 2)).double().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    augment = Augment(cutout=4, cutout_per="batch", cutout_probability=0.5)
    generator = seeded()
    cut = [bool((augment(random_images(3), generator, -torch.ones(3), torch.ones(3)) == 0).any()) for _ in range(40)]
    assert 8 < sum(cut) < 32


def test_autoaugment_is_torchvisions_and_leaves_the_global_generator_alone() -> None:
    from data import torchvision_guard

    torchvision_guard.ensure()
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    images = random_images(6, size=32)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    result = Augment(policy="autoaugment")(images, seeded(8), MEAN, STD)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(int(torch.randint(0, 2**62, (1,), generator=seeded(8))))
    policy = AutoAugment(AutoAugmentPolicy.CIFAR10)
    for image, changed in zip(images, result, strict=True):
        np.testing.assert_allclose(changed, textbook(policy(image).numpy()), atol=2e-6)
    assert not torch.equal(result, Augment(policy="autoaugment")(images, seeded(9), MEAN, STD))


def test_settings_that_do_not_suit_the_images() -> None:
    with pytest.raises(DataError, match=r"crop_padding=8: must be between 0 and 7 for images of 8 pixels"):
        Augment(crop_padding=8)(random_images(), seeded(), MEAN, STD)
    with pytest.raises(DataError, match=r"cutout=16: must be between 0 and 7"):
        check_augmentation(8, 3, crop_padding=1, cutout=16, flip=True)
    with pytest.raises(DataError, match=r"padding_mode=mirror: must be one of reflect, zeros"):
        Augment(padding_mode="mirror")
    with pytest.raises(DataError, match=r"augmentation.policy=autoaugment: images with 4 channels"):
        check_augmentation(8, 4, policy="autoaugment")
    check_augmentation(8, 1, crop_padding=7, cutout=7, policy="autoaugment")
