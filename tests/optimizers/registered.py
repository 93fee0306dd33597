"""The registry's methods for the contract tests, each made by its settings around any base optimizer: a plug-in's are tested as ours are.

Tests marked `contract` take every method that is registered: SAM_PLUGINS=zsharp python -m pytest ../../tests -m contract -k zsharp
"""

from collections.abc import Callable
from typing import Any

import torch

from sam.optimizers.base import Method
from sam.optimizers.build import around
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.registry import load_plugins

load_plugins()  # SAM_PLUGINS
FOREIGN = [name for name, row in METHODS.items() if row.is_foreign]
STEPS_PER_EPOCH = 4


# Where steps differ, each is the dearest here, so that any step will do for a test; the methods' own tests take them as they are.
EVERY_STEP = {"start": 0.0, "looksam_interval": 1}


def of(**keys: Any) -> Callable[..., Method]:
    """`make(base, **common)`: the method of these settings; common: `passes`, `loss_decay`, `scaling`."""
    config = OptimizerConfig.of(**keys)

    def make(base: torch.optim.Optimizer, **common: Any) -> Method:
        return around(base, config, steps_per_epoch=STEPS_PER_EPOCH, generator=torch.Generator().manual_seed(3), **common)

    return make


def registered(**keys: Any) -> dict[str, Callable[..., Method]]:
    """Every method with these settings, by name."""
    return {name: of(method=name, **EVERY_STEP, **keys) for name in METHODS}


def passes() -> dict[str, int]:
    """Forwards and backwards of a step of every method, without probes."""
    return {name: int(OptimizerConfig.of(method=name, **EVERY_STEP).passes) for name in METHODS}
