"""One bad run stays one bad run: whatever measuring it raises is one problem, and the tables of the others are there."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sam.config import ConfigError
from sam.core import files
from sam.core.files import DamagedError
from sam.evaluation import measuring, storing
from sam.evaluation.evaluate import Evaluation, evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.schema import from_dict
from sam.sharpness.context import Result
from sam.sharpness.settings import SharpnessConfig

(FINISHED,) = (Path(__file__).parents[1] / "fixtures/runs/finished").iterdir()
TABLE = {
    "title": "T",
    "row_header": "M",
    "rows": [{"label": "SAM", "match": {"method": "sam"}}],
    "columns": [{"key": "gap", "header": "gap", "measure": "gap"}],
}


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam.report.drawing.draw", lambda panel, form: b"")


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is measured. Never write into it."""
    runs = tmp_path_factory.mktemp("row")
    shutil.copytree(FINISHED, runs / "a", ignore=shutil.ignore_patterns("sharpness.json"))
    evaluated(runs)
    return runs / "a"


@pytest.fixture
def runs(row: Path, tmp_path: Path) -> Path:
    """The same run three times; the second one is not measured yet."""
    for name in "abc":
        shutil.copytree(row, tmp_path / "runs" / name)
    (tmp_path / "runs" / "b" / "sharpness.json").unlink()
    return tmp_path / "runs"


def evaluated(runs: Path, **sharpness: Any) -> Evaluation:
    asked = {"notions": ["gap"], "batchnorm": ["eval"]} | sharpness
    return evaluate(
        from_dict(EvaluateConfig, {"runs_dir": str(runs), "sharpness": asked, "tables": {"t": TABLE}, "threads": 1, "device": "cpu"})
    )


@pytest.mark.parametrize("name", ["metrics", "kept"])
def test_a_table_takes_no_other_files_name(tmp_path: Path, name: str) -> None:
    """Its metrics.csv would make a damaged run of the folder of tables."""
    with pytest.raises(ConfigError, match=rf"^tables\.{name}: its file {name}\.csv would be taken for another one"):
        evaluate(from_dict(EvaluateConfig, {"runs_dir": str(tmp_path), "tables": {name: TABLE}}))


def names(found: Evaluation) -> list[str]:
    assert all("\n" not in problem for problem in found.problems)
    return [Path(row.folder).name for row in found.runs]


