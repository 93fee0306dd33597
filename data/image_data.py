"""A data set in memory: uint8 tensors, fixed splits, label noise, normalisation, and the order of an epoch."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import DataError, known
from data.sources import RawData, fingerprint

SPLIT_SEED = 0
NOISE_SEED = 1


@dataclass(frozen=True)
class ImageData:
    """A data set, split. n, v, t: training, validation (may be 0) and test images.

    train_images (n, c, h, w), val_images (v, c, h, w), test_images (t, c, h, w): uint8, stored channels last.
    train_labels (n,), val_labels (v,), test_labels (t,): int64; only train_labels carry the label noise.
    mean, std (c,): float32, of all training images scaled to [0, 1], or what was asked for instead.
    fingerprint: 16 hex digits over shapes and bytes of the whole data set, before any split or noise.
    notes: footnotes of every result measured on these images.
    """

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    fingerprint: str
    notes: tuple[str, ...]
    label_noise: float

    def to(self, device: torch.device | str) -> "ImageData":
        """Return the same data with every tensor on `device`."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise uint8 images (b, c, h, w): see `normalize`."""
        return normalize(images, self.mean, self.std)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images / 255 - mean) / std as one multiplication and one addition: uint8 (b, c, h, w) -> float32 (b, c, h, w), channels last."""
    assert images.dtype == torch.uint8, images.dtype
    scale, shift = 1 / (255 * std), -mean / std
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(scale[:, None, None]).add_(shift[:, None, None])


def build(raw: RawData, train_size: int, val_size: int, label_noise: float, seed: int | None = None) -> ImageData:
    """Split off `val_size` validation and `train_size` training images by one fixed permutation, in the order of the file, and corrupt the
    share `label_noise` of the training labels. `seed`: draws the images, nested, and the labels, among those that are not held out."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(raw.train_labels))
    held_out, left = np.sort(order[:val_size]), order[val_size:]
    noise = np.random.RandomState(NOISE_SEED)
    if seed is not None:
        left, noise = _stream(seed, "sample").permutation(left), _stream(seed, "noise")
    kept = np.sort(left[:train_size])
    whole = fingerprint(raw)
    return ImageData(
        train_images=_image_tensor(raw.train_images if len(kept) == len(order) else raw.train_images[kept]),
        train_labels=torch.from_numpy(corrupt_labels(raw.train_labels[kept], raw.classes, label_noise, noise)),
        val_images=_image_tensor(raw.train_images[held_out]),
        val_labels=torch.from_numpy(raw.train_labels[held_out]),
        test_images=_image_tensor(raw.test_images),
        test_labels=torch.from_numpy(raw.test_labels),
        mean=torch.tensor(raw.mean, dtype=torch.float32),
        std=torch.tensor(raw.std, dtype=torch.float32),
        classes=raw.classes,
        fingerprint=whole,
        notes=known.notes(whole, raw.notes),
        label_noise=label_noise,
    )


def _stream(seed: int, use: str) -> np.random.RandomState:
    """Return the random stream of one seed for one use, seeded with the eight big-endian 32-bit words of SHA-256("seed:use"), unlike
    SPLIT_SEED's and NOISE_SEED's single words. The legacy generator's draws are frozen across NumPy versions."""
    words = np.frombuffer(hashlib.sha256(f"{seed}:{use}".encode()).digest(), dtype=">u4")
    return np.random.RandomState(words.astype(np.uint32))


def corrupt_labels(labels: np.ndarray, classes: int, share: float, generator: np.random.RandomState) -> np.ndarray:
    """A copy of `labels` (n,) with exactly round(share * n) replaced by a wrong class, drawn uniformly; nested for growing shares."""
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    shifts = generator.randint(1, classes, size=len(labels))[: len(chosen)]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + shifts) % classes
    return noisy


def _image_tensor(images: np.ndarray) -> Tensor:
    """(n, h, w, c) -> (n, c, h, w) without moving a byte: the tensor is channels last."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def epoch_batches(n: int, batch_size: int, generator: torch.Generator, drop_last: bool = False) -> Iterator[Tensor]:
    """Index tensors (int64, on the CPU) of one epoch: each of the n images once, in an order drawn at the call from `generator` (on the
    CPU, for the same order on every device). The last batch holds the rest, unless `drop_last`. DataError if no batch would be left."""
    if n < (batch_size if drop_last else 1):
        raise DataError(f"batch_size={batch_size}: leaves no batch of the {n} training images (drop_last={str(drop_last).lower()}).")
    return iter(torch.randperm(n, generator=generator)[: n - n % batch_size if drop_last else n].split(batch_size))
