"""The arguments of every script: --help, keys of its own, Hydra's, and one sentence for what it does not take."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from arguments import parse, script

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py") if path.name != "arguments.py")
SWEEPS = ("grid.py", "plan.py", "status.py")  # hand on what they do not know
KEYS = {"n": 3, "rate": 0.5, "name": "x", "dry": False, "size": int, "kind": ("all", "some")}


def test_keys_are_typed_and_the_rest_is_handed_on_in_order() -> None:
    given = ["n=7", "optimizer.rho=0.1", "rate=1e-2", "dry=True", "evaluate", "kind=some", "name=a=b", "+new=1"]
    own, rest = parse(KEYS, given, hydra=True)
    assert own == {"n": 7, "rate": 0.01, "name": "a=b", "dry": True, "size": None, "kind": "some"}
    assert rest == ["optimizer.rho=0.1", "evaluate", "+new=1"]
    assert parse(KEYS, [])[0] == {"n": 3, "rate": 0.5, "name": "x", "dry": False, "size": None, "kind": "all"}


@pytest.mark.parametrize(
    ("argument", "hydra", "sentence"),
    [
        ("n=0", True, "n=0: must be a whole number > 0."),
        ("n=1.5", True, "n=1.5: must be a whole number > 0."),
        ("size=-2", True, "size=-2: must be a whole number > 0."),
        ("rate=inf", True, "rate=inf: must be a finite number > 0."),
        ("rate=nan", True, "rate=nan: must be a finite number > 0."),
        ("dry=maybe", True, "dry=maybe: must be true or false."),
        ("name=", True, "name=: must be some text."),
        ("kind=none", True, "kind=none: must be one of all, some."),
        ("-m", False, "-m: unknown argument; known here: n=..., rate=..., name=..., dry=..., size=..., kind=..., --help."),
        ("n", False, "n: unknown argument; known here: n=..., rate=..., name=..., dry=..., size=..., kind=..., --help."),
    ],
)
def test_what_is_wrong_is_one_sentence(argument: str, hydra: bool, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(KEYS, [argument], hydra=hydra)
    assert str(caught.value) == sentence


def test_users_errors_end_with_2_and_ours_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @script
    def main(arguments: list[str]) -> int:
        raise {"user": ValueError("two\n  lines"), "ours": KeyError("bug")}[arguments[0]]

    assert main(["user"]) == 2 and capsys.readouterr().err == "error: two lines\n"
    with pytest.raises(KeyError):
        main(["ours"])
    assert main(["-h"]) == 0 and capsys.readouterr().out == f"{__doc__}\n"
    with pytest.raises(KeyError):
        main(["ours", "--", "--help"])  # somebody else's


def test_every_script_helps_and_refuses(commands: Callable[[Sequence[Sequence[str]]], list]) -> None:
    """--help, an unknown option, an unknown key, a word without a value: never a traceback, and never taken."""
    wrong = ("--nope", "epoks=3", "evaluat")
    lines = [(f"scripts/{name}", word) for name in SCRIPTS for word in ("--help", *wrong)]
    for (path, word), result in zip(lines, commands(lines), strict=True):
        documented = (ROOT / path).read_text().split('"""')[1]
        if word == "--help":
            assert result.code == 0 and result.out.strip() == documented.strip() and not result.err, path
        else:
            assert result.refused(word), (path, word, result)
            assert ("known here" in result.err) == (word.startswith("-") or Path(path).name not in SWEEPS), result.err


def test_scripts_run_from_any_folder(tmp_path: Path) -> None:
    """The modules that lie beside them, and the repository's, are found from elsewhere."""
    path = str(ROOT / "scripts" / "status.py")
    done = subprocess.run([sys.executable, path, "dataset=digits"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.endswith("1 missing\n") and not done.stderr


def test_the_array_script_helps_and_refuses() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = ["bash", str(ROOT / "scripts" / "slurm_array.sh"), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin"})

    shown = run("--help")
    assert shown.returncode == 0 and shown.stdout.startswith("One run per task of a SLURM job array")
    assert "sbatch --array=" in shown.stdout and shown.stdout.endswith("(replicas=k).\n\n") and not shown.stderr
    refused = run("grid-0.txt", "more")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "scripts/grid.py" in refused.stderr


@pytest.mark.parametrize("busy", [1, 9])
def test_the_array_script_runs_nothing_where_it_cannot_tell_whose(busy: int, tmp_path: Path) -> None:
    """The controller's first answers are empty; a train.py lies above the working folder."""
    here, count = tmp_path / "work", tmp_path / "count"
    answer = f"JobId=1 Command={ROOT}/scripts/slurm_array.sh grid-0.txt WorkDir=/"
    stubs = {"scontrol": f"echo >>{count}; (($(wc -l <{count}) <= {busy})) || echo '{answer}'", "sleep": ":", "srun": 'echo "srun $*"'}
    here.mkdir()
    (here / "grid-0.txt").write_text("seed=0\n")
    for name, text in {"train.py": "", **stubs}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    line = ["bash", str(ROOT / "scripts" / "slurm_array.sh"), "grid-0.txt"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "1", "PYTHON": "python"}
    done = subprocess.run(line, cwd=here, env=environment, capture_output=True, text=True, timeout=20)
    if busy == 1:
        assert done.returncode == 0 and done.stdout.endswith(f" python {ROOT}/train.py seed=0\n"), done
    else:
        assert done.returncode == 2 and not done.stdout, done
        assert done.stderr == "slurm_array.sh: cannot tell where this script was submitted from ('').\n"
