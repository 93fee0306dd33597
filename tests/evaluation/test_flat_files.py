"""Every number as data: runs.csv, and the same as a DataFrame; the sweep's commands; runs chosen by their settings."""

import csv
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sam.evaluation
from sam.config import ConfigError
from sam.evaluation.evaluate import Evaluation, _final_command, evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity, records
from sam.runs.sweep import planned
from sam.schema import from_dict
from sam.sharpness.settings import SharpnessConfig
from sam.tables.settings import SweepConfig, TableConfig

GAP = SharpnessConfig.of(notions=["gap"], batchnorm=["eval"])


@pytest.fixture(scope="module")
def swept_rho(
    commands: Callable[[Sequence[Sequence[str]]], list[Any]], tiny_options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """SAM at two radii, two seeds, two epochs, an eighth of the images held out. Never write into it."""
    runs = tmp_path_factory.mktemp("rho") / "a, b"
    axes = ["optimizer=sam", "optimizer.rho=0.1,0.2", "seed=0,1", "epochs=2", "keep_checkpoints=[1]", "dataset.val_fraction=0.125"]
    (done,) = commands([["train.py", "-m", *tiny_options, *axes, f"runs_dir='{runs}'"]])
    assert done.code == 0, done.err
    return runs


def measured(runs: Path, **options: Any) -> Evaluation:
    own = {"runs_dir": str(runs), "sharpness": GAP, "threads": 1, "device": "cpu", "sweep": from_dict(SweepConfig, {"show": "always"})}
    return evaluate(EvaluateConfig(**(own | options)))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pandas is missing, a stand-in whose DataFrame is the list of lines."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda lines: SimpleNamespace(to_dict=lambda orient: lines)))  # type: ignore[arg-type]


def test_runs_csv_is_what_load_gives(swept_rho: Path, tmp_path: Path, frames: None) -> None:
    runs = Path(shutil.copytree(swept_rho, tmp_path / "a, b"))
    before = sam.evaluation.load(str(runs)).to_dict("records")
    assert {line["optimizer.rho"] for line in before} == {0.1, 0.2} and "val_accuracy" in before[0] and "train_loss" not in before[0]
    found = measured(runs, kept=True)  # the rows of epoch 1 lie in the same files, and are in no line of a run
    lines = list(csv.DictReader((runs / "tables" / "runs.csv").read_text().splitlines()))
    loaded = sam.evaluation.load(str(runs)).to_dict("records")
    assert len(lines) == len(loaded) == 4
    for line, own, row in zip(lines, loaded, found.runs, strict=True):
        assert own.keys() == line.keys()
        assert [name for name, value in own.items() if not same(value, line[name])] == []
        record = records.read_run(Path(row.folder))
        assert record is not None and own["folder"] == row.folder and own["status"] == "finished" and own["optimizer.method"] == "sam"
        assert (own["forwards"], own["backwards"], own["seconds"]) == (*list(record["cost"].values())[:2], record["seconds"])
        assert {name: own[name] for name in row.measures} == row.measures and own["train_loss"] is not None
        epochs = records.read_metrics(Path(row.folder))
        assert own["best_val_accuracy"] == max(epoch["val_accuracy"] for epoch in epochs)
        assert own["best_val_loss"] == min(epoch["val_loss"] for epoch in epochs)
        assert own["best_test_accuracy"] == max(epoch["test_accuracy"] for epoch in epochs)
        assert own["val_accuracy"] == epochs[-1]["val_accuracy"] and own["last5_val_accuracy"] == record["last5"]["val_accuracy"]
    assert len(sam.evaluation.load(str(runs), {"optimizer.rho": 0.2, "seed": [1, 2]}).to_dict("records")) == 1


def same(value: Any, text: str) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return text == ""
    return float(text) == value if isinstance(value, int | float) else text == value


def test_load_names_what_it_needs_and_importing_it_is_cheap(monkeypatch: pytest.MonkeyPatch, swept_rho: Path) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"needs? pandas|pip install pandas\.$"):
        sam.evaluation.load(str(swept_rho))
    program = "import sys, sam.evaluation; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_select(swept_rho: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(swept_rho, tmp_path / "runs"))
    found = measured(runs, select={"optimizer.rho": [0.2], "seed": 0})
    assert [(row.config.optimizer.rho, row.config.seed) for row in found.runs] == [(0.2, 0)]  # type: ignore[attr-defined]
    assert len(list(runs.glob("*/sharpness.json"))) == 1 and found.problems == []
    for select, words in (({"seed": 9}, "no finished run below"), ({"optimizer.roh": 1}, r"^select\.optimizer\.roh: unknown key")):
        with pytest.raises(ConfigError, match=words):
            measured(runs, select=select)
    with pytest.raises(ConfigError, match=r"^select=3: must hold keys and values"):
        EvaluateConfig(select=3)


def test_the_final_runs_are_the_picked_ones_on_all_images(swept_rho: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(swept_rho, tmp_path / "a, b"))
    found = measured(runs)
    (line,) = found.commands
    picked = next(block for block in found.blocks if block.table == "Picked")
    words = shlex.split(line)
    assert words[:3] == ["python", "train.py", "-m"] and (runs / "tables" / "final_runs.sh").read_text() == f"{line}\n"
    plans = [config for _, config in planned(words[3:])]
    assert [config.seed for config in plans] == [0, 1] and {config.runs_dir for config in plans} == {f"{runs}_final"}
    rho = float(picked.rows[0][1].parts[0].removeprefix("rho "))
    like = next(row.config for row in found.runs if getattr(row.config.optimizer, "rho", None) == rho and row.config.seed == 0)
    assert identity.run_fingerprint(plans[0]) == identity.run_fingerprint(replace(like, dataset=replace(like.dataset, val_fraction=0.0)))
    noted = replace(like, protocol=replace(like.protocol, notes=["it's said", "below [every] table, too"]))
    again = _final_command(replace(found.runs[0], config=noted), [0])
    assert [config.protocol.notes for _, config in planned(shlex.split(again)[3:])] == [noted.protocol.notes]


def test_runs_that_no_table_shows_are_named(swept_rho: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(swept_rho, tmp_path / "runs"))
    for method, hidden in (("sgd", 4), ("sam", 0)):
        layout = from_dict(TableConfig, {"title": "T", "rows": [{"label": "A", "match": {"method": method}}], "columns": COLUMN})
        assert len(measured(runs, sweep=SweepConfig(), tables={"own": layout}).hidden) == hidden


COLUMN = [{"key": "accuracy", "header": "Accuracy", "measure": "test_accuracy"}]
