"""The plan of a sweep is what Hydra runs, whatever chose it; a plan that fails stops the sweep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from sam.config import ConfigError
from sam.runs import sweep
from sam.runs.hydra_schema import register, resolve
from sam.settings import TrackingConfig

DIGITS = ["dataset=digits", "model=wrn_10_1"]
MINE = "defaults: [train, _self_]\nepochs: 3\nhydra: {sweeper: {params: {seed: '1,2'}}}\n"


@pytest.fixture
def hydra() -> Iterator[tuple[Hydra, DictConfig]]:
    """As train.py -m opens it: (Hydra, a composed sweep)."""
    register()
    made, name, overrides, _ = sweep.opened([*DIGITS, "seed=1,2"], "train")
    GlobalHydra.instance().initialize(made)
    yield made, made.compose_config(name, overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["optimizer=glob([xsam,sam])", "optimizer.rho=0.05,0.1"], 4),
        (["optimizer=glob(*s*,exclude=*sam*)", "seed=range(2)"], 4),
        (["seed=choice(1,2,3)", "+protocol.notes=[]"], 3),
        (["seed=shuffle(range(0,6,2))"], 3),
        (["hydra.sweeper.max_batch_size=2", "seed=1,2,3"], 3),
        (["experiment=demo", "optimizer=sgd", "seed=7,8"], 2),
        (["runs_dir=A,B"], 2),
        (["keep_checkpoints=[1,2]"], 1),
        (["--config-name=mine", "--config-dir=FOLDER"], 2),
        (["--config-name", "mine", "-cd", "FOLDER", "-m", "seed=5"], 1),
    ],
)
def test_a_plan_takes_what_train_takes(arguments: list[str], number: int, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    given = [word.replace("FOLDER", str(tmp_path)) for word in [*arguments, *DIGITS]]
    plans = sweep.planned(given)
    assert len(plans) == number
    for line, config in plans:  # each line alone is its point
        made, name, overrides, _ = sweep.opened(line, "train")
        whole = made.compose_config(name, overrides, run_mode=RunMode.RUN, with_log_configuration=False)
        assert resolve(type(config), whole) == config and not whole.hydra.sweeper.params
        assert config.epochs == (3 if "mine" in " ".join(arguments) else config.epochs)
    sweep.check([config for _, config in plans])
    assert sweep.unfinished([config for _, config in plans]) == list(range(number))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=0,1", "run_dir=X"], "run_dir=X: is one folder for several runs"),
        (["seed=0,1", "run_dir=X,./X"], "is one folder for several runs"),
        (["seed=0,1", "optimizer.rho=range(3,0)"], "optimizer.rho=range(3,0): holds no value; range(start,stop,step) begins at"),
        (["seed=shuffle(range(0,3,-1))"], "seed=shuffle(range(0,3,-1)): holds no value"),
        (["optimizer=glob(zz*)"], "optimizer=glob(zz*): fits no option"),
        (["optimizer=[sgd,sam]"], "optimizer=[sgd,sam]: must be one option, which --help lists; several are a sweep, -m optimizer=A,B."),
        (["model=[resnet18, resnet20],wrn_10_1"], "must be one option, which --help lists; several are a sweep, -m model=A,B."),
        (["seed=interval(0,1)"], "does not support sweep type"),
        (["hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size=0: must be"),
        (["experiment=table2,demo"], "holds a grid of its own"),
        (["optimizer=glob([sgd,sam])", "optimizer.rho=0.05,-1"], "optimizer.rho=-1"),
        (["tracking=wandb", "tracking.project=a,team/sam"], "a team goes into tracking.entity=team"),
        (["--cfg=job"], "unknown argument --cfg"),
        (["--nope"], "--nope: known here"),
        (["--config-dir=nowhere"], "--config-dir=nowhere: there is no such folder"),
        (["--config-name=nope"], "Cannot find primary config 'nope'"),
    ],
)
def test_what_cannot_run_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(Exception) as caught:
        sweep.check([config for _, config in sweep.planned([*arguments, *DIGITS])])
    assert words in str(caught.value) and type(caught.value).__name__ != "AssertionError"


@pytest.mark.parametrize("where", ["points", "compose", "_print_plan", "check"])
@pytest.mark.parametrize(("error", "code"), [(AssertionError(), 1), (ConfigError("one sentence"), 2)])
def test_a_plan_that_fails_stops_the_sweep(
    hydra: tuple[Hydra, DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    error: Exception,
    code: int,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(sweep, where, fail)
    with pytest.raises(SystemExit) as caught:  # Hydra would warn of any other exception
        sweep.Preflight().on_multirun_start(hydra[1])
    said = capsys.readouterr().err
    assert caught.value.code == code and "Nothing was run." in said and ("Traceback" in said) == (code == 1)


def test_a_folder_of_another_run_is_refused_before_the_first(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(next((sweep.ROOT / "tests/fixtures/runs").rglob("run.json")).read_text())
    plans = [config for _, config in sweep.planned([*DIGITS, f"run_dir={tmp_path}/new,{tmp_path}/old"])]
    with pytest.raises(ConfigError, match="this folder holds another run"):
        sweep.check(plans)


@pytest.mark.parametrize("value", ["", " sam", "a/b", "a" * 129, "what?", "50%", "a#b", "a:b", "a\\b", "a\tb"])
@pytest.mark.parametrize("key", ["project", "entity"])
def test_names_that_wandb_refuses_are_refused_here(value: str, key: str) -> None:
    tracking = TrackingConfig(**{key: value})  # type: ignore[arg-type]
    if (key, value) == ("entity", ""):  # none
        return tracking.check_names()
    with pytest.raises(ConfigError, match=f"tracking.{key}="):
        tracking.check_names()
