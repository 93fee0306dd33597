"""Golden identities: every key of a training run at another value than its default, under every method and model that reads it or not.

They are folder names of runs that people have, and must never change: golden/identities.json is only ever added to. A new key wants an
entry that differs from another one in that key alone. With `WRITE_GOLDEN=1` in the environment an entry without an identity gets one.
"""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from data import file_fingerprint
from models.settings import MODELS
from sam.optimizers.settings import METHODS
from sam.runs.hydra_schema import register, resolve
from sam.runs.identity import run_fingerprint, run_name, setting
from sam.schema import defaults as all_defaults
from sam.schema import from_dict, to_dict
from sam.settings import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).parent / "golden" / "identities.json"


def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())
    return found


# Where and how a run is executed, watched and labelled.
NEUTRAL = {"runs_dir", "run_dir", "force", "device", "threads", "eval_batch_size", "checkpoint_interval", "checkpoint_steps"}
NEUTRAL |= {"eval_interval", "keep_checkpoints"}
NEUTRAL |= {"dataset.root", "dataset.download", "protocol.name", "protocol.notes"}
NEUTRAL |= {f"tracking.{key}" for key in ("backend", "mode", "project", "entity", "init_timeout", "finish_timeout")}
NEUTRAL |= {"tracking.group", "tracking.tags", "tracking.notes"}


def write_arrays(path: Path) -> None:
    """An .npz of eight images, with the same bytes everywhere: np.savez would write the time into it."""
    images, labels = np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8), np.arange(8, dtype=np.int64) % 2
    with zipfile.ZipFile(path, "w") as file:
        for name, values in (("train_images", images), ("train_labels", labels), ("test_images", images), ("test_labels", labels)):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, values, version=(1, 0))
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.create_system = 3  # else the platform's
            file.writestr(entry, buffer.getvalue())


@pytest.fixture(autouse=True)
def data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_arrays(Path("arrays.npz"))


def identities(config: TrainConfig) -> dict[str, str]:
    return {"name": run_name(config), "fingerprint": run_fingerprint(config), "setting": setting(config)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_identities_are_those_of_old() -> None:
    if os.environ.get("WRITE_GOLDEN") == "1":
        written = [identities(from_dict(TrainConfig, entry["config"])) | entry for entry in entries()]
        FILE.write_text("[\n" + ",\n".join(f" {json.dumps(entry, sort_keys=True)}" for entry in written) + "\n]\n")
    assert file_fingerprint("arrays.npz") == "f3f63b7b2a97013b"  # these bytes, on every machine
    for entry in entries():
        config = from_dict(TrainConfig, entry["config"])
        expected = {key: entry[key] for key in ("name", "fingerprint", "setting")}
        assert identities(config) == expected, entry
        assert run_fingerprint(from_dict(TrainConfig, to_dict(config))) == entry["fingerprint"], entry  # as a record is read back


def test_every_key_of_a_run_is_shown_to_count_or_to_be_neutral() -> None:
    """By entries that differ in this key alone: either two of them are two runs, or all of them are one."""
    defaults = flat(all_defaults(TrainConfig))
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in entries():
        values = flat(entry["config"])
        assert all(value != defaults[key] for key, value in values.items()), entry
        for key in defaults:
            rest = repr(sorted((other, value) for other, value in values.items() if other != key))
            alike.setdefault((key, rest), []).append(entry["fingerprint"])
    shown = {key for (key, _), found in alike.items() if len(found) > 1}
    counting = {key for (key, _), found in alike.items() if len(set(found)) > 1}
    assert set(defaults) - shown == set()  # a new key: add an entry
    assert shown - counting == NEUTRAL


def test_every_method_and_model_has_each_of_its_keys() -> None:
    """Those that it does not read too: the entries say that they change nothing."""
    seen, defaults = [flat(entry["config"]) for entry in entries()], flat(all_defaults(TrainConfig))
    for choice, names in (("optimizer.method", METHODS), ("model.name", MODELS)):
        group = choice.partition(".")[0]
        keys = {key for key in defaults if key.startswith(f"{group}.")} - {choice}
        for name in names:
            found = {key for values in seen if values.get(choice, defaults[choice]) == name for key in values}
            assert keys - found == set(), name


def test_a_command_line_is_the_same_run_as_ever() -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for entry in entries():
            if "command" in entry:  # what follows `python train.py`
                config = resolve(TrainConfig, compose("train", entry["command"].split()))
                assert run_name(config) == entry["name"], entry
