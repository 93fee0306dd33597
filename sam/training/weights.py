"""Weights from a file that somebody else wrote: a state_dict, bare or wrapped, or safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam.training.checkpoint import CheckpointError, intact

WRAPPINGS = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params")  # keys under which people save them
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile, Lightning modules


def read(path: Path, key: str = "checkpoint") -> dict[str, Tensor]:
    """The state_dict in a file, on the CPU, without wrapping and without a prefix that every name shares.

    `.safetensors` through the safetensors library, everything else through torch.load(weights_only=True), which runs no code of the file.
    Raises CheckpointError that names the setting `key`: no such file, damaged, Python objects in it, or no state_dict.
    """
    setting = f"{key}={path}"
    if not path.is_file():
        raise CheckpointError(f"{setting}: there is no such file.")
    content = _safetensors(path, setting) if path.suffix == ".safetensors" else _torch(path, setting)
    return _unprefixed(_unwrapped(content, setting))


def _safetensors(path: Path, setting: str) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{setting}: needs the package safetensors: pip install safetensors.") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{setting}: cannot be read as safetensors ({_line(error)}).") from error


def _torch(path: Path, setting: str) -> Any:
    try:
        with path.open("rb") as file:
            return torch.load(intact(file), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            save = "torch.save(model.state_dict(), 'weights.pt')"
            raise CheckpointError(
                f"{setting}: holds Python objects beside tensors, which could run code and are not loaded; "
                f"save the weights alone, where you trust the file: {save}."
            ) from error
        raise CheckpointError(f"{setting}: cannot be read by torch.load ({_line(error)}).") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__


def _unwrapped(content: Any, setting: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
        inner = next((content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            shown = ", ".join(sorted(map(str, content))[:8]) or "nothing"
            raise CheckpointError(f"{setting}: holds no state_dict, neither itself nor under {', '.join(WRAPPINGS)} (found: {shown}).")
        content = inner
    raise CheckpointError(f"{setting}: holds a {type(content).__name__}, not a state_dict (names to tensors).")


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name: value for name, value in state.items() if name != "n_averaged"}  # torch's AveragedModel counts its updates
    while True:
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}
