"""rows.py: what is packed is whole, and an unpacking that was cut short goes on; the tables of unpacked runs: tests/evaluation."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sam.core.files import DamagedError
from scripts import rows

FINISHED = Path(__file__).parents[1] / "fixtures" / "runs" / "finished"
(RUN,) = (path.name for path in FINISHED.iterdir())


@pytest.fixture
def packed(tmp_path: Path) -> str:
    rows.pack(str(tmp_path / "rows"), FINISHED)
    return str(tmp_path / "rows")


@pytest.mark.parametrize(
    ("left", "completed"),
    [
        ([], True),
        (["+sharpness.json", "+metrics.csv"], True),
        (["+sharpness.json", "0123456789ab.metrics.csv.tmp"], True),
        (["+sharpness.json", "+metrics.csv", "0123456789ab.run.json.tmp"], True),
        (["sharpness.json"], False),
        (["+sharpness.json", "run.json"], False),
        (["+sharpness.json", "checkpoint.pt"], False),
        (["notes.md.tmp"], False),
    ],
    ids=str,
)
def test_what_was_cut_short_is_completed_and_nothing_else_is_touched(left: list[str], completed: bool, packed: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / RUN
    run.mkdir(parents=True)
    for name in left:  # +: whole, as packed; all else is cut, or somebody's own
        (run / name.lstrip("+")).write_bytes((FINISHED / RUN / name[1:]).read_bytes() if name.startswith("+") else b"cut")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert f"{int(completed)} of 1 packed runs" in rows.unpack(packed, run.parent, None)
    assert not completed or all((run / name).read_bytes() == (FINISHED / RUN / name).read_bytes() for name in rows.FILES)
    assert completed or {path.name: path.read_bytes() for path in run.iterdir()} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_latin(path: Path) -> None:
    path.write_bytes(b"\xff")


DAMAGE = [(name, damage) for name in rows.FILES for damage in (cut, become_a_folder, become_latin, Path.unlink)]
DAMAGE.remove(("sharpness.json", Path.unlink))  # a run that was not measured is whole


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_run_is_named_and_the_others_are_packed(name: str, damage: Callable[[Path], None], packed: str, tmp_path: Path) -> None:
    for run in ("a", "b"):
        shutil.copytree(FINISHED / RUN, tmp_path / "runs" / run)
    rows.pack(packed, tmp_path / "runs")
    before = rows.packed(packed)
    damage(tmp_path / "runs" / "a" / name)
    shutil.copytree(FINISHED / RUN, tmp_path / "runs" / "c")
    with pytest.raises(DamagedError, match=rf"^1 run packed, and these cannot be: \S+/a/{name}: "):
        rows.pack(packed, tmp_path / "runs")
    assert rows.packed(packed) == before | {"c": before["b"]}


@pytest.mark.parametrize(
    ("folder", "branch", "words"),
    [
        ("empty", None, "unpack=empty: holds no packed runs"),
        ("nowhere", "HEAD", "unpack=nowhere, branch=HEAD: holds no packed runs"),
        ("empty", "mian", "branch=mian: must be a branch or commit that git can list empty of (fatal: "),
        ("/", "HEAD", "branch=HEAD: must be a branch or commit that git can list / of (fatal: "),
    ],
)
def test_nothing_to_unpack_is_said(
    folder: str, branch: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for line in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *line], check=True)
    assert rows.main([f"unpack={folder}", *([f"branch={branch}"] if branch else []), "runs_dir=runs"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}") and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_older_rows_is_named(packed: str, tmp_path: Path) -> None:
    assert rows.unpack(packed, tmp_path / "runs", None).endswith("1 of 1 packed runs unpacked; the others were there.")
    assert rows.unpack(packed, tmp_path / "runs", None).endswith("0 of 1 packed runs unpacked; the others were there.")
    (tmp_path / "runs" / RUN / "sharpness.json").write_text('{"format": 2, "rows": {}}')
    assert f"0 of 1 packed runs unpacked; the others were there, 1 of them with other content, such as {RUN};" in rows.unpack(
        packed, tmp_path / "runs", None
    )


def test_a_run_of_a_later_file_replaces_that_of_an_earlier_one(packed: str, tmp_path: Path) -> None:
    shutil.copytree(FINISHED, tmp_path / "again")
    (tmp_path / "again" / RUN / "sharpness.json").unlink()
    before = rows.packed(packed)[RUN]
    rows.pack(packed, tmp_path / "again")
    assert rows.packed(packed) == {RUN: {name: before[name] for name in ("run.json", "metrics.csv")}}
