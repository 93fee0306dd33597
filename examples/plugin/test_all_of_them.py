"""What a stranger does with these files, as commands: train, sweep, measure, tabulate; and what goes wrong, in a sentence."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TINY = ("dataset=digits", "dataset.train_size=128", "batch_size=64", "epochs=1", "threads=1", "device=cpu")
TRAIN = ("train.py", "plugins=all_of_them", "model=small_vit", "model.patch=2", "model.blocks=1", "schedule=wsd", *TINY)
MEASURE = ("evaluate_sharpness.py", "sharpness.m=16", "threads=1", "device=cpu")


def records(runs: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("*/run.json"))]
    return {f"{r['config']['optimizer']['method']} {r['config']['optimizer'].get('rho', '')}".strip(): r for r in found}


def one_sentence(done: Any, *words: str) -> bool:
    lines = [line for line in done.stderr.splitlines() if line != "Nothing was run."]
    return done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)


@pytest.fixture(scope="module")
def swept(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGD, and ZSharp at two radii, of the small ViT: by worker processes, in one sweep."""
    runs = tmp_path_factory.mktemp("swept") / "runs"
    done = run("train.py", "-m", *TRAIN[1:], "optimizer=sgd,zsharp", "optimizer.rho=0.05,0.1", "hydra/launcher=local", f"runs_dir={runs}")
    assert done.returncode == 0, done.stderr
    return runs


def test_a_run_keeps_the_keys_of_its_own_rows_and_names_its_plug_ins(swept: Path) -> None:
    found = records(swept)
    assert sorted(found) == ["sgd", "zsharp 0.05", "zsharp 0.1"]  # the point with SGD twice is one run
    ours, sgd = found["zsharp 0.1"], found["sgd"]
    assert ours["identity"]["plugins"] == {"small_vit": "1", "wsd": "1", "zsharp": "1"}
    assert sgd["identity"]["plugins"] == {"small_vit": "1", "wsd": "1"}
    assert ours["config"]["optimizer"]["percentile"] == 0.95 and "percentile" not in sgd["config"]["optimizer"]
    assert ours["config"]["model"]["patch"] == 2 and "width" not in ours["config"]["model"]


def test_the_notion_is_measured_and_the_table_made(run: Any, swept: Path) -> None:
    line = ("plugins=all_of_them", f"runs_dir={swept}", "table=variance", "sharpness.notions=[gap,gradient_variance]", "processes=2")
    done = run(*MEASURE, *line)
    assert done.returncode == 0 and "ZSharp (rho 0.1)" in done.stdout, done.stderr
    rows = list(csv.DictReader((swept / "tables" / "variance.csv").read_text().splitlines()))
    means = {row["row"]: float(row["mean"]) for row in rows if row["column"].startswith("Gradient variance") and row["mean"]}
    assert sorted(means) == ["SGD", "ZSharp (rho 0.05)", "ZSharp (rho 0.1)"] and min(means.values()) > 0
    report = (swept / "tables" / "report.html").read_text()
    assert "plugins=[zsharp,small_vit,wsd]" in report and "plugins=[all_of_them]" in report
    stored = {path: path.read_bytes() for path in swept.glob("*/sharpness.json")}
    assert run(*MEASURE, *line).returncode == 0  # nothing is measured twice
    assert stored == {path: path.read_bytes() for path in swept.glob("*/sharpness.json")}


