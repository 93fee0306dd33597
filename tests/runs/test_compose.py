"""A sweep's points, of which those that differ in the seed alone are composed once, against Hydra's composition of each."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig

from sam import registry
from sam.config import ConfigError
from sam.registry import load_plugins
from sam.runs.hydra_schema import resolve
from sam.runs.sweep import compose, opened, points
from sam.settings import TrainConfig


class Counting:
    """Hydra's loader, with the number of points that it composed."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader, self.points = loader, 0

    def load_sweep_config(self, *given: object) -> DictConfig:
        self.points += 1
        return self.loader.load_sweep_config(*given)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)


def swept(*arguments: str) -> tuple[DictConfig, Counting, list[list[str]]]:
    hydra, name, overrides, _ = opened(arguments, "train")
    sweep = hydra.compose_config(name, overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return sweep, Counting(hydra.config_loader), points(sweep, hydra.config_loader)


def by_hydra(line: Sequence[str], sweep: DictConfig, counting: Counting) -> TrainConfig:
    return resolve(TrainConfig, counting.loader.load_sweep_config(sweep, list(line)))


DIGITS = "dataset=digits"
SWEEPS = {  # arguments: how many points Hydra composes
    ("experiment=demo",): 7,
    ("experiment=table2",): 4,
    ("experiment=rho_sweep",): 20,
    (DIGITS, "optimizer=sgd,sam", "protocol=demo,xsam", "seed=1,2", "model=wrn_10_1", "epochs=3"): 4,
    ("dataset=digits,cifar10", "optimizer=xsam", "optimizer.alpha=null,1.0", "optimizer.rho=5,0.1", "optimizer.alpha_grid=[0.5,1]"): 8,
    ("tracking.notes=a,'1',null,1.5,true,'b c'", "seed=0"): 6,
    ("seed=1,2", "epochs=${seed}", "batch_size=8,64"): 2,  # a fixed reference is followed
    ("epochs=${seed},3", "seed=1,2"): 2,
    ("seed=1,2", "runs_dir=${oc.env:HOME}/${seed}"): 1,
    ("keep_checkpoints=[1],[1,2]", "seed=1,2"): 2,
    ("++optimizer.rho=0.3", "optimizer.rho=0.1,0.2"): 2,  # of two overrides of one key the order counts
    ("optimizer.rho=0.1,0.2", "++seed=3,4", "~augmentation", "+tracking.tags=[a]"): 4,
    ("seed=1,2", "++seed=3,4"): 4,  # here, too
}


LARGE = [("experiment=demo",), ("experiment=rho_sweep",)]


@pytest.mark.parametrize("arguments", [pytest.param(a, marks=[pytest.mark.slow] * (a in LARGE)) for a in SWEEPS], ids=" ".join)
def test_points_are_as_hydra_composes_them(arguments: tuple[str, ...]) -> None:
    sweep, loader, lines = swept(*arguments)
    found = list(compose(lines, sweep, loader))  # type: ignore[arg-type]
    assert loader.points == SWEEPS[arguments]
    chosen = range(0, len(lines), 1 + len(lines) // 3)  # of large sweeps a sample
    assert [found[i] for i in chosen] == [by_hydra(lines[i], sweep, loader) for i in chosen]


@pytest.mark.parametrize("wrong", ["epochs=2,x", "optimizer.rho=0.1,-1", "optimizer.lr=0.1,sam", "seed=1,2.5"])
def test_a_wrong_value_is_refused_in_the_words_of_hydra_s_composition(wrong: str) -> None:
    sweep, loader, lines = swept(wrong)
    with pytest.raises(Exception) as quick:
        list(compose(lines, sweep, loader))  # type: ignore[arg-type]
    with pytest.raises(quick.type) as slow:
        by_hydra(lines[1], sweep, loader)
    assert str(quick.value) == str(slow.value)


def test_a_plug_in_that_another_module_hides_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "loaded", [*registry.loaded])
    monkeypatch.setenv("SAM_PLUGINS", "")
    for name in ("models", "seen_alone"):
        (tmp_path / f"{name}.py").write_text("")
    load_plugins(["plugins=seen_alone"])
    with pytest.raises(ConfigError, match=r"plugins=models: \S+/models\.py is hidden by \S+/models/__init__\.py, which Python finds first"):
        load_plugins(["plugins=models"])
