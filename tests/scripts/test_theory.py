"""The experiments as a user starts them, in an edition of seconds; what is wrong is one sentence."""

import csv
from pathlib import Path

import pytest
import theory


def test_a_short_edition_writes_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["part=0.001", "records=2", "starts=2", "samples=4", "hidden=4", "inputs=gaussian", "workers=1"]
    assert theory.main(["experiment=wen_network", *short, f"out={tmp_path / 'out'}"]) == 0
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "trajectories.csv").open()))
    assert len(rows) == 5 * 2 * 3 and {row["arm"] for row in rows} == {"GD", "SGD, batch 1", "SAM", "SAM, batch 1", "GD on L^Asc"}
    assert len({row["top"] for row in rows if row["step"] == "0.0"}) == 2  # two starting points, the same for every arm
    assert len(list(csv.DictReader((out / "effects.csv").open()))) == 10
    assert {row["n"] for row in csv.DictReader((out / "contrasts.csv").open())} == {"2"}
    for name in ("contrasts-between-methods", "lambda1-under-sam-beside-the-sam-edge-of-stability"):
        assert all((out / f"{name}{end}").stat().st_size > 0 for end in (".png", ".pdf", ".csv"))
    assert "Δ log λ1" in capsys.readouterr().out


def test_what_is_trained_first_is_one_command_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(theory.subprocess, "call", lambda words: said.append([Path(words[1]).name, *words[2:]]) or len(said) - 1)
    assert theory.main(["experiment=xsam_direction", "epochs=2", "runs_dir=/tmp/r", "sharpness.rho=[0.1]"]) == 1  # that of the measuring
    assert said == [
        ["train.py", "-m", "experiment=xsam_direction", "epochs=2", "runs_dir=/tmp/r"],
        ["evaluate_sharpness.py", "runs_dir=/tmp/r", "notions=xsam_direction", "kept=true", "sharpness.rho=[0.1]"],
    ]
    monkeypatch.setattr(theory.subprocess, "call", lambda words: said.append(words) or 3)
    assert theory.main(["experiment=rounding"]) == 3 and len(said) == 3  # nothing is measured where training failed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiment=wen_wrn"], "must be one of wen_toy, wen_network"),
        (["experiment=wen_network", "samples=100"], "samples=100"),
        (["experiment=wen_network", "lr=0.1"], "unknown argument"),
        (["experiment=wen_toy", "part=2"], "part=2"),
        (["experiment=wen_toy", "out=/dev/null"], "out=/dev/null"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert theory.main(arguments) == 2
    assert said in capsys.readouterr().err
