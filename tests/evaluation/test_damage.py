"""Files damaged in seeded ways: what is damaged is named or does no harm; never a traceback, a changed number or another run's loss."""

import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sam.core import files
from sam.evaluation.evaluate import evaluate
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity, lock, records
from sam.runs.run import run
from sam.runs.session import Session
from sam.runs.signals import Preempted
from sam.schema import from_dict
from sam.settings import TrainConfig

pytestmark = pytest.mark.slow
FILES = (records.RUN, records.METRICS, records.MEASURES, records.CHECKPOINT, lock.LOCK)
ROOT = Path(__file__).parents[2]
TABLE = {
    "title": "Damage",
    "rows": [{"label": "SGD", "match": {"method": "sgd"}}, {"label": "SAM", "match": {"method": "sam"}}],
    "columns": [{"key": name, "header": name, "measure": name} for name in ("test_accuracy", "gap", "mean_eps_over_rho")],
}


def config(runs: Path, method: str, seed: int) -> TrainConfig:
    tiny = {"model": {"depth": 10, "width": 1}, "dataset": {"name": "digits", "train_size": 64}, "batch_size": 32, "epochs": 2}
    places = {"runs_dir": str(runs), "device": "cpu", "threads": 1, "checkpoint_interval": 1}
    return from_dict(TrainConfig, tiny | places | {"optimizer": {"method": method}, "seed": seed})


def evaluated(runs: Path, force: bool = False) -> Any:
    sharpness = {"notions": ["gap"], "batchnorm": ["eval"]}
    options = {"runs_dir": str(runs), "sharpness": sharpness, "tables": {"damage": TABLE}, "force": force}
    return evaluate(from_dict(EvaluateConfig, options | {"device": "cpu", "threads": 1}))


def shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Name of a folder -> its line in status.py."""
    capsys.readouterr()
    assert importlib.import_module("status").main([f"runs_dir={runs}"]) in (0, 1)
    return {name: line for line in capsys.readouterr().out.splitlines() for name in [line.split()[0]] if name.startswith("digits")}


def untimed(folder: Path) -> list[dict[str, float]]:
    rows = records.read_metrics(folder, records.read_run(folder))
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@dataclass(frozen=True)
class Whole:
    """Two finished runs that are measured, and an interrupted one; what each is worth, undamaged, and what the interrupted one ends as."""

    runs: Path
    finished: str
    interrupted: str
    measures: dict[str, Any]
    final: dict[str, Any]
    epochs: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    runs = tmp_path_factory.mktemp("damage") / "runs"
    names, final, epochs = {}, {}, {}
    for method, seed in (("sgd", 0), ("sam", 0), ("sam", 1)):
        own = config(runs, method, seed)
        names[method, seed] = name = identity.run_name(own)
        final[name], epochs[name] = run(own)["final"], untimed(runs / name)
    shutil.rmtree(runs / names["sam", 1])
    steps = iter([0, 0, 0, signal.SIGTERM])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Session, "_asked_to_leave", lambda self: next(steps))
        run(config(runs, "sam", 1))
    found = evaluated(runs)
    assert [text.partition(":")[0] for text in found.problems] == [names["sam", 1]]
    return Whole(runs, names["sam", 0], names["sam", 1], {Path(row.folder).name: row for row in found.runs}, final, epochs)


# ------------------------------------------------------------------------------------------------------------- damages


def flipped(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncated(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def no_text(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    at = draw.randrange(len(content))
    path.write_bytes(content[:at] + b"\xff\xfe" + content[at + 2 :])


def a_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def gone(path: Path, draw: random.Random) -> None:
    path.unlink()


def of_another_run(path: Path, draw: random.Random) -> None:
    (other,) = (f for f in path.parent.parent.glob("*-sgd-*") if f != path.parent)
    (shutil.copy if (other / path.name).exists() else empty)(other / path.name, path)  # type: ignore[operator]


def other_values(path: Path, draw: random.Random) -> None:
    """JSON with one number changed, or one value, at any depth, replaced or taken away; of anything else one digit."""
    if path.suffix != ".json":
        content = bytearray(path.read_bytes())
        i = draw.choice([i for i, byte in enumerate(content) if chr(byte).isdigit()])
        content[i] = ord("9") if content[i] != ord("9") else ord("8")
        path.write_bytes(content)
        return
    whole = json.loads(path.read_text())
    places = list(inner(whole))
    numbers = [(place, at) for place, at in places if type(place[at]) in (int, float)]
    kind = draw.choice(["number", "other", "gone"])
    place, at = draw.choice(numbers if kind == "number" else places)
    if kind == "gone":
        del place[at]
    elif kind == "number":
        place[at] = place[at] * 2 + 1
    else:
        place[at] = draw.choice([None, "text", [], {}, [[]], True, -1, 0.5, 10**400, "nan", "\ud800", {"a": {"b": None}}])
    path.write_text(json.dumps(whole))


def inner(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value below; not of the configuration, of which there is the most, and where the run was."""
    for at in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, at
        if isinstance(value[at], (dict, list)) and (at not in ("config", "environment", "segments") or len(value) < 3):
            yield from inner(value[at])


