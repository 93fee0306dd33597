"""Augment whole training batches on the device that holds the images."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from data import DataError, check_augmentation, torchvision_guard
from data.image_data import normalize


@dataclass(frozen=True)
class Augment:
    """Crop after padding, flip, apply a policy, normalise, cut out, in this order; the defaults normalise alone.

    crop_padding        pixels added on each side before a crop of the original size is drawn; padding_mode: reflect | zeros (raw pixels).
    flip                mirror each image with probability 1/2.
    policy              none | autoaugment (torchvision's CIFAR-10 policy, image by image: slow, and it waits for the device).
    cutout              side of a square of zeros in the normalised image, centred uniformly over the image and clipped at its borders;
                        drawn with cutout_probability for each image, or once for the batch (cutout_per: image | batch).
    """

    crop_padding: int = 0
    padding_mode: str = "reflect"
    flip: bool = False
    policy: str = "none"
    cutout: int = 0
    cutout_probability: float = 1.0
    cutout_per: str = "image"

    def __post_init__(self) -> None:
        choices = {"padding_mode": ("reflect", "zeros"), "policy": ("none", "autoaugment"), "cutout_per": ("image", "batch")}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise DataError(f"augmentation.{key}={getattr(self, key)}: must be one of {', '.join(allowed)}.")

    def __call__(self, images: Tensor, generator: torch.Generator, mean: Tensor, std: Tensor) -> Tensor:
        """uint8 images (b, c, h, w), square -> float32 (b, c, h, w), channels last, on the images' device.

        All randomness comes from `generator`, in a fixed number and order of draws a batch; a generator on the CPU gives every device the
        same draws. Raises `DataError` if the padding or the hole does not suit the image size.
        """
        check_augmentation(images.shape[-1], **asdict(self))
        if self.crop_padding or self.flip:
            images = self._crop_and_flip(images, generator)
        if self.policy == "autoaugment":
            images = _autoaugment(images, generator)
        batch = normalize(images, mean, std)
        return self._cut_out(batch, generator) if self.cutout else batch

    def _crop_and_flip(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, reflect and flip in one gather, by arithmetic on row and column numbers."""
        b, _, size, _ = images.shape
        device, pad = images.device, self.crop_padding
        pixel = torch.arange(size, device=device)
        rows = columns = pixel.expand(b, size)
        if pad:
            offsets = torch.randint(0, 2 * pad + 1, (2, b, 1), generator=generator, device=generator.device).to(device) - pad
            rows, columns = pixel + offsets[0], pixel + offsets[1]
        if self.flip:
            mirrored = torch.rand(b, 1, generator=generator, device=generator.device).to(device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        source_rows, source_columns = _reflect(rows, size), _reflect(columns, size)
        image = torch.arange(b, device=device)[:, None, None]
        picked = images.permute(0, 2, 3, 1)[image, source_rows[:, :, None], source_columns[:, None, :]]  # (b, h, w, c)
        if pad and self.padding_mode == "zeros":
            inside = (rows == source_rows)[:, :, None] & (columns == source_columns)[:, None, :]
            picked = picked * inside[..., None]
        return picked.permute(0, 3, 1, 2)

    def _cut_out(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        b, _, size, _ = batch.shape
        draws = 1 if self.cutout_per == "batch" else b
        centre = torch.randint(0, size, (2, draws, 1), generator=generator, device=generator.device).to(batch.device)
        chosen = torch.rand(draws, 1, generator=generator, device=generator.device).to(batch.device) < self.cutout_probability
        first = centre - self.cutout // 2
        pixel = torch.arange(size, device=batch.device)
        covered = (pixel >= first) & (pixel < first + self.cutout)
        hole = (covered[0] & chosen)[:, :, None] & covered[1][:, None, :]
        return torch.where(hole[:, None], 0.0, batch)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices that lie outside [0, size) at the border pixels, which are not repeated: -1 -> 1, size -> size - 2."""
    index = index.abs()
    return size - 1 - (size - 1 - index).abs()


def _autoaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    torchvision_guard.ensure()
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    policy = AutoAugment(AutoAugmentPolicy.CIFAR10)
    seed = int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device).item())
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator on the CPU: lend it ours, leave no trace
        torch.default_generator.manual_seed(seed)
        return torch.stack([policy(image) for image in images])
