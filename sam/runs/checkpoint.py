"""Checkpoints: written whole or not at all, loaded with `weights_only=True`."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from sam.runs import records
from sam.runs.records import CHECKPOINT, PREVIOUS, DamagedError, StorageError, UnreadableError, write_atomic

FORMAT = 1
KEPT = "checkpoint.epoch{:04d}.pt"
_KEPT = re.compile(r"checkpoint\.epoch(\d{4,})\.pt")
Record = Mapping[str, Any]
_WEIGHTS = {"model": {...: torch.Tensor}}
_WHOLE = {"optimizer": dict, "rows": [dict], "seconds": float, "epoch": dict | None}


class CheckpointError(DamagedError):
    """A checkpoint that cannot be read, or does not belong here; one sentence for the user."""


class ForeignError(CheckpointError):
    """A checkpoint that may be whole, but is another run's or epoch's, or cannot be read: not to be written over. One sentence."""


def save(folder: Path, state: dict[str, Any]) -> str:
    """Write `state` (tensors, numbers, strings, lists, dictionaries) as the folder's checkpoint; the one before is kept beside it.
    Returns the SHA-256 of what was written, in hexadecimal digits."""
    content = _bytes(state)
    write_atomic(folder / CHECKPOINT, content, keep=folder / PREVIOUS)
    return hashlib.sha256(content).hexdigest()


def keep(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write `state` beside the folder's checkpoint, as what the run held after `epoch`."""
    write_atomic(folder / KEPT.format(epoch), _bytes(state))


def kept(folder: Path) -> dict[int, Path]:
    """Epoch -> file of what `keep` wrote, in the order of epochs; `load(folder, device, path.name)` reads one. Each holds `model` (the
    state_dict), `epoch`, and the `fingerprint` of its run."""
    found = ((_KEPT.fullmatch(path.name), path) for path in folder.glob("checkpoint.epoch*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def _bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def remove(folder: Path, *names: str) -> None:
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{folder / name}: cannot be removed ({error.strerror}).") from error


def load_newest(folder: Path, device: torch.device | str, warn: Callable[[str], None], record: Record | None) -> dict[str, Any] | None:
    """The newest checkpoint that a run can be continued from, or None; `warn` is told of every damaged one. ForeignError, as in `load`."""
    for name in (CHECKPOINT, PREVIOUS):
        if (folder / name).exists():
            try:
                return load(folder, device, name, record, _WEIGHTS | _WHOLE)
            except ForeignError:
                raise
            except CheckpointError as error:
                warn(f"warning: {error}")
    return None


def intact(file: BinaryIO) -> BinaryIO:
    """`file` at its beginning, for torch.load, which compares no checksum of its archive. Raises nearly anything if one is wrong."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > 10_000_000 + 2 * file.seek(0, io.SEEK_END):
                raise DamagedError("it unpacks to far more bytes than it has; torch.save does not compress")
            if wrong := archive.testzip():
                raise DamagedError(f"the checksum of {wrong} is wrong")
    file.seek(0)
    return file


def load(
    folder: Path, device: torch.device | str = "cpu", name: str = CHECKPOINT, record: Mapping[str, Any] | None = None, shape: Any = _WEIGHTS
) -> dict[str, Any]:
    """The folder's checkpoint: the one way to read one. CheckpointError if it is missing, damaged, not one of ours, lacks its shape, or is
    not the file that the run's record names; ForeignError if it is of another run than the record, or of another epoch than its name."""
    path = folder / name
    try:
        content = records.read_bytes(path)
        state = torch.load(intact(io.BytesIO(content)), map_location=device, weights_only=True)
    except records.ABSENT as error:
        raise CheckpointError(f"{path}: there is no checkpoint.") from error
    except UnreadableError as error:
        raise ForeignError(str(error)) from error
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise CheckpointError(f"{path}: the checkpoint is damaged or truncated ({records.told(error)[:100]}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this project (format {FORMAT}).")
    if record is not None:
        found, kept = state.get("fingerprint"), _KEPT.fullmatch(name)
        epoch, after = (int(kept[1]), state.get("epoch")) if kept else (None, None)
        if (found, after) != (record["fingerprint"], epoch):
            own, other = (f"epoch {e} of " if kept else "" for e in (epoch, after))
            raise ForeignError(f"{path}: is of {other}run {found or 'unnamed'}, not {own}run {record['fingerprint']}.")
    try:
        if record and name == CHECKPOINT and record.get("checkpoint_sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise DamagedError("its SHA-256 is not that of run.json")
        records.check(state, shape)
    except DamagedError as error:
        raise CheckpointError(f"{path}: the checkpoint is not what the run wrote ({records.told(error)}).") from error
    return state


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Copy a state_dict into `model`. CheckpointError if a tensor is missing, left over or of another shape."""
    if problem := misfit(model.state_dict(), state):
        raise CheckpointError(f"{source}: the checkpoint does not fit {type(model).__name__}: {problem}.")
    model.load_state_dict(dict(state))


def misfit(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """All that keeps `found` from being the weights of a model whose own are `own`, as clauses; empty if nothing does."""
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in own]
    sizes = {name: f"{list(found[name].shape)} for the model's {list(own[name].shape)}" for name in own if name in found}
    other = [name for name in sizes if found[name].shape != own[name].shape]
    parts = [f"missing: {grouped(missing)}"] * bool(missing) + [f"unexpected: {grouped(unexpected)}"] * bool(unexpected)
    parts += [f"{size}: {grouped(name for name in other if sizes[name] == size)}" for size in dict.fromkeys(sizes[name] for name in other)]
    heads = [next((len(t) for t in reversed(list(state.values())) if t.ndim == 2), 0) for state in (found, own)]
    parts += [f"has {heads[0]} classes, the model's {heads[1]}"] * (all(heads) and heads[0] != heads[1])
    return "; ".join(parts)


def grouped(names: Iterable[str]) -> str:
    """All names, those that differ in numbers alone as one: layer{2,3}.0.conv1.weight (2)."""
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        shown = "".join(c if c.isprintable() else "?" for c in name)
        groups.setdefault(re.sub(r"\d+", "#", shown), []).append(re.findall(r"\d+", shown))
    texts = []
    for text, numbers in groups.items():
        for values in map(dict.fromkeys, zip(*numbers, strict=True)):
            text = text.replace("#", "{" + ",".join(values) + "}" if len(values) > 1 else next(iter(values)), 1)
        texts.append(text + (f" ({len(numbers)})" if len(numbers) > 1 else ""))
    return ", ".join(texts)