@pytest.mark.parametrize(
    "error",
    [RecursionError("deep"), MemoryError(), KeyError("model"), RuntimeError("two\nlines"), UnicodeError("\ud800"), OSError(5, "I/O")],
)
def test_whatever_it_raises(runs: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    load = measuring.load_weights

    def failing(model: Any, weights: Any, path: Path) -> None:
        if path.parent.name == "b":
            raise error
        load(model, weights, path)

    monkeypatch.setattr(measuring, "load_weights", failing)
    found = evaluated(runs)
    assert names(found) == ["a", "c"] and len(found.problems) == 1 and found.problems[0].startswith(f"b: {type(error).__name__}")


def test_a_radius_beyond_all_numbers(runs: Path) -> None:
    """Nothing can be measured at it; what was measured before is in the tables."""
    found = evaluated(runs, notions=["ascent", "gap"], rho=[1e300])
    assert names(found) == ["a", "c"] and [problem[:3] for problem in found.problems] == ["a: ", "b: ", "c: "]
    assert (runs / "tables" / "t.md").exists()


@pytest.mark.parametrize("file", ["run.json", "metrics.csv", "checkpoint.pt", "sharpness.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"rows": 1}', b"\xff", None])
def test_a_file_of_no_use(runs: Path, file: str, content: bytes | None) -> None:
    shutil.copy(runs / "a" / "sharpness.json", runs / "b")
    path = runs / "b" / file
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    found = evaluated(runs)
    assert names(found) == ["a", "c"] and len(found.problems) == 1 and found.problems[0].startswith("b: ") and file in found.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("model"),
        lambda state: state.update(model=None),
        lambda state: state.update(model={"w": 1.0}),
        lambda state: state.update(fingerprint="another"),
        lambda state: state["model"].pop("stem.weight"),
        lambda state: state["model"].update({"stem.weight": torch.zeros(1)}),
    ],
)
def test_a_checkpoint_of_other_content(runs: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = runs / "b" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    found = evaluated(runs)
    assert names(found) == ["a", "c"] and len(found.problems) == 1 and "checkpoint.pt" in found.problems[0]


# --------------------------------------------------------------------------------------------------------- stored rows


def rows_of(path: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(path.read_text())["rows"]
    return rows


def stored_row(path: Path) -> None:
    storing.store(path, "key", "gap", Result({"gap": 0.5}, {"curve": {"x": [1.0, None]}}), {"version": 1}, "run")


def test_of_two_rows_with_one_name_the_one_measured_last_is_taken(tmp_path: Path) -> None:
    """m is in no name; what is measured anew, with force, is the later one."""
    record = {"status": "finished", "fingerprint": "f", "checkpoint_sha256": "a" * 64, "data": {"fingerprint": "d"}}
    name = "sharpness[rho=0.05,bn=eval,batch=m]"
    for m, value in ((128, 1.0), (64, 2.0), (128, 3.0)):
        config = SharpnessConfig.of(notions=["ascent"], m=m)
        ((notion, key),) = storing.keys("a" * 16, "d", config, ("test",), "cross_entropy").items()
        storing.store(tmp_path / "sharpness.json", key, notion.name, Result({name: value}), notion.settings(config, "cross_entropy"), "f")
        assert storing.of_final(tmp_path, record).values[name] == value


def test_a_row_knows_its_run_and_its_key(tmp_path: Path) -> None:
    path = tmp_path / "sharpness.json"
    stored_row(path)
    assert storing.stored(path, "run") == storing.stored(path) == {"key": Result({"gap": 0.5}, {"curve": {"x": [1.0, None]}})}
    with pytest.raises(DamagedError, match="it is of run run"):
        storing.stored(path, "another")
    row = rows_of(path)["key"]
    for changed in (
        {"other": row},
        {"key": row | {"values": {"gap": 0.25}}},
        {"key": row | {"run": "another"}},
        {"key": row | {"notion": "x"}},
    ):
        path.write_text(json.dumps({"format": 2, "rows": changed}))
        with pytest.raises(DamagedError, match="digest differs"):
            storing.stored(path)


@pytest.mark.parametrize(
    "change",
    [
        {"values": None},
        {"values": {"gap": "text"}},
        {"values": {"gap": [1]}},
        {"series": {"c": [1.0]}},
        {"series": {"c": {"x": 1.0}}},
        None,
    ],
)
def test_a_row_of_old_is_looked_at(tmp_path: Path, change: dict[str, Any] | None) -> None:
    """It has no digest; null is a value that is not defined."""
    path = tmp_path / "sharpness.json"
    old = {"notion": "gap", "settings": {}, "values": {"gap": None, "loss": "nan"}, "series": {}}
    path.write_text(json.dumps({"format": 2, "rows": {"key": old}}))
    assert storing.stored(path)["key"].values["gap"] is None
    path.write_text(json.dumps({"format": 2, "rows": {"key": change and old | change}}))
    before = path.read_bytes()
    with pytest.raises(DamagedError, match=r"sharpness\.json: row key cannot be used .*; delete the file to measure anew"):
        storing.stored(path)
    path.write_bytes(before[:-5])
    with pytest.raises(DamagedError):
        stored_row(path)  # what may be saved of the others' rows is not written over
    assert path.read_bytes() == before[:-5]


def test_a_guard_that_was_left_is_given_up(tmp_path: Path) -> None:
    guard = tmp_path / "sharpness.json.taking"
    guard.touch()
    os.utime(guard, (time.time() - 100,) * 2)
    stored_row(tmp_path / "sharpness.json")
    assert os.listdir(tmp_path) == ["sharpness.json"]
    with pytest.raises(files.StorageError, match="could not be written"):
        stored_row(tmp_path / "sharpness.json" / "below")


def test_what_was_measured_before_stays_in_the_tables(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second command asks for one more notion: that one alone is measured, and the gap's rows are shown with it."""
    first = evaluated(runs)
    monkeypatch.setattr("sam.sharpness.gap.measure", lambda context, part: pytest.fail("was measured before"))
    second = evaluated(runs, notions=["ascent"])
    assert [run.measures["gap"] for run in second.runs] == [run.measures["gap"] for run in first.runs] != [None] * 3
    assert all("sharpness[rho=0.05,bn=eval,batch=all]" in run.measures for run in second.runs)
    assert first.blocks[0].rows == second.blocks[0].rows and second.problems == []
