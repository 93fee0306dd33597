"""Run folders that an earlier version made (tests/fixtures/runs): recognised, continued, measured and tabulated by this one."""

import csv
import dataclasses
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sam.evaluation import storing
from sam.evaluation.evaluate import evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity, records
from sam.runs.hydra_schema import register, resolve
from sam.runs.run import run
from sam.schema import defaults, from_dict
from sam.settings import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "fixtures" / "runs"
TIMES = {"train_seconds", "seconds"}


def near(name: str, value: float, rel: float) -> Any:
    """What another processor or torch version may make of a number by rounding; of accuracies one training image, two test images."""
    images = {"train_accuracy": 100 / 96, "test_accuracy": 200 / 797}
    return pytest.approx(value, abs=1.01 * images[name]) if name in images else pytest.approx(value, rel=rel, abs=1e-6)


MEASURED: dict[str, Any] = {  # as the rows of the finished run were measured
    "notions": ["ascent", "gap", "average", "maximum", "adaptive", "hessian"],
    "m": 32,
    "average": {"draws": 2},
    "maximum": {"steps": 2, "draws": 0},
    "adaptive": {"steps": 2, "draws": 2},
    "hessian": {"eigenvalues": 1, "steps": 8, "probes": 3},
}
NEW = ["gap[bn=train,split=train]", "gap[bn=train,split=test]"]  # rows that later versions have beside those of old
TABLE = {
    "title": "Kept",
    "row_header": "Method",
    "rows": [{"label": "SAM", "match": {"method": "sam", "ascent_steps": 2}}],
    "columns": [{"header": measure, "measure": measure} for measure in ("test_accuracy", "gap", "eigenvalue[k=1]", "average[rho=0.05]")]
    + [{"header": "S at {rho}", "measure": "sharpness[rho={rho},bn=eval,batch=all]", "each_rho": True}],
}


def folder_of(runs: Path) -> Path:
    (folder,) = (path.parent for path in runs.glob("*/run.json"))
    return folder


def record_of(runs: Path) -> dict[str, Any]:
    record = records.read_run(folder_of(runs))
    assert record is not None
    return record


def copied(kind: str, to: Path) -> tuple[Path, TrainConfig]:
    """(copy of a fixture's runs, the configuration that its recorded command line composes to, with this copy as runs_dir)."""
    runs = shutil.copytree(RUNS / kind, to / "runs")
    overrides = shlex.split(record_of(runs)["environment"]["command"])[2:]  # after `python train.py`
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = dataclasses.replace(resolve(TrainConfig, compose("train", overrides)), runs_dir=str(runs))
    assert identity.run_folder(config) == folder_of(runs)  # found by its identity
    return runs, config


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fields(value: Any, name: str = "") -> set[str]:
    """Names of all fields below a JSON value; elements of a list share theirs; which packages are installed is no field."""
    if isinstance(value, Mapping) and not name.endswith(".versions"):
        return {name}.union(*(fields(inner, f"{name}.{key}") for key, inner in value.items()))
    if isinstance(value, list):
        return {name}.union(*(fields(inner, name) for inner in value))
    return {name}


def columns_of(folder: Path) -> set[str]:
    return set((folder / "metrics.csv").read_text().splitlines()[0].split(","))


# ---------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, config = copied("preempted", tmp_path_factory.mktemp("continued"))
    run(config)
    return runs


def test_a_preempted_run_goes_on_and_ends_as_it_would_have(continued: Path) -> None:
    record, expected = record_of(continued), record_of(RUNS / "uninterrupted")
    assert [(s["from_epoch"], s["from_step"]) for s in record["segments"]] == [(0, 0), (1, 2)]
    assert record["started"] == record_of(RUNS / "preempted")["started"]
    assert {key: record[key] for key in ("name", "fingerprint", "setting", "status", "epochs", "cost")} == {
        key: expected[key] for key in ("name", "fingerprint", "setting", "status", "epochs", "cost")
    }
    for summary in ("final", "last5"):
        for name, value in expected[summary].items():
            assert record[summary][name] == near(name, value, rel=1e-4), (summary, name)
    rows, whole = (records.read_metrics(folder_of(runs)) for runs in (continued, RUNS / "uninterrupted"))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, known in zip(rows, whole, strict=True):
        for name in known.keys() - TIMES:
            # Four steps with other vector instructions: losses 6e-6, the norm of a batch's gradient 7e-4, an angle 5e-3.
            assert row[name] == near(name, known[name], rel=1e-4 if name.endswith("loss") else 2e-2), name
    assert rows[0] == records.read_metrics(folder_of(RUNS / "preempted"))[0]  # what was trained then stays to the digit
    assert sorted(contents(folder_of(continued))) == ["checkpoint.pt", "metrics.csv", "run.json"]


