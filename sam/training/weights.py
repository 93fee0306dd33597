"""Weights from a file that somebody else wrote: a state_dict, however wrapped and prefixed, or safetensors."""

from __future__ import annotations

import pickle
import re
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam.training.checkpoint import CheckpointError, grouped, misfit

States = dict[str, dict[str, Tensor]]  # where in the file (dotted keys; "" for the file itself) -> the tensors there, by name

WRAPPINGS = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params")  # keys under which people save them
AVERAGED = {"ema", "swa", "averaged", "avg", "average", "shadow", "teacher"}  # words in the keys of weights that are not the trained ones
DEPTH = 8  # keys within keys
# kuangliu's and torchvision's names of a ResNet-18 -> those of `models.resnet`.
RESNET18: tuple[tuple[str, Any], ...] = (
    (r"^conv1\.", "stem."),
    (r"^bn1\.", "norm."),
    (r"^layer(\d)\.(\d)\.", lambda match: f"blocks.{2 * int(match[1]) - 2 + int(match[2])}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^(linear|fc)\.", "head."),
)


def read(path: Path, key: str = "checkpoint") -> States:
    """All dictionaries of the file that hold tensors, on the CPU. Runs no code of the file, whatever lies beside the tensors.

    Raises CheckpointError that names the setting `key`: no such file, damaged, or no tensors with names.
    """
    setting = f"{key}={path}"
    if not path.is_file():
        raise CheckpointError(f"{setting}: there is no such file.")
    content = _safetensors(path, setting) if path.suffix == ".safetensors" else _torch(path, setting)
    states: States = {}
    nodes, seen, objects = [("", content, 0)], {id(content)}, isinstance(content, _Inert)
    for place, node, depth in nodes:  # grows
        for name, value in node.items() if isinstance(node, Mapping) else ():
            inside = f"{place}.{name}" if place else f"{name}"
            objects |= isinstance(value, _Inert)
            if isinstance(value, Tensor):
                states.setdefault(place, {})[f"{name}"] = value
            elif isinstance(value, Mapping) and depth < DEPTH and id(value) not in seen:  # a file may hold itself
                seen.add(id(value))
                nodes.append((inside, value, depth + 1))
    if states:
        return states
    if objects:
        raise CheckpointError(
            f"{setting}: holds Python objects and no state_dict; they could run code and are not loaded; save the weights alone, where you "
            "trust the file: torch.save(model.state_dict(), 'weights.pt')."
        )
    if isinstance(content, Mapping):
        raise CheckpointError(f"{setting}: holds no state_dict, under whatever key (found: {grouped(map(str, content)) or 'nothing'}).")
    raise CheckpointError(f"{setting}: holds a {type(content).__name__}, not a state_dict (names to tensors).")


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
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} differs from its checksum")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            inert = types.SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=lambda file, **_: _Unpickler(file).load())
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise CheckpointError(f"{setting}: cannot be read by torch.load ({_line(error)}).") from error


class _Inert(dict[Any, Any]):
    """In place of an object of any class that a file names: takes what unpickling does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    __setstate__ = append = extend = add = __call__
    __hash__ = object.__hash__  # type: ignore[assignment]


class _Unpickler(pickle.Unpickler):
    """Finds the few names that tensors in dictionaries need, and for every other one a class of its own, which is inert."""

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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__


@dataclass(frozen=True)
class _Candidate:
    """Weights under one place of the file (keys, and what their names begin with), by the model's names; `left`: what lies beside them."""

    place: str
    state: dict[str, Tensor]
    left: list[str]
    translated: bool


