"""rows.py: what is packed is whole; the tables of unpacked runs: tests/evaluation."""

import shutil
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
