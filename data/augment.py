"""Augment whole training batches on the device that holds the images."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from data import check_augmentation, torchvision_guard
from data.image_data import normalize
from data.settings import AugmentationConfig


@dataclass(frozen=True)
class Augment(AugmentationConfig):
    """Crop after padding, flip, apply a policy (torchvision's, image by image: slow), normalise, cut out a square, in this order."""

    def __call__(self, images: Tensor, generator: torch.Generator, mean: Tensor, std: Tensor) -> Tensor:
        """uint8 images (b, c, h, w), square -> float32 (b, c, h, w), channels last, on the images' device. All draws come from `generator`,
        in a fixed order; one on the CPU gives every device the same. DataError for a wrong size."""
        check_augmentation(images.shape[-1], images.shape[1], **asdict(self))
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
        """Zero a square of the normalised image, centred uniformly over it and clipped at its borders."""
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
