"""Columns of status.py, and their order."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sam.runs import identity, records
from sam.runs.run import run
from sam.schema import to_dict
from sam.settings import TrainConfig
from scripts import status


@pytest.fixture
def runs(tiny: Callable[..., TrainConfig]) -> Path:
    """SGD, SAM with N = 1, 2 and rho 0.1, 0.02 and seeds 2, 10; and what is left of a run."""
    configs = [tiny(epochs=1, batch_size=96, optimizer={"method": "sgd"})]
    options = ((1, 0.1, 2), (2, 0.02, 10))
    configs += [tiny(epochs=1, batch_size=96, optimizer={"rho": rho, "ascent_steps": n}, seed=seed) for n, rho, seed in options]
    for config in configs:
        run(config)
    folder = identity.run_folder(configs[0])
    (folder.with_name("digits-cut\x1b[31m")).mkdir()
    (folder.with_name("digits-cut\x1b[31m") / "run.json").write_text("{")
    return folder.parent


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    capsys.readouterr()
    assert status.main(list(arguments)) == 1  # one is damaged
    return [line.split()[:6] for line in capsys.readouterr().out.splitlines()[:-1]]


@pytest.mark.parametrize(
    ("by", "column", "values"),
    [
        ("rho", 4, ["0.02", "0.1", "-", "-"]),
        ("N", 3, ["1", "2", "-", "-"]),
        ("seed", 5, ["0", "2", "10", "-"]),
        ("method", 2, ["SAM", "SAM", "SGD", "-"]),
        ("state", 1, ["damaged", "finished", "finished", "finished"]),
    ],
)
def test_it_sorts_by_a_column(runs: Path, capsys: pytest.CaptureFixture[str], by: str, column: int, values: list[str]) -> None:
    header, *lines = shown(capsys, f"runs_dir={runs}", f"sort={by}")
    assert header == ["run", "state", "method", "N", "rho", "seed"]
    assert [line[column] for line in lines] == values
    assert sorted(lines) == sorted(shown(capsys, f"runs_dir={runs}")[1:])


def test_a_name_is_one_word_of_printable_letters(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ["digits-cut?[31m", "damaged", "-", "-", "-", "-"] in shown(capsys, f"runs_dir={runs}")


def test_a_missing_run_has_its_planned_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grid = ["dataset=digits", "model=wrn_10_1", "optimizer.ascent_steps=3", "optimizer.rho=0.2,0.1", "seed=4", f"runs_dir={tmp_path}"]
    _, *lines = shown(capsys, *grid, "sort=rho")
    assert [line[1:] for line in lines] == [["missing", "SAM", "3", rho, "4"] for rho in ("0.1", "0.2")]


def test_it_shows_the_selected_runs_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([f"runs_dir={runs}", "select={optimizer.method: sam, seed: [2, 3]}"]) == 0
    _, line, counted = capsys.readouterr().out.splitlines()
    assert line.split()[1:6] == ["finished", "SAM", "1", "0.1", "2"] and counted == "1 finished"
    assert status.main([f"runs_dir={runs}", "select=3"]) == 2
    assert capsys.readouterr().err.startswith("error: select=3: must hold keys and values, as in: ")


def test_a_selection_without_runs_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([f"runs_dir={runs}", "select={seed: [900]}"]) == 2
    assert capsys.readouterr().err == "error: select={seed: [900]}: no run here has these settings.\n"
    assert status.main(["runs_dir=my runs (copy)"]) == 2
    assert "runs_dir=my runs (copy)" in capsys.readouterr().err


def test_what_is_left_goes_by_the_epochs_so_far(tmp_path: Path) -> None:
    """Three of twelve took thirty seconds."""
    records.write_metrics(tmp_path, [{"epoch": i, "seconds": 10.0 * i} for i in (1, 2, 3)])
    found = status.state(tmp_path, {"status": "running", "config": to_dict(TrainConfig(epochs=12))})
    assert found == ("preempted", "epoch 3 of 12, about 1:30 of work left; its process is gone")
