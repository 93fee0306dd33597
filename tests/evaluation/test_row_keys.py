"""The keys of measured rows. Those in golden/ must never change: rows that people have stored are found by them.

A new key of a notion, of a model or of a data set is marked `late=True` in its `settings.py` and gets an entry in the files. With
`WRITE_GOLDEN=1` in the environment an entry without a key gets one; those that are there are never written anew.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.settings import DatasetConfig
from models.settings import ModelConfig
from sam.evaluation import foreign, storing
from sam.registry import Row
from sam.schema import from_dict, row_settings, schema, to_dict
from sam.sharpness.context import Notion
from sam.sharpness.settings import NOTIONS, SharpnessConfig

USUAL = ("test",), "cross_entropy"  # the sets to evaluate, and the loss
RUNS, CHECKPOINTS = (Path(__file__).parent / "golden" / f"keys_of_{of}.json" for of in ("runs", "checkpoints"))


def entries(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


@pytest.fixture(autouse=True)
def corruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the entries of `corruption` name: its row's key holds sizes and times of its files."""
    monkeypatch.chdir(tmp_path)
    Path("cifar-c").mkdir()
    for name in ("fog.npy", "labels.npy"):
        Path("cifar-c", name).write_bytes(name.encode())
        os.utime(Path("cifar-c", name), ns=(10**18, 10**18))


def first(keys: Mapping[Notion, str]) -> str:
    """The notion's row, or, of those of a notion in several parts, the one that was its only row once."""
    return next(iter(keys.values()))


def key_of_run(notion: str, sharpness: Mapping[str, Any]) -> str:
    return first(storing.keys("checkpoint", "data", from_dict(SharpnessConfig, {"notions": [notion], **sharpness}), *USUAL))


def key_of_checkpoint(model: Mapping[str, Any], dataset: Mapping[str, Any], mean: list[float], std: list[float]) -> str:
    images: Any = SimpleNamespace(mean=torch.tensor(mean), std=torch.tensor(std))
    subject = foreign._subject(from_dict(ModelConfig, model), from_dict(DatasetConfig, dataset), images)
    return first(storing.keys("checkpoint", "data", SharpnessConfig.of(notions=["gap"]), *USUAL, subject=subject))


@pytest.mark.parametrize(("file", "key_of"), [(RUNS, key_of_run), (CHECKPOINTS, key_of_checkpoint)], ids=["runs", "checkpoints"])
def test_rows_are_found_under_the_keys_of_old(file: Path, key_of: Any) -> None:
    rows = entries(file)
    found = [key_of(**{name: value for name, value in row.items() if name != "key"}) for row in rows]
    if os.environ.get("WRITE_GOLDEN") == "1":
        rows = [row | {"key": row.get("key", key)} for row, key in zip(rows, found, strict=True)]
        file.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    assert [row for row, key in zip(rows, found, strict=True) if row["key"] != key] == []  # is the new key marked late?
    assert len(set(found)) == len(found)  # each setting is another row


def leaves(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    return {
        name
        for key, value in values.items()
        for name in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"})
    }


def test_every_key_that_counts_has_an_entry() -> None:
    default = to_dict(SharpnessConfig.of())
    counting = {(name, key) for name, spec in NOTIONS.items() for key in leaves({key: default[key] for key in spec.reads})}
    assert {(row["notion"], key) for row in entries(RUNS) for key in leaves(row["sharpness"])} == counting
    assert {row["notion"] for row in entries(RUNS) if not row["sharpness"]} == set(NOTIONS)
    assert leaves(default) - {key for _, key in counting} == {"notions", "batch_size"}
    for part, cls in (("model", ModelConfig), ("dataset", DatasetConfig)):
        fields = set(schema(cls)) - {
            "root",
            "download",
            "mean",
            "std",
        }  # where the data lie; the normalisation counts as it is
        assert {key for row in entries(CHECKPOINTS) for key in row[part]} == fields


@dataclass(frozen=True)
class _New:
    subset: int | None = None
    later: float = field(default=0.5, metadata={"late": True})


@dataclass(frozen=True)
class _Extended(SharpnessConfig):
    """Tomorrow's schema: a key more, and a notion's own keys, for a notion that had none."""

    extra: list[int] = field(default_factory=lambda: [3], metadata={"late": True})
    trial: _New = field(default_factory=_New, metadata={"late": True})


def test_a_new_key_at_its_default_invalidates_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = NOTIONS["ascent"]
    monkeypatch.setitem(NOTIONS, "ascent", Row(spec.target, spec.keys, reads=(*spec.reads, "extra", "trial"), late=True))

    def key(**values: Any) -> str:
        return first(storing.keys("checkpoint", "data", _Extended(notions=["ascent"], **values), *USUAL))

    golden = next(row["key"] for row in entries(RUNS) if row["notion"] == "ascent" and not row["sharpness"])
    assert key() == key(extra=[3]) == key(trial=_New(None)) == golden
    others = [{"extra": []}, {"trial": _New(64)}, {"trial": _New(None, 0.25)}, {"extra": [], "trial": _New(64)}, {"m": 64}]
    assert len({golden, *(key(**other) for other in others)}) == len(others) + 1
    assert row_settings(_New(64)) == {"subset": 64}  # `later` is at its default
    assert row_settings(_New(64, 1.0)) == {"subset": 64, "later": 1.0}