def load(model: nn.Module, path: Path, states: States, key: str = "checkpoint", wanted: str | None = None) -> list[str]:
    """Copy into `model` the weights that fit it out of `states`, which `read` gave; returns what must be said of them, a sentence each.

    They fit if their names are the model's but for what they all begin with. Of several, the first of `WRAPPINGS` is taken, and an average
    last. wanted: take what lies at this place (checkpoint_key). CheckpointError if none fits, or a tensor is not finite.
    """
    own, setting = model.state_dict(), f"{key}={path}"
    fitting, nearest = _candidates(states, own, wanted)
    if nearest is None:
        there = ", ".join(grouped([place]) for place in states if place) or "none: its tensors lie under no key"
        raise CheckpointError(f"checkpoint_key={wanted}: {setting} holds no weights of the model at this place; its keys: {there}.")
    taken = fitting[0] if fitting else nearest
    if problem := misfit(own, taken.state):
        at = f" under {taken.place}" if taken.place else ""
        raise CheckpointError(f"{setting}: the checkpoint{at} does not fit {type(model).__name__}: {problem}.")
    for name, value in taken.state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_floating_point() != own[name].is_floating_point():
            raise CheckpointError(f"{setting}: {name} is a tensor of {value.dtype} ({value.layout}), not of plain floating-point numbers.")
        if bad := value.numel() - int(value.isfinite().sum()):
            raise CheckpointError(f"{setting}: {name} holds NaN or infinity ({bad} of {value.numel()} numbers).")
    model.load_state_dict(taken.state)
    return _notes(taken, fitting[1:], own)


def _candidates(states: States, own: Mapping[str, Tensor], wanted: str | None) -> tuple[list[_Candidate], _Candidate | None]:
    """(those that have every name of the model, in order of preference; the one that has most of them)."""
    needed = {name for name in own if not name.endswith("num_batches_tracked")}  # saved in 2018 without
    hits: Counter[tuple[str, str, bool]] = Counter()
    for at, tensors in states.items():
        for name in tensors:
            for cut in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
                rest, new = name[cut:], _translated(name[cut:]) if "stem.weight" in own else ""
                hits[at, name[:cut], False] += rest in needed
                hits[at, name[:cut], True] += new in needed and new != rest
    places = {way: ".".join(filter(None, (way[0], way[1].rstrip(".")))) for way in hits}
    ways = [way for way, place in places.items() if (hits[way] or not way[1]) and f"{place}.".startswith(f"{wanted}." if wanted else "")]
    if not ways:
        return [], None

    def preference(way: tuple[str, str, bool]) -> tuple[list[int], bool]:
        ranks = [WRAPPINGS.index(part) if part in WRAPPINGS else len(WRAPPINGS) for part in way[0].split(".") if part]
        return ranks, bool(AVERAGED & set(re.split(r"[._]", places[way])))

    def made(way: tuple[str, str, bool]) -> _Candidate:
        at, prefix, translated = way
        named = {name: name.removeprefix(prefix) for name in states[at] if name.startswith(prefix)}
        named = {name: _translated(rest) for name, rest in named.items()} if translated else named
        stray = {name for name, new in named.items() if new not in own and "." not in new and not states[at][name].ndim}  # n_averaged
        state = {new: states[at][name] for name, new in named.items() if name not in stray}
        return _Candidate(places[way], state, [name for name in states[at] if name not in named or name in stray], translated)

    whole = sorted((way for way in ways if hits[way] == len(needed)), key=preference)
    return [made(way) for way in whole], made(max(ways, key=lambda way: (hits[way], len(states[way[0]]))))


def _translated(name: str) -> str:
    for pattern, new in RESNET18:
        name = re.sub(pattern, new, name)
    return name


def _notes(taken: _Candidate, others: list[_Candidate], own: Mapping[str, Tensor]) -> list[str]:
    place, names = taken.place or "the file itself", [other.place for other in others if other.place]
    notes = []
    if names:
        notes.append(f"Weights: {place}; others that fit: {', '.join(names)} (checkpoint_key=... chooses).")
    elif AVERAGED & set(re.split(r"[._]", place)):
        notes.append(f"Weights: {place}, an average by its name.")
    if taken.left:
        notes.append(f"Dropped, as no part of the model: {grouped(taken.left)}.")
    if taken.translated:
        notes.append("Names translated from another ResNet-18; ours has a 3 x 3 stem and no max-pooling.")
    cast = sorted({str(value.dtype) for name, value in taken.state.items() if value.dtype != own[name].dtype})
    return notes + ([f"Weights cast from {', '.join(cast)} to the model's type."] if cast else [])