TIMES = {flipped: 4, truncated: 2, empty: 1, no_text: 2, a_folder: 1, a_pipe: 1, gone: 1, of_another_run: 1, other_values: 12}
CASES = [("finished", file) for file in FILES] + [("interrupted", file) for file in FILES if file != records.MEASURES]


@pytest.mark.parametrize(("victim", "file"), [*CASES, ("of old", records.RUN), ("of old", records.MEASURES)])
def test_damage_is_named_or_does_no_harm(
    whole: Whole, victim: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of old has no digest: a number that became another one is taken, and all else holds."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("sam.report.drawing.draw", lambda panel, form: b"")  # half of the time, and no part of this
    name, draw = whole.interrupted if victim == "interrupted" else whole.finished, random.Random(f"{victim} {file}")
    known, old = shown(whole.runs, capsys), victim == "of old"
    counts = TIMES | ({other_values: 24} if file == records.RUN else {})
    for damage in (kind for kind, times in counts.items() for _ in range(times)):
        runs = Path(shutil.copytree(whole.runs, tmp_path / "runs"))
        path, case = runs / name / file, f"{damage.__name__} {draw.random()}"
        if file == lock.LOCK:
            path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": None, "token": "t", "process_start": None}))
            os.utime(path, (draw.choice([1, time.time()]),) * 2)
        if old:
            path.write_text(re.sub(r',\s*"(digest|checkpoint_sha256|metrics_sha256)": "[0-9a-f]*"', "", path.read_text()))
        damage(path, draw)
        check_evaluating(whole, runs, name, case, old)
        check_status(known, shown(runs, capsys), name, case, old)
        check_continuing(whole, runs, name, case, old)
        assert "Traceback" not in "".join(capsys.readouterr()), case
        shutil.rmtree(runs)


def check_evaluating(whole: Whole, runs: Path, name: str, case: str, old: bool) -> None:
    found = evaluated(runs)
    rows = {Path(row.folder).name: row for row in found.runs}
    assert all("\n" not in problem and problem.startswith("digits-") for problem in found.problems), case
    assert {*rows, name} == {*whole.measures, name}, case
    for other, row in rows.items() if not old else ():
        known = whole.measures[other]
        assert repr(row.measures) == repr(known.measures), case
        assert row.config == replace(known.config, runs_dir=row.config.runs_dir), case
    assert name in rows or any(problem.startswith(name) for problem in found.problems), case
    assert (runs / "tables" / "damage.md").exists(), case


def check_status(known: dict[str, str], lines: dict[str, str], name: str, case: str, old: bool) -> None:
    assert {**lines, name: ""} == {**known, name: ""}, case
    assert old or lines[name] == known[name] or lines[name].split()[1] in ("damaged", "running"), (case, lines[name])


def check_continuing(whole: Whole, runs: Path, name: str, case: str, old: bool) -> None:
    """It ends as it would have; or it is refused in one sentence, and what training knew is not replaced by what is known today."""
    path = runs / name / records.RUN
    before = path.read_bytes() if path.is_file() else None
    try:
        record = run(config(runs, "sam", int(name == whole.interrupted)))
    except ValueError as error:
        assert type(error).__module__.startswith("sam.") and "\n" not in str(error), (case, error)
        after = path.read_bytes() if path.is_file() else None
        assert after == before or known_by(after) == known_by(before), case
    else:
        assert old or record["final"] == whole.final[name], case
        try:
            assert untimed(runs / name) == whole.epochs[name], case
        except files.DamagedError:
            assert name == whole.finished, case  # at which nobody looked


def known_by(content: bytes | None) -> Any:
    record = json.loads(content or b"{}")
    return record["started"], record["segments"][0]


def test_two_evaluators_at_once_lose_nothing(whole: Whole, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(whole.runs, tmp_path / "runs", ignore=shutil.ignore_patterns("sharpness.json", "tables")))
    command = [sys.executable, "evaluate_sharpness.py", f"runs_dir={runs}", "sharpness.batchnorm=[eval]", "threads=1", "device=cpu"]
    many = [[*command, f"sharpness.notions=[{notions}]", "sharpness.average.draws=2"] for notions in ("gap,average", "average,gap")]
    both = [subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for line in many]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], said  # one run is not finished
    assert not any(word in text for text in said for word in ("Traceback", "error", "could not")), said
    for name in whole.measures:
        assert sorted(row["notion"] for row in json.loads((runs / name / "sharpness.json").read_text())["rows"].values()) == [
            "average",
            "gap",
        ]
    assert not list(runs.rglob("*.tmp*")) and list((runs / "tables" / "figures").glob("*.png"))
