"""Shrink images by means of square blocks; write .npz files whose bytes depend on their arrays alone. NumPy only."""

import contextlib
import filecmp
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data import DataError, npz

_BLOCK = 1000  # images downsampled at a time: the sums take four bytes a pixel


def downsample(source: str, size: int, out: str) -> None:
    """Read the .npz file `source`, shrink its images to `size` pixels a side (see `block_means`) and write them to the file `out`, with
    the labels and, where `source` has both, train_exact and test_exact. DataError, as from `save`."""
    side = npz.describe(source, f"source={source}").image_size
    if size < 1 or side % size:
        raise DataError(f"size={size}: must divide {side}, the size of the images in {source} (with {side} they stay as they are).")
    arrays = npz.read(source, f"source={source}")
    save(source, out, arrays | {key: block_means(images, size) for key, images in arrays.items() if key.endswith("images")})


def save(source: str, out: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the file `out` (see `write`). DataError for arrays, from `source`, that no run could use; and where a file with other contents
    is there, which is kept."""
    target = Path(out).expanduser()
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary, arrays)
        npz.describe(str(temporary), f"source={source}")
        if target.exists() and not filecmp.cmp(temporary, target, shallow=False):
            raise DataError(f"out={out}: is there already, with other contents; choose another name, or remove it.")
        temporary.replace(target)
    except OSError as error:
        raise DataError(f"out={out}: cannot be written ({error.strerror}).") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def block_means(images: np.ndarray, size: int) -> np.ndarray:
    """Average non-overlapping square blocks, rounded to the nearest integer, ties up: (n, h, h, c) uint8 -> (n, size, size, c) uint8. In
    integers, (sum + k // 2) // k over the k pixels of a block: no floating-point arithmetic that could differ between machines."""
    side = images.shape[1] // size

    def means(part: np.ndarray) -> np.ndarray:
        sums = part.reshape(-1, size, side, size, side, part.shape[-1]).sum(axis=(2, 4), dtype=np.uint32)
        return ((sums + side**2 // 2) // side**2).astype(np.uint8)

    return np.concatenate([means(part) for part in np.array_split(images, -(-len(images) // _BLOCK))])


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of type uint8, int64 or bool as an uncompressed .npz, members sorted by name. The same arrays always give the same
    bytes, since a run's identity holds the hash of its file: `np.savez` may change its headers with NumPy's version."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(arrays):
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16  # Unix, whatever it was made on
            archive.writestr(member, _header(arrays[key]) + np.ascontiguousarray(arrays[key]).tobytes())


def _header(array: np.ndarray) -> bytes:
    """An array's header in NumPy's format 1.0: magic, length, and a dictionary padded to a multiple of 64 bytes."""
    kind = {"uint8": "|u1", "int64": "<i8", "bool": "|b1"}[array.dtype.name]
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {tuple(array.shape)}, }}"
    text = text.ljust(-(-(10 + len(text) + 1) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
