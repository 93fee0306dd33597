"""Options of sbatch in the command that grid.py prints. The lists and the command itself: tests/slurm."""

import shlex
from pathlib import Path

import pytest

from sam.config import ConfigError
from scripts import grid

TINY = ["dataset=digits", "model=wrn_10_1", "seed=0"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--partition=gpu --time=8:00:00", "--partition=gpu --time=8:00:00"),
        ("-p gpu --exclude node1,node2 --exclusive", "-p gpu --exclude node1,node2 --exclusive"),
        ("--comment='a b;$(reboot)' -A me", "'--comment=a b;$(reboot)' -A me"),
        ("-Cv100 --output-format=x --arrays", "-Cv100 --output-format=x --arrays"),
    ],
)
def test_they_are_passed_on(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.main([*TINY, f"runs_dir={tmp_path}", f"sbatch={text}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert line.startswith(f"sbatch --array=0-0 {words} --chdir="), line
    assert shlex.split(line)[-2].endswith("slurm_array.sh")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--partition=gpu\nrm -r x", "must be one line"),
        ("--comment='a", r"cannot be taken apart \(No closing quotation\)"),
        ("gpu", "gpu is no option, nor the value of one"),
        ("--partition=gpu run.sh", "run.sh is no option"),
        ("-p gpu run.sh", "run.sh is no option"),
        ("--array=0-3", "--array=0-3 is not to be set here"),
        ("-a0-3", "-a0-3 is not to be set here"),
        ("-D /tmp", "-D is not to be set here"),
        ("--wrap=ls", "--wrap=ls is not to be set here"),
        ("-- --x", "-- is not to be set here"),
        ("-", "- is not to be set here"),
    ],
)
def test_what_would_not_arrive_as_an_option_is_refused(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=words):
        grid.sbatch_options(text)
    assert grid.main([*TINY, f"runs_dir={tmp_path / 'runs'}", f"sbatch={text}"]) == 2
    assert capsys.readouterr().err.startswith("error: sbatch=") and not (tmp_path / "runs").exists()
