"""Checkpoints: written whole or not at all, loaded with `weights_only=True`."""

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sam.core.files import ABSENT, DamagedError, StorageError, UnreadableError, check, read_bytes, told, write_atomic
from sam.runs.records import CHECKPOINT, PREVIOUS
from sam.training.weights import CheckpointError, intact

FORMAT = 1
KEPT = "checkpoint.epoch{:04d}.pt"
_KEPT = re.compile(r"checkpoint\.epoch(\d{4,})\.pt")
Record = Mapping[str, Any]
_WEIGHTS = {"model": {...: torch.Tensor}}
_WHOLE = {"optimizer": dict, "rows": [dict], "seconds": float, "epoch": dict | None}


class ForeignError(CheckpointError):
    """A checkpoint that may be whole, but is another run's or epoch's, or cannot be read: not to be written over. One sentence."""


def save(folder: Path, state: dict[str, Any], epoch: int | None = None) -> str:
    """Write `state` (plain values and tensors) as the folder's checkpoint, and keep the previous one; or as the extra checkpoint of an
    `epoch`, to be kept. Returns its SHA-256."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    name, previous = (CHECKPOINT, folder / PREVIOUS) if epoch is None else (KEPT.format(epoch), None)
    write_atomic(folder / name, content, keep=previous)
    return hashlib.sha256(content).hexdigest()


def kept(folder: Path) -> dict[int, Path]:
    """The extra checkpoints, by epoch, in order; `load(folder, device, path.name)` reads one."""
    found = ((_KEPT.fullmatch(path.name), path) for path in folder.glob("checkpoint.epoch*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def tidy(folder: Path, *names: str) -> None:
    """Remove these files, and what killed processes left half written. StorageError."""
    for path in (*map(folder.joinpath, names), *folder.glob("*.checkpoint*.tmp")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror}).") from error


def load_newest(folder: Path, device: torch.device | str, warn: Callable[[str], None], record: Record | None) -> dict[str, Any] | None:
    """Load the newest checkpoint that a run can be continued from, or None; `warn` gets a sentence for every damaged one. ForeignError."""
    for name in (CHECKPOINT, PREVIOUS):
        if (folder / name).exists():
            try:
                return load(folder, device, name, record, _WEIGHTS | _WHOLE)
            except ForeignError:
                raise
            except CheckpointError as error:
                warn(f"warning: {error}")
    return None


def load(
    folder: Path, device: torch.device | str = "cpu", name: str = CHECKPOINT, record: Record | None = None, shape: Any = _WEIGHTS
) -> dict[str, Any]:
    """Load a checkpoint of the folder; the only reader. CheckpointError if it is missing, damaged, of another format or shape, or not the
    file that the run's record names; ForeignError if it is of another run than the record, or of another epoch than its name."""
    path = folder / name
    try:
        content = read_bytes(path)
        state = torch.load(intact(io.BytesIO(content)), map_location=device, weights_only=True)
    except ABSENT as error:
        raise CheckpointError(f"{path}: there is no checkpoint.") from error
    except UnreadableError as error:
        raise ForeignError(str(error)) from error
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise CheckpointError(f"{path}: the checkpoint is damaged or truncated ({told(error)[:100]}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ForeignError(f"{path}: not a checkpoint of this project (format {FORMAT}).")
    if record is not None:
        found, kept = state.get("fingerprint"), _KEPT.fullmatch(name)
        epoch, after = (int(kept[1]), state.get("epoch")) if kept else (None, None)
        if (found, after) != (record["fingerprint"], epoch):
            own, other = (f"epoch {e} of " if kept else "" for e in (epoch, after))
            raise ForeignError(f"{path}: is of {other}run {found or 'unnamed'}, not {own}run {record['fingerprint']}.")
    try:
        if record and name == CHECKPOINT and record.get("checkpoint_sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise DamagedError("its SHA-256 is not that of run.json")
        check(state, shape)
    except DamagedError as error:
        raise CheckpointError(f"{path}: the checkpoint is not what the run wrote ({told(error)}).") from error
    return state
