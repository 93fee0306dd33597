"""What of both routes needs no SLURM: refusals, lists, and an import of submitit only where it is used."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydra_plugins.sam_launchers import launchers
from sam.runs import sweep

ROOT = Path(__file__).resolve().parents[2]
TINY = ("dataset=digits", "model=wrn_10_1", "epochs=1", "threads=1")


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def grid(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python(str(ROOT / "scripts" / "grid.py"), *arguments, cwd=cwd)


def lists(folder: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(folder.glob("runs/.slurm/*/grid-*.txt"))]


def test_a_signal_later_than_the_limit_is_refused(tmp_path: Path) -> None:
    options = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=120")
    refused = python(str(ROOT / "train.py"), "-m", *TINY, *options, "seed=0,1", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: hydra.launcher.signal_delay_s=120: must be shorter than the time limit")
    assert "Traceback" not in refused.stderr and "Nothing was submitted" in refused.stderr


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"], ["--cfg", "hydra", "hydra/launcher=slurm"]], ids=" ".join)
def test_showing_the_configuration_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    shown = python("-X", "importtime", str(ROOT / "train.py"), *arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "wandb", "submitit"}
    if "hydra" in arguments:
        assert "hydra_plugins.sam_launchers.launchers.SamSlurmLauncher" in shown.stdout


def test_the_list_of_an_experiment_can_be_run_line_by_line(tmp_path: Path) -> None:
    shown = grid("experiment=demo", "seed=0,1", "runs_dir=runs", cwd=tmp_path)  # the command line wins over the experiment's grid
    assert shown.stdout.startswith("# 14 runs, 14 to do\n"), shown.stderr
    ((*lines,),) = lists(tmp_path)
    assert len(set(lines)) == 14
    line = shlex.split(next(line for line in lines if "optimizer=sgd " in line))
    ran = python(str(ROOT / "train.py"), *line, "epochs=1", "dataset.train_size=128", "threads=1", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_long_lists_are_cut_and_packed(tmp_path: Path) -> None:
    shown = grid(*TINY, "seed=range(7)", "max_array=2", "runs_per_task=2", "throttle=1", cwd=tmp_path)
    assert [len(lines) for lines in lists(tmp_path)] == [4, 3]
    commands = [line for line in shown.stdout.splitlines() if not line.startswith("#")]
    assert [word for line in commands for word in shlex.split(line) if word.startswith("--array")] == ["--array=0-1%1"] * 2
    assert all(line.startswith("RUNS_PER_TASK=2 sbatch ") and f"--chdir={tmp_path}" in line for line in commands)


def test_replicas_ask_for_as_many_processes_and_gpus(tmp_path: Path) -> None:
    shown = grid(*TINY, "replicas=4", "seed=range(3)", cwd=tmp_path)
    (command,) = [line for line in shown.stdout.splitlines() if not line.startswith("#")]
    assert command.startswith("sbatch --array=0-2 --nodes=1 --ntasks=4 --gpus-per-node=4 ")
    for arguments in (("replicas=1,2",), ("replicas=2", "runs_per_task=2")):
        refused = grid(*TINY, *arguments, cwd=tmp_path)
        assert refused.returncode == 2 and "error: replicas=" in refused.stderr and not refused.stdout


def test_a_list_that_was_submitted_is_never_rewritten(tmp_path: Path) -> None:
    grid(*TINY, "seed=range(3)", cwd=tmp_path)
    before = lists(tmp_path)
    grid(*TINY, "seed=range(2)", cwd=tmp_path)
    assert before[0] in lists(tmp_path) and len(lists(tmp_path)) == 2


def test_the_shares_of_an_evaluation_are_listed_with_their_program(tmp_path: Path) -> None:
    refused = grid("evaluate", "runs_dir=runs", "parts=3", cwd=tmp_path)
    assert refused.returncode == 2 and not refused.stdout and not list(tmp_path.iterdir())
    assert refused.stderr.startswith("error: runs_dir=runs: holds no finished run; train first") and refused.stderr.count("\n") == 1
    shutil.copytree(ROOT / "tests" / "fixtures" / "runs" / "finished", tmp_path / "runs")
    shown = grid("evaluate", "runs_dir=runs", "parts=3", "sharpness.rho=[0.05, 0.5]", "throttle=2", cwd=tmp_path)
    ((*lines,),) = lists(tmp_path)
    assert [shlex.split(line) for line in lines] == [
        ["runs_dir=runs", "parts=3", "sharpness.rho=[0.05, 0.5]", f"part={k}"] for k in range(3)
    ]
    command = shlex.split(shown.stdout.splitlines()[-1])
    assert command[:3] == ["PROGRAM=evaluate_sharpness.py", "sbatch", "--array=0-2%2"]
    refused = grid("evaluate", "parts=0", cwd=tmp_path)
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr == "error: parts=0: must be a finite number >= 1 and <= 10000.\n"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("max_array=0", "max_array=0: must be a whole number > 0."),
        ("optimizer.rho=-1,2", "optimizer.rho=-1.0: must be a finite number >= 0."),
        ("optimizer.nothing=1", "error: optimizer.nothing=1: unknown key"),
    ],
)
def test_a_bad_point_is_refused_before_anything_is_listed(argument: str, says: str, tmp_path: Path) -> None:
    refused = grid(*TINY, argument, cwd=tmp_path)
    assert refused.returncode == 2 and says in refused.stderr and not refused.stdout and not lists(tmp_path)


def test_the_job_that_failed_is_named_beside_finished_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    launcher, points = (
        launchers.SamSlurmLauncher(signal_delay_s=1, timeout_min=9, submitit_folder="logs/%j"),
        [[f"seed={i}"] for i in range(4)],
    )
    launcher.config = OmegaConf.create({"hydra": {"job": {"name": "train"}}})
    submit = lambda points, first: [SimpleNamespace(job_id=f"7_{i}", paths=SimpleNamespace(stdout="log")) for i in range(len(points))]
    monkeypatch.setattr(launcher, "_submit", submit)
    monkeypatch.setattr(sweep, "compose", lambda points, config: points)
    monkeypatch.setattr(sweep, "unfinished", lambda plans: [1, 3])
    monkeypatch.setattr(launchers, "_collect", lambda jobs: {"7_1": "it died"})
    ends = [end.status.name for end in launcher.launch(points, 0)]
    assert ends == ["COMPLETED"] * 3 + ["FAILED"] and "failed: seed=3 (job 7_1): it died; log: log\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("queue", "lost"),
    [([None, None, ["7_0"]], False), ([[], ["7_0"], []], False), ([["7_0"], [], []], True)],
    ids=["a queue that cannot tell", "a result that is seen late", "cancelled"],
)
def test_a_job_is_lost_that_two_looks_in_a_row_do_not_find(
    queue: list[list[str] | None], lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, done = list(queue), SimpleNamespace(exists=lambda: not looks and not lost)
    monkeypatch.setattr(launchers, "QUEUE_EVERY", 0.0)
    monkeypatch.setattr(launchers, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda seconds: None))
    monkeypatch.setattr(launchers, "_queue", lambda *options: looks.pop(0) if looks else [])
    failures = launchers._collect([SimpleNamespace(job_id="7_0", exception=lambda: None, paths=SimpleNamespace(result_pickle=done))])
    assert list(failures) == ["7_0"] * lost and not looks
