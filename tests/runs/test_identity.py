"""The identity of a run: what counts, what does not. The fingerprints themselves are nailed down in test_golden_identities.py."""

import dataclasses
import hashlib
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from data import DataError
from data.settings import DATASETS
from models.settings import MODELS
from sam.optimizers import settings as optimizers
from sam.runs.identity import identity, run_fingerprint, run_folder, run_name, setting
from sam.schema import from_dict
from sam.settings import SCHEDULES, TrainConfig


def config(**values: Any) -> TrainConfig:
    return from_dict(TrainConfig, values)


DIGITS = {"dataset": {"name": "digits"}, "model": {"depth": 10, "width": 1}}


def test_what_is_hashed_is_canonical_json_of_what_is_not_default() -> None:
    values = DIGITS | {"optimizer": {"ascent_steps": 3, "rho": 0.05}, "epochs": 2, "seed": 1, "batch_size": 256}
    text = b'{"dataset":{"name":"digits"},"epochs":2,"model":{"depth":10,"width":1},"optimizer":{"ascent_steps":3},"seed":1}'
    assert identity(config(**values)) == DIGITS | {"optimizer": {"ascent_steps": 3}, "epochs": 2, "seed": 1}
    assert run_fingerprint(config(**values)) == hashlib.sha256(text).hexdigest()[:16]
    assert identity(config()) == {}


IRRELEVANT: list[dict[str, Any]] = [
    {"device": "cuda"},
    {"threads": 3},
    {"runs_dir": "elsewhere"},
    {"run_dir": "mine"},
    {"force": True},
    {"eval_batch_size": 7},
    {"eval_interval": 0},
    {"checkpoint_interval": 1},
    {"keep_checkpoints": [1, 5]},
    {"tracking": {"backend": "wandb", "project": "mine"}},
    {"protocol": {"name": "demo", "notes": ["said under every table"]}},
    {"dataset": {"root": "/elsewhere", "download": False}},
]


@pytest.mark.parametrize("change", IRRELEVANT, ids=str)
def test_where_and_how_it_runs_does_not_matter(change: dict[str, Any]) -> None:
    assert run_fingerprint(config(**change)) == run_fingerprint(config())


