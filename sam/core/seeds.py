"""Derive independent random streams from one seed, one for each use, so that no method's draws shift another's."""

import hashlib
from collections.abc import Sequence

import torch


def derive(seed: int, stream: str, *path: int) -> int:
    """Derive a 63-bit seed for one stream ("init", "order", "augment", "dropout", "method") of `seed`; path: an epoch, say."""
    text = ":".join(map(str, (seed, stream, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, *path: int) -> torch.Generator:
    """Return a generator on `device`, seeded with `derive`."""
    return torch.Generator(device).manual_seed(derive(seed, stream, *path))


def states(devices: Sequence[torch.device]) -> list[torch.Tensor]:
    """Where torch's own streams stand: the host's, then those of these GPUs."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def restore(states: Sequence[torch.Tensor], devices: Sequence[torch.device]) -> None:
    """Put torch's own streams where `states` found them; an empty list leaves them."""
    if states:
        torch.set_rng_state(states[0])
        for device, state in zip(devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
