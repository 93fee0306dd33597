"""Measure sharpness at a checkpoint: `sam.sharpness.evaluate(model, data)` takes any model. Importing this package imports nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam.sharpness.api import Measurements, evaluate

__all__ = ["Measurements", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sam.sharpness import api  # imports torch

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
