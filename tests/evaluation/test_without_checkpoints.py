"""Runs whose checkpoints were not kept: their measures still make the tables, packed and unpacked again too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam.config import ConfigError
from sam.evaluation.evaluate import evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.sharpness.settings import SharpnessConfig

Run = Callable[..., Any]


def measured(runs: Path, *notions: str) -> Any:
    sharpness = SharpnessConfig.of(notions=list(notions), batchnorm=["eval"])
    return evaluate(EvaluateConfig(runs_dir=str(runs), sharpness=sharpness, seeds=[0], threads=1, device="cpu"))


def test_rows_outlive_their_checkpoints(swept: Any, command: Run, tmp_path: Path) -> None:
    kept, bare, folder = tmp_path / "kept", tmp_path / "bare", tmp_path / "rows"
    shutil.copytree(swept.runs, kept, ignore=shutil.ignore_patterns("sharpness.json", "tables"))
    before = measured(kept, "gap")
    assert not before.problems and len(before.runs) == 4

    assert "8 runs" in command("scripts/rows.py", f"pack={folder}", f"runs_dir={kept}").out
    assert "nothing new" in command("scripts/rows.py", f"pack={folder}", f"runs_dir={kept}").out
    assert "8 of 8" in command("scripts/rows.py", f"unpack={folder}", f"runs_dir={bare}").out
    for run in kept.glob("*/run.json"):
        for file in ("run.json", "metrics.csv", "sharpness.json"):
            twin = bare / run.parent.name / file
            assert twin.exists() == (run.parent / file).exists()
            assert not twin.exists() or twin.read_bytes() == (run.parent / file).read_bytes()
    assert not list(bare.rglob("checkpoint.pt"))

    after = measured(bare, "gap")
    assert not after.problems
    assert [row.measures for row in after.runs] == [row.measures for row in before.runs]
    more = measured(bare, "gap", "average")
    assert len(more.problems) == 4 and all("checkpoint.pt is missing" in p and p.endswith("on it: average.") for p in more.problems)
    assert [row.measures["gap"] for row in more.runs] == [row.measures["gap"] for row in before.runs]

    assert command("scripts/rows.py", f"unpack={folder}", f"pack={folder}").code == 2
    again = command("scripts/rows.py", f"unpack={folder}", f"runs_dir={bare}")  # what is there is left alone
    assert again.code == 0 and "0 of 8" in again.out


def test_stored_rows_make_tables_whatever_was_asked_for_when_they_were_measured(swept: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(swept.runs, runs, ignore=shutil.ignore_patterns("sharpness.json", "tables"))
    gap = {run.folder: run.measures["gap"] for run in measured(runs, "gap").runs}
    one = SharpnessConfig.of(notions=["ascent"], batchnorm=["eval"], rho=[0.3])
    evaluate(EvaluateConfig(runs_dir=str(runs), sharpness=one, seeds=[0], threads=1, device="cpu"))
    for file in runs.rglob("checkpoint.pt"):
        file.unlink()
    found = evaluate(EvaluateConfig(runs_dir=str(runs), seeds=[0], stored=True))
    assert not found.problems and len(found.runs) == 4
    for run in found.runs:
        assert run.measures["gap"] == gap[run.folder] and "sharpness[rho=0.3,bn=eval,batch=all]" in run.measures
    with pytest.raises(ConfigError, match="stored=true: measures nothing, and kept="):
        EvaluateConfig(stored=True, kept=True)
    with pytest.raises(ConfigError, match="stored=true: measures nothing, and part="):
        EvaluateConfig(stored=True, part=0)


def test_a_record_without_the_hash_needs_its_checkpoint(swept: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(swept.runs, runs, ignore=shutil.ignore_patterns("tables"))
    lost = sorted(runs.glob("*-s0-*"))[0]
    (lost / "checkpoint.pt").unlink()
    record = json.loads((lost / "run.json").read_text())
    del record["checkpoint_sha256"], record["digest"]  # as of old
    (lost / "run.json").write_text(json.dumps(record))
    found = measured(runs, "gap")
    assert found.problems == [f"{lost.name}: checkpoint.pt is missing; the run is left out of the tables."]
    assert len(found.runs) == 3


def test_what_was_measured_stays_where_the_rest_cannot_be(swept: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(swept.runs, runs, ignore=shutil.ignore_patterns("sharpness.json", "tables"))
    before = measured(runs, "gap")
    record = sorted(runs.glob("*-s0-*"))[0] / "run.json"
    changed = json.loads(record.read_text())
    del changed["digest"]
    changed["config"]["dataset"] |= {"name": "arrays", "path": "gone.npz"}  # its data have left
    record.write_text(json.dumps(changed))
    after = measured(runs, "gap", "average")
    assert len(after.problems) == 1 and "gone.npz" in after.problems[0]
    assert sorted(row.measures["gap"] for row in after.runs) == sorted(row.measures["gap"] for row in before.runs)
