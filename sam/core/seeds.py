"""Random streams: every consumer of randomness gets its own stream of one seed, so that no method's draws shift another's."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, stream: str, *path: int) -> int:
    """A 63-bit seed for one named stream ("init", "order", "augment", "dropout", "method") of `seed`, at a place (an epoch, say) in it."""
    text = ":".join(map(str, (seed, stream, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, *path: int) -> torch.Generator:
    """A generator on `device` at the start of that stream."""
    return torch.Generator(device).manual_seed(derive(seed, stream, *path))
