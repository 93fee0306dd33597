"""Load weights from a foreign file: a state_dict, however wrapped and prefixed, or safetensors."""

import io
import os
import pickle
import re
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor, nn

from sam.core.files import DamagedError

States = dict[str, dict[str, Tensor]]  # where in the file (dotted keys; "" for the file itself) -> the tensors there, by name

WRAPPINGS = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params")  # keys under which people save them
AVERAGED = {"ema", "swa", "averaged", "avg", "average", "shadow", "teacher"}  # words in the keys of weights that are not the trained ones
DEPTH, MOST = 8, 10_000  # keys within keys; dictionaries
OBJECTS = "holds Python objects, which are not loaded; save the weights alone: torch.save(model.state_dict(), 'weights.pt')"


class CheckpointError(DamagedError):
    """A checkpoint that cannot be read, or does not belong here; one sentence for the user."""


def read(path: Path, key: str = "checkpoint") -> States:
    """All dictionaries of tensors in the file, on the CPU; runs no code of it. CheckpointError, which names the setting `key`."""
    setting = f"{key}={path}"
    if not os.path.isfile(path):
        raise CheckpointError(f"{setting}: there is no such file.")
    content = _safetensors(path, setting) if path.suffix == ".safetensors" else _torch(path, setting)
    states: States = {}
    nodes: list[tuple[str, Any, tuple[int, ...]]] = [("", content, (id(content),))]
    for place, node, above in nodes:  # grows; a file may hold itself
        for name, value in node.items() if isinstance(node, Mapping) else ():
            if isinstance(value, Tensor):
                states.setdefault(place, {})[f"{name}"] = value
            elif isinstance(value, Mapping) and len(above) <= DEPTH and id(value) not in above and len(nodes) < MOST:
                nodes.append((f"{place}.{name}" if place else f"{name}", value, (*above, id(value))))
    if states:
        return states
    if any(isinstance(node, _Inert) for _, node, _ in nodes):
        raise CheckpointError(f"{setting}: {OBJECTS}.")
    shown = f" (found: {grouped(map(str, content)) or 'nothing'})" if isinstance(content, Mapping) else ""
    raise CheckpointError(f"{setting}: holds a {type(content).__name__} and no state_dict, under whatever key{shown}.")


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
    """Through torch.load(weights_only=True); where that refuses what lies beside the tensors, with inert stand-ins for it."""
    try:
        with path.open("rb") as file:
            try:
                return torch.load(intact(file), map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                file.seek(0)
                inert = types.SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=lambda file, **_: _Unpickler(file).load())
                return torch.load(file, map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise CheckpointError(f"{setting}: cannot be read by torch.load ({_line(error)}).") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__


def intact(file: BinaryIO) -> BinaryIO:
    """Check the archive's checksums, which torch.load does not compare; returns `file` at its beginning. Raises nearly anything."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > 10_000_000 + 2 * file.seek(0, io.SEEK_END):
                raise DamagedError("it unpacks to far more bytes than it has; torch.save does not compress")
            if wrong := archive.testzip():
                raise DamagedError(f"the checksum of {wrong} is wrong")
    file.seek(0)
    return file


class _Inert(dict[Any, Any]):
    """Stand-in for an object of any class that a file names: accepts everything unpickling does to it, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Self:
        return self

    __setstate__ = append = extend = add = __call__
    __hash__ = object.__hash__  # type: ignore[assignment]


class _Unpickler(pickle.Unpickler):
    """Resolve the few names that tensors in dictionaries need, and any other to a new inert class."""

    def find_class(self, module: str, name: str) -> Any:
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return OrderedDict
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return lambda *parts: torch._utils._rebuild_tensor(*parts[:4])  # type: ignore[no-untyped-call]
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return lambda data, *_: data
            case "torch._tensor._rebuild_from_type_v2":
                return lambda build, kind, parts, state: build(*parts)
        return type("Inert", (_Inert,), {})


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Copy a state_dict into `model`. CheckpointError if a tensor is missing, left over or of another shape."""
    if problem := misfit(model.state_dict(), state):
        raise CheckpointError(f"{source}: the checkpoint does not fit {type(model).__name__}: {problem}.")
    model.load_state_dict(dict(state))


def misfit(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """All reasons why `found` cannot be the weights of a model with the state_dict `own`, as clauses; empty if it fits."""
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
    """List names, merging those that differ in numbers alone: layer{2,3}.0.conv1.weight (2)."""
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        shown = "".join(c if c.isprintable() else "?" for c in name)
        groups.setdefault(re.sub(r"\d+", "#", shown), []).append(re.findall(r"\d+", shown))
    texts = []
    for text, numbers in groups.items():
        for values in map(dict.fromkeys, zip(*numbers, strict=True)):
            text = text.replace("#", "{" + ",".join(values) + "}" if len(values) > 1 else "".join(values), 1)
        texts.append(text + (f" ({len(numbers)})" if len(numbers) > 1 else ""))
    return ", ".join(texts)


def load(model: nn.Module, path: Path, states: States, key: str = "checkpoint", wanted: str | None = None) -> list[str]:
    """Copy into `model` those of `states` whose names are the model's up to a common prefix: of several, the first of `WRAPPINGS`, averages
    last; or those under the key `wanted`. Returns remarks, a sentence each. CheckpointError if none fits, or a tensor is not finite."""
    own, setting = model.state_dict(), f"{key}={path}"
    found = {at: way for at, way in _ways(states, own).items() if wanted is None or f"{at}.".startswith(f"{wanted}.")}
    if not found:
        there = ", ".join(grouped([at]) for at in states if at) or "none: its tensors lie under no key"
        raise CheckpointError(f"checkpoint_key={wanted}: {path} has no such key with tensors; it has {there}.")
    fitting = [at for at, (state, _) in found.items() if not misfit(own, state)]
    place = fitting[0] if fitting else max(found, key=lambda at: (len(found[at][0].keys() & own.keys()), len(found[at][0])))
    state, left = found[place]
    at = grouped([place])
    if problem := misfit(own, state):
        where = f" under {at}" if at else ""
        raise CheckpointError(f"{setting}: the checkpoint{where} does not fit {type(model).__name__}: {problem}.")
    for name, value in state.items():
        other = value.is_floating_point() != own[name].is_floating_point() and not name.endswith("num_batches_tracked")
        if value.layout != torch.strided or value.is_quantized or value.is_meta or other:
            raise CheckpointError(f"{setting}: {name} is a tensor of {value.dtype} ({value.layout}), not of plain floating-point numbers.")
        if bad := value.numel() - int(value.to(own[name].dtype).isfinite().sum()):
            raise CheckpointError(f"{setting}: {name} holds NaN or infinity ({bad} of {value.numel()} numbers).")
    model.load_state_dict(state)
    others = [at for at in fitting[1:] if at]
    cast = {str(value.dtype) for name, value in state.items() if own[name].is_floating_point() and value.dtype != own[name].dtype}
    said = {
        f"Weights: {at or 'the file itself'}; others that fit: {grouped(others)} (checkpoint_key=... chooses).": others,
        f"Weights: {at}, an average by its name.": not others and _averaged(place),
        f"Dropped, as no part of the model: {grouped(left)}.": left,
        f"Weights cast from {', '.join(sorted(cast))} to the model's type.": cast,
    }
    return [sentence for sentence, true in said.items() if true]


def _ways(states: States, own: Mapping[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], list[str]]]:
    """Candidates in order of preference: place (keys and common prefix) -> (tensors by their remaining names, names left over there)."""
    anchor, found = next(iter(own)), {}
    for at, tensors in states.items():
        begins = [name.removesuffix(anchor) for name in tensors if f".{name}".endswith(f".{anchor}")]
        for begin in (*begins, ""):
            inside = {name: name.removeprefix(begin) for name in tensors if name.startswith(begin)}
            inside = {name: new for name, new in inside.items() if new in own or "." in new or tensors[name].ndim}  # but for n_averaged
            state = {new: tensors[name] for name, new in inside.items()}
            found[f"{at}.{begin}".strip(".")] = state, [name for name in tensors if name not in inside]
    rank = lambda part: WRAPPINGS.index(part) if part in WRAPPINGS else len(WRAPPINGS)
    preference = lambda place: ([rank(part) for part in place.split(".") if part], _averaged(place))
    return {place: found[place] for place in sorted(found, key=preference)}


def _averaged(place: str) -> bool:
    return not AVERAGED.isdisjoint(re.split(r"[._]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", place).lower()))
