"""Derive independent random streams from one seed, one for each use, so that no method's draws shift another's."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, stream: str, *path: int) -> int:
    """Derive a 63-bit seed for one stream ("init", "order", "augment", "dropout", "method") of `seed`; path: an epoch, say."""
    text = ":".join(map(str, (seed, stream, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, *path: int) -> torch.Generator:
    """Return a generator on `device`, seeded with `derive`."""
    return torch.Generator(device).manual_seed(derive(seed, stream, *path))
