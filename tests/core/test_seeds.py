"""Named random streams: frozen values (published runs depend on them) and independence."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from sam.core import seeds

FROZEN = [3598610026517748695, 8905349136504131229]

GOLDEN = {
    (0, "init"): "0:init",
    (0, "order", 3): "0:order:3",
    (12345, "augment", 1, 2): "12345:augment:1:2",
}


@pytest.mark.parametrize("arguments", GOLDEN)
def test_golden_values(arguments: tuple) -> None:
    """The first 8 bytes of SHA-256 of the text, big endian, without the last bit; a change would unpair all stored runs."""
    assert seeds.derive(*arguments) == int(hashlib.sha256(GOLDEN[arguments].encode()).hexdigest()[:16], 16) // 2


def test_frozen_numbers() -> None:
    assert [seeds.derive(0, "init"), seeds.derive(1, "order", 7)] == FROZEN
    first = torch.rand(2, dtype=torch.float64, generator=seeds.generator("cpu", 0, "dropout"))
    again = torch.rand(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seeds.derive(0, "dropout")))
    assert torch.equal(first, again)


def test_names_seeds_and_places_never_meet() -> None:
    keys = list(itertools.product(range(20), ("init", "order", "augment", "dropout", "method"), range(20)))
    drawn = [seeds.derive(*key) for key in keys] + [seeds.derive(seed, name) for seed, name, _ in keys[::20]]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= s < 2**63 for s in drawn)
    assert seeds.derive(1, "order", 12) != seeds.derive(1, "order", 1, 2)


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    x = np.stack([torch.randn(2000, generator=seeds.generator("cpu", seed, "init")).numpy() for seed in range(12)])
    correlations = np.corrcoef(x)[np.triu_indices(12, 1)]
    assert np.abs(correlations).max() * 2000**0.5 < stats.norm.isf(1e-3 / 2 / len(correlations))


def test_a_stream_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(5, generator=seeds.generator("cpu", 3, "order"))
    assert torch.equal(torch.get_rng_state(), before)