# key of the optimizer -> another value, and the methods (at N = 1 and N = 2) that read it
OPTIMIZER_KEYS: dict[str, tuple[Any, set[str]]] = {
    "rho": (0.1, {"rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
    "radius": ("uniform", {"rand_sam", "sam", "sam2"}),
    "perturb": ("no_norm", {"rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
    "norm_scope": ("layer", {"rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
    "step_rule": ("project", {"sam2", "xsam2"}),
    "descent_gradient": ("mean", {"sam2"}),
    "rho_max": (0.4, {"xsam", "xsam2"}),
    "alpha_grid": ([0.0, 1.0], {"xsam", "xsam2"}),
    "alpha_refresh": (0.5, {"xsam", "xsam2"}),
    "lr": (0.3, {"sgd", "rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
    "grad_clip": (1.0, {"sgd", "rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
    "weight_decay_scope": ("no_norm_bias", {"sgd", "rand_sam", "sam", "sam2", "xsam", "xsam2", "xsam constant"}),
}
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {"method": "sgd"},
    "rand_sam": {"method": "rand_sam"},
    "sam": {"method": "sam"},
    "sam2": {"method": "sam", "ascent_steps": 2},
    "xsam": {"method": "xsam"},
    "xsam2": {"method": "xsam", "ascent_steps": 2},
    "xsam constant": {"method": "xsam", "alpha": 0.7},
}


@pytest.mark.parametrize("key", OPTIMIZER_KEYS)
@pytest.mark.parametrize("method", METHODS)
def test_only_the_keys_that_a_method_reads_count(key: str, method: str) -> None:
    value, readers = OPTIMIZER_KEYS[key]
    plain, changed = config(optimizer=METHODS[method]), config(optimizer=METHODS[method] | {key: value})
    assert (run_fingerprint(plain) != run_fingerprint(changed)) == (method in readers)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 100}, {"batch_size": 128}, {"m": 32}, {"drop_last": True}, {"schedule": "constant"},
        {"warmup_epochs": 1.0}, {"seed": 1},
        {"loss": "mse"}, {"label_smoothing": 0.1}, {"precision": "bf16"}, {"model": {"depth": 16}}, {"model": {"dropout": 0.1}},
        {"model": {"init": "torch"}},
        {"dataset": {"name": "cifar100"}}, {"dataset": {"label_noise": 0.1}},
        {"dataset": {"val_fraction": 0.1}}, {"dataset": {"train_size": 9}}, {"dataset": {"val_size": 9}},
        {"dataset": {"sample": "seed"}}, {"dataset": {"mean": [0.5, 0.5, 0.5]}}, {"dataset": {"std": [0.5, 0.5, 0.5]}},
        {"augmentation": {"flip": True}}, {"augmentation": {"cutout": 4}},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_can_change_the_result_counts(change: dict[str, Any]) -> None:
    assert run_fingerprint(config(**change)) != run_fingerprint(config())
    assert (setting(config(**change)) == setting(config())) == (change == {"seed": 1})


def test_a_model_ignores_the_keys_of_others() -> None:
    base = {"name": "resnet18", "init": "torch"}
    assert run_fingerprint(config(model=base | {"depth": 16, "width": 2})) == run_fingerprint(config(model=base))


def test_integers_and_floats_are_one_value() -> None:
    assert run_fingerprint(config(optimizer={"rho": 1})) == run_fingerprint(config(optimizer={"rho": 1.0}))
    grids = [{"method": "xsam", "alpha_grid": grid} for grid in ([0, 1], [0.0, 1.0])]
    assert run_fingerprint(config(optimizer=grids[0])) == run_fingerprint(config(optimizer=grids[1]))


def test_setting_is_everything_but_the_seed() -> None:
    runs = [config(seed=seed, **DIGITS) for seed in range(3)]
    assert len({run_fingerprint(c) for c in runs}) == 3
    assert {setting(c) for c in runs} == {run_fingerprint(config(seed=0, **DIGITS))}
    assert setting(config(**DIGITS)) != setting(config(**DIGITS, epochs=3))


def test_a_data_file_counts_by_its_bytes_not_by_its_path(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    first.write_bytes(b"some images")
    shutil.copy(first, copy)
    other.write_bytes(b"other images")
    values = [config(dataset={"name": "arrays", "path": str(path)}) for path in (first, copy, other)]
    assert run_fingerprint(values[0]) == run_fingerprint(values[1]) != run_fingerprint(values[2])
    assert identity(values[0])["dataset"]["file"] == hashlib.sha256(b"some images").hexdigest()[:16]
    assert str(tmp_path) not in str(identity(values[0]))
    with pytest.raises(DataError, match="cannot be read"):
        identity(config(dataset={"name": "arrays", "path": str(tmp_path / "none.npz")}))


@pytest.mark.parametrize(
    ("rows", "name"), [(optimizers.METHODS, "sam"), (MODELS, "wide_resnet"), (DATASETS, "cifar10"), (SCHEDULES, "cosine_step")]
)
def test_a_row_of_a_plug_in_counts_with_its_version(rows: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(VERSION=2))  # type: ignore[arg-type]
    monkeypatch.setitem(rows, name, dataclasses.replace(rows[name], target="theirs:it"))
    assert identity(config()) == {"plugins": {"theirs": "2"}}


def test_names_are_readable_and_safe_in_a_file_system() -> None:
    cases = [
        config(model={"name": "timm", "timm_name": "hf_hub:Some/Model x"}, optimizer={"rho": 1e-7}),
        config(dataset={"name": "cifar100"}, optimizer={"method": "rand_sam", "rho": 12345678.9}, seed=2**40),
        config(model={"name": "vgg11_bn"}),
    ]
    for case in cases:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*-[0-9a-f]{8}", run_name(case)), run_name(case)
        assert run_name(case).endswith(run_fingerprint(case)[:8])
    assert "n2" in run_name(config(optimizer={"ascent_steps": 2})) and "sgd-s0" in run_name(
        config(optimizer={"method": "sgd", "ascent_steps": 2})
    )


def test_folders() -> None:
    assert run_folder(config(runs_dir="a/b")) == Path("a/b/cifar10-wrn-28-10-sam-rho0.05-s0-44136fa3")
    assert run_folder(config(runs_dir="a/b", run_dir="mine")) == Path("mine")


@pytest.mark.parametrize(
    ("change", "same_as"),
    [
        ({"replicas": 1}, {}),
        ({"perturbation": "replica"}, {}),  # one process: its share is the batch
        ({"batchnorm": "sync"}, {}),
        ({"replicas": 2, "batchnorm": "sync"}, {}),  # normalised and perturbed as a whole
        ({"replicas": 2, "m": 32}, {"m": 32}),  # the same groups on any number of replicas
        ({"replicas": 2, "m": 32, "perturbation": "replica"}, {"m": 32}),
    ],
)
def test_replicas_that_only_share_the_work_are_one_run(change: dict[str, Any], same_as: dict[str, Any]) -> None:
    assert run_fingerprint(config(**change)) == run_fingerprint(config(**same_as))


def test_replicas_that_change_the_computation_are_another_run() -> None:
    changes: list[dict[str, Any]] = [{}, {"replicas": 2}, {"replicas": 4}, {"replicas": 2, "perturbation": "replica"}, {"micro_batch": 64}]
    assert len({run_fingerprint(config(**change)) for change in changes}) == len(changes)


def test_every_key_is_decided_about() -> None:
    """A new key must enter the list of keys that count, or the one of keys that do not, on purpose."""
    counted = {"optimizer", "model", "dataset", "augmentation", "epochs", "batch_size", "m", "drop_last", "schedule", "warmup_epochs"}
    counted |= {
        "loss",
        "label_smoothing",
        "precision",
        "compile",
        "cuda_graph",
        "seed",
        "micro_batch",
        "replicas",
        "perturbation",
        "batchnorm",
        "init_from",
    }
    ignored = {
        "runs_dir",
        "run_dir",
        "force",
        "device",
        "threads",
        "eval_batch_size",
        "eval_interval",
        "checkpoint_interval",
        "checkpoint_steps",
        "keep_checkpoints",
        "protocol",
        "tracking",
    }
    assert {f.name for f in dataclasses.fields(TrainConfig)} == counted | ignored
