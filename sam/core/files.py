"""Files written whole or not at all, and what is read back checked against the shape that it must have."""

import contextlib
import json
import math
import os
import sys
import types
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam.text import sentence

TYPES = (type, types.UnionType)
ABSENT = (FileNotFoundError, NotADirectoryError)


class StorageError(ValueError):
    """A file that could not be written; one sentence for the user."""


class DamagedError(ValueError):
    """A file that is not what was written there; one sentence for the user, which names it."""


class UnreadableError(DamagedError):
    """A file that may be whole, but cannot be read; one sentence for the user."""


def told(error: BaseException) -> str:
    """One line for an error: our own message as it is, any other with its class."""
    text = sentence(error).rstrip(".")
    ours = type(error).__module__.partition(".")[0] in ("sam", "data", "models")
    return text if ours else f"{type(error).__name__}: {text[:300]}".rstrip(": ")


def is_number(value: Any) -> bool:
    """Whether `value` is a number as `plain` writes it, or None."""
    return value in (None, "nan", "inf", "-inf") or (type(value) in (int, float) and abs(value) <= sys.float_info.max)


def check(value: Any, shape: Any, name: str = "it") -> None:
    """DamagedError at the first part that lacks its shape: a type, a predicate, [shape of each item], {key: shape} (...: any key)."""
    if isinstance(shape, list) and isinstance(value, list):
        for item in value:
            check(item, shape[0], name)
    elif isinstance(shape, dict) and isinstance(value, dict):
        for key, inner in shape.items():
            for found in value if key is ... else [key]:
                if found not in value:
                    raise DamagedError(f"{name} lacks {found}")
                check(value[found], inner, found)
    elif not (isinstance(value, shape) and type(value) is not bool if isinstance(shape, TYPES) else callable(shape) and shape(value)):
        raise DamagedError(f"{name} must not be {str(value)[:40]!r}")


NAMED = {...: is_number}  # numbers by name


def write_atomic(path: Path, content: str | bytes, *, keep: Path | None = None) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, whole. `keep`: where the old one goes. StorageError
    if the disk is full or the folder cannot be written; the old file is then still there."""
    temporary = path.with_name(f"{uuid.uuid4().hex[:12]}.{path.name}.tmp")  # another process may be at the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        size = f"{len(content) / 1e6:.1f} MB"
        raise StorageError(f"{path}: {size} could not be written ({error.strerror}); everything saved before is still there.") from error


def plain(value: Any) -> Any:
    """Replace non-finite numbers by strings ("nan", "inf"), which JSON can hold and `number` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def number(value: Any) -> float | None:
    """Convert a JSON or CSV field to a number; None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def read_bytes(path: Path) -> bytes:
    """Read a file. UnreadableError if it cannot be read or is no regular file (a pipe would never end); one of ABSENT if there is none."""
    try:
        if path.exists() and not path.is_file():
            raise UnreadableError(f"{path}: is not a file.")
        return path.read_bytes()
    except ABSENT:
        raise
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror}).") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises as `read_bytes`; DamagedError if it is none, or holds text that could not be written again."""
    content = read_bytes(path)
    try:
        value: dict[str, Any] = json.loads(content.decode())
        check(value, dict)
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")  # paths of a C locale are such text
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path}: is damaged ({told(error)}).") from error
    return value
