"""The command line of a run, composed again by Hydra, is the same run."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam.evaluation.settings import EvaluateConfig
from sam.optimizers.settings import OptimizerConfig
from sam.runs.command import BASE, evaluate_command, train_command
from sam.runs.identity import run_fingerprint
from sam.runs.sweep import planned
from sam.settings import TrainConfig
from sam.sharpness.settings import SharpnessConfig

ODD = OptimizerConfig.of(method="xsam", ascent_steps=2, alpha_grid=[0.0, 1e-05, 2.0], rho_max=0.3, weight_decay=1e-4, grad_clip=1.0)
POINTS = [
    ["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.rho=0.7"],
    ["optimizer=rand_sam", "dataset=digits", "seed=3", "threads=1", "device=cpu"],
    ["optimizer=sam_n3", "experiment=demo", "dataset.label_noise=0.0"],
    ["dataset=digits", "dataset.val_size=9", "dataset.sample=seed", "dataset.mean=[0.25]", "dataset.std=[0.5]", "dataset.label_noise=0.2"],
    ["optimizer=xsam", "protocol=foret", "model=vgg11_bn", "optimizer.alpha=0.5"],
    ["optimizer=sam", "protocol=wrn_classic", "augmentation=cutout", "dataset=cifar100"],
    ["optimizer=xsam", "protocol=xsam", "augmentation=none", "model=densenet121", "m=16", "precision=bf16"],
]


def composed(command: str) -> TrainConfig:
    python, script, *overrides = shlex.split(command)
    assert (python, script) == ("python", "train.py")
    ((_, config),) = planned(overrides)
    return config


def test_base_is_what_train_py_alone_composes() -> None:
    assert train_command(BASE) == "python train.py"
    assert composed("python train.py") == BASE


@pytest.mark.parametrize("point", POINTS, ids=lambda p: " ".join(p))
def test_composing_the_command_gives_the_same_run(point: list[str]) -> None:
    config = next(config for _, config in planned([*point, "hydra.sweeper.params=null"]))
    again = composed(train_command(config))
    assert run_fingerprint(again) == run_fingerprint(config)
    assert (again.protocol.name, again.threads, again.device) == (config.protocol.name, config.threads, config.device)


def test_numbers_lists_and_odd_paths_survive_the_shell_and_hydra(tmp_path: Path) -> None:
    path = tmp_path / "a b,c='d' [e]\\.npz"
    np.savez(path, x=np.zeros(1))
    config = replace(BASE, optimizer=ODD, dataset=replace(BASE.dataset, name="arrays", path=str(path)))
    again = composed(train_command(config))
    assert again.dataset.path == str(path) and again.optimizer == ODD and run_fingerprint(again) == run_fingerprint(config)


def test_the_command_is_short() -> None:
    config = replace(BASE, optimizer=OptimizerConfig.of(method="sgd", rho=0.9, alpha=0.3), seed=2, run_dir="elsewhere", force=True)
    assert train_command(config) == "python train.py optimizer.method=sgd seed=2"


def test_measuring_names_what_differs_from_the_defaults() -> None:
    config = EvaluateConfig(runs_dir="my runs", sharpness=SharpnessConfig.of(rho=[0.05, 0.5], seed=1), out="x", force=True)
    expected = "python evaluate_sharpness.py 'runs_dir='\"'\"'my runs'\"'\"'' 'sharpness.rho=[0.05,0.5]' sharpness.seed=1"
    assert evaluate_command(config) == expected