def test_no_field_of_a_record_is_dropped(continued: Path) -> None:
    """A later version may add fields, and must write those that there were, but settings that the run's method or model does not read."""
    record = record_of(continued)
    record["segments"] = record["segments"][1:]  # the first one is the earlier version's
    rows = {f".config.{group}.{key}" for group in ("optimizer", "model") for key in defaults(TrainConfig)[group]}
    for kind in ("uninterrupted", "preempted"):
        assert fields(record_of(RUNS / kind)) - fields(record) <= rows
    assert columns_of(folder_of(RUNS / "uninterrupted")) - columns_of(folder_of(continued)) == set()


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, config = copied("finished", tmp_path)
    before = contents(folder_of(runs))
    monkeypatch.setattr("sam.runs.run.Trainer", lambda *_: pytest.fail("it is trained again"))
    assert run(config) == json.loads(before["run.json"])
    assert contents(folder_of(runs)) == before


# ------------------------------------------------------------------------------------------ measuring and tables


def rows_of(runs: Path) -> dict[str, Any]:
    """Notion -> its row, without those of NEW."""
    rows = json.loads((folder_of(runs) / "sharpness.json").read_text())["rows"].values()
    return {row["notion"]: row for row in rows if "split" not in row["settings"]}


def evaluated(runs: Path, **changes: Any) -> Any:
    values = {"runs_dir": str(runs), "sharpness": MEASURED, "tables": {"mine": TABLE}, "threads": 1, "device": "cpu"}
    return evaluate(from_dict(EvaluateConfig, values | changes))


def test_stored_rows_are_tabulated_and_nothing_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, _ = copied("finished", tmp_path)
    before, seen = contents(folder_of(runs)), list[str]()
    monkeypatch.setattr(storing, "measure", lambda subject, missing, *_: seen.extend(map(str, missing)) or storing.merge([]))
    (row,) = evaluated(runs).runs
    assert seen == NEW
    values = {name: value for stored in rows_of(runs).values() for name, value in stored["values"].items()}
    assert {name: row.measures[name] for name in values} == values
    assert row.measures["last5_test_accuracy"] == record_of(runs)["last5"]["test_accuracy"]
    with (runs / "tables" / "mine.csv").open() as file:
        shown = {cell["column"]: float(cell["mean"]) for cell in csv.DictReader(file) if cell["mean"]}
    named = {name: values[name] for name in ("test_accuracy", "gap", "eigenvalue[k=1]", "average[rho=0.05]")}
    assert shown == named | {"S at 0.05": values["sharpness[rho=0.05,bn=eval,batch=all]"]}
    assert contents(folder_of(runs)) == before


def test_another_notion_is_measured_beside_the_stored_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, _ = copied("finished", tmp_path)
    before, seen, measure = rows_of(runs), [], storing.measure
    monkeypatch.setattr(
        storing, "measure", lambda subject, missing, *rest: seen.extend(map(str, missing)) or measure(subject, missing, *rest)
    )
    (row,) = evaluated(runs, sharpness=MEASURED | {"notions": [*MEASURED["notions"], "n_step"]}).runs
    assert seen == [*NEW, "n_step"]
    after = rows_of(runs)
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {"n_step"}
    assert after["n_step"]["values"].items() <= row.measures.items()


def test_the_same_measurement_gives_the_same_numbers(tmp_path: Path) -> None:
    """Of the notions that draw nothing, since draws differ between processors; under the key of old, with the fields of old."""
    runs, _ = copied("finished", tmp_path)
    before = rows_of(runs)
    evaluated(runs, sharpness=MEASURED | {"notions": ["ascent", "gap"]}, force=True)
    after = rows_of(runs)
    assert len(after) + len(NEW) == len(json.loads((folder_of(runs) / "sharpness.json").read_text())["rows"])  # replaced, not added
    for notion in ("ascent", "gap"):
        assert after[notion] is not before[notion] and fields(before[notion]) - fields(after[notion]) == set()
        for name, value in before[notion]["values"].items():
            assert after[notion]["values"][name] == near(name, value, rel=1e-3), name