def test_without_a_plug_in_its_runs_are_named_and_the_others_go_on(run: Any, swept: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(swept, tmp_path / "runs")
    plain = run("train.py", "model=wrn_10_1", "optimizer=sgd", *TINY, f"runs_dir={runs}", cwd=ROOT)
    assert plain.returncode == 0, plain.stderr
    done = run(*MEASURE, f"runs_dir={runs}", "table=measures", cwd=ROOT)
    problems = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert done.returncode == 1 and len(problems) == 3 and all("plugins=" in line and "VERSION 1" in line for line in problems)
    assert "WRN-10-1" in done.stdout and "ViT" not in done.stdout
    status = run("scripts/status.py", f"runs_dir={runs}", cwd=ROOT)
    assert status.returncode == 1 and "3 damaged, 1 finished" in status.stdout
    known = run("scripts/status.py", f"runs_dir={runs}", "plugins=all_of_them")
    assert known.returncode == 0 and "4 finished" in known.stdout, known.stderr


def test_another_version_is_another_run(run: Any, swept: Path, tmp_path: Path) -> None:
    for name in ("zsharp", "small_vit", "wsd"):
        text = (HERE / f"{name}.py").read_text()
        (tmp_path / f"{name}.py").write_text(text.replace("VERSION = 1", "VERSION = 2") if name == "zsharp" else text)
    runs = shutil.copytree(swept, tmp_path / "runs")
    line = ("plugins=[zsharp,small_vit,wsd]", *TRAIN[2:], "optimizer=zsharp", f"runs_dir={runs}")
    done = run("train.py", *line, cwd=tmp_path)
    assert done.returncode == 0 and "finished" in done.stdout, done.stderr
    status = run("scripts/status.py", "plugins=[zsharp,small_vit,wsd]", f"runs_dir={runs}", cwd=tmp_path)
    assert "needs the plug-in zsharp (VERSION 1), and VERSION 2 of it is loaded" in status.stdout
    assert "2 finished" in status.stdout  # SGD's, and the new one
    again = run("train.py", *TRAIN[1:], "optimizer=zsharp", f"runs_dir={swept}")
    assert again.returncode == 0 and "already" in again.stderr  # under another list of plug-ins it is the same run


def test_from_the_root_by_dotted_names(run: Any, tmp_path: Path) -> None:
    config = run("train.py", "optimizer=zsharp", "--cfg", "job", cwd=ROOT, SAM_PLUGINS="examples.plugin.zsharp")
    assert config.returncode == 0 and "percentile: 0.95" in config.stdout, config.stderr
    line = ("model=small_vit", "model.patch=2", *TINY, f"runs_dir={tmp_path}")
    done = run("scripts/grid.py", "optimizer=zsharp", *line, cwd=ROOT, SAM_PLUGINS="examples.plugin.all_of_them")
    (listed,) = tmp_path.glob(".slurm/*/grid-0.txt")
    assert done.returncode == 0 and listed.read_text().startswith("'plugins=[examples.plugin.all_of_them]' optimizer=zsharp")


def test_help_lists_its_keys_and_options(run: Any) -> None:
    shown = run("train.py", "plugins=all_of_them", "--help").stdout
    assert all(word in shown for word in ("optimizer.percentile=0.95", "model.patch=4", "fashion_mnist", "wsd", "zsharp"))


def test_named_in_a_yaml_it_comes_too_late(run: Any, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nplugins: [zsharp]\nepochs: 1\n")
    done = run("train.py", f"--config-dir={tmp_path}", "experiment=mine", *TINY)
    assert one_sentence(done, "plugins=zsharp", "on the command line"), done.stderr


BROKEN = {
    "raises": ("raise RuntimeError('two\\nlines')", "raises: cannot be imported", "two"),
    "stops": ("raise SystemExit(0)", "stops: cannot be imported", "SystemExit"),
    "anew": (
        "import dataclasses\nfrom sam.config import key\nfrom sam.optimizers.settings import METHODS, OptimizerConfig\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(OptimizerConfig):\n    rho: float = key(0.3, 'another')\n"
        "METHODS.add('mine', 'anew:Mine', Mine)",
        *("optimizer.rho", "Mine declares it anew"),
    ),
    "taken": ("from sam.optimizers.settings import METHODS\nMETHODS.add('sam', 'taken:Mine')", "sam is sam.optimizers.sam:SAM already"),
    "absent": (None, "plugins=absent", "No module named"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_a_sentence(run: Any, name: str, tmp_path: Path) -> None:
    text, *words = BROKEN[name]
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    for command in (("train.py", "--cfg", "job"), ("scripts/grid.py", *TINY)):
        done = run(command[0], f"plugins={name}", *command[1:], cwd=tmp_path)
        assert one_sentence(done, *words), done.stderr


def test_a_row_whose_target_is_missing_is_a_sentence(run: Any, tmp_path: Path) -> None:
    text = "from sam.optimizers.settings import METHODS\nMETHODS.add('mine', 'not_there:Mine', option={})"
    (tmp_path / "hollow.py").write_text(text)
    done = run("train.py", "plugins=hollow", "optimizer=mine", "model=wrn_10_1", *TINY, cwd=tmp_path)
    assert one_sentence(done, "not_there", "cannot be imported"), done.stderr


def test_several_are_a_list_in_brackets(run: Any) -> None:
    assert one_sentence(run("train.py", "-m", "plugins=zsharp,wsd", *TINY), "write plugins=[a,b]")
