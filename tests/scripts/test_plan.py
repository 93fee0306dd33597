"""plan.py: what fits into a budget, what that many seeds detect, and the grid that it prints."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import nct, t

from sam.runs import identity, sweep
from sam.runs.progress import Progress
from sam.runs.run import run
from sam.settings import TrainConfig
from scripts import plan

GRID = ["dataset=digits", "model=wrn_10_1", "dataset.train_size=640", "batch_size=64", "device=cpu", "optimizer=sgd,sam"]


@pytest.fixture
def a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes one."""
    monkeypatch.setattr(plan, "seconds_per_pass", lambda *_: 1.0)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert plan.main(list(arguments)) == code
    return capsys.readouterr().out.splitlines()


def test_seeds_epochs_and_what_they_detect(a_second: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ten steps an epoch, 16 epochs: SGD 160 passes, SAM 320; 797 test images 10 times (by eval_interval=2
    the last five and the even ones), in batches of 64 at a third of a pass each."""
    evaluations = 5 + len([epoch for epoch in range(1, 12) if epoch % 2 == 0])
    seconds = 160 + 320 + 2 * evaluations * 797 / 64 / 3
    hours = 12.5 * seconds / 3600 / 2  # of two processes: twelve seeds and a half
    grid = [*GRID, "epochs=16", "eval_interval=2", "seed=range(3)", f"runs_dir={tmp_path}"]
    lines = printed(capsys, *grid, f"hours={hours}", "processes=2", "spread=0.6", "tests=4", f"out={tmp_path / 'grid.txt'}")
    ms, minutes = map(float, lines[1].split()[-2:])  # of SGD
    assert ms == 1000 and minutes == pytest.approx((160 + evaluations * 797 / 64 / 3) / 60, rel=5e-3)
    at = next(i for i, line in enumerate(lines) if "seeds that fit" in line)
    epochs, a_seed, fit, detected = lines[at + 1].split()
    assert (epochs, fit) == ("16", "12")
    assert float(a_seed) == pytest.approx(seconds / 3600 / 2, rel=5e-3)
    shift = float(detected) * math.sqrt(12) / 0.6
    assert 1 - nct.cdf(t.ppf(1 - 0.05 / 4 / 2, 11), 11, shift) == pytest.approx(0.8, abs=5e-3)
    assert [line.split()[0] for line in lines[at + 2 : at + 4]] == ["8", "4"]
    command = shlex.split(lines[-1])
    assert command[:3] == ["python", "train.py", "-m"]
    assert {"seed=range(12)", "hydra.launcher.processes=2"} <= set(command)
    planned = [config for _, config in sweep.planned([word for word in command[3:] if not word.startswith("hydra")])]
    listed = [sweep.planned(shlex.split(line))[0][1] for line in (tmp_path / "grid.txt").read_text("utf-8").splitlines()[::7]]
    assert len(planned) == 24
    assert {identity.run_fingerprint(config) for config in listed} <= {identity.run_fingerprint(config) for config in planned}


def test_fewer_epochs_where_the_planned_ones_leave_too_few_seeds(a_second: None, capsys: pytest.CaptureFixture[str]) -> None:
    grid = [*GRID, "epochs=8", "eval_interval=0"]  # 240 passes a seed
    assert shlex.split(printed(capsys, *grid, f"hours={3 * 240 / 3600}")[-1])[-2:] == ["epochs=4", "seed=range(6)"]
    lines = printed(capsys, *grid, f"hours={5 * 240 / 3600}")
    assert shlex.split(lines[-1])[-1] == "seed=range(5)" and "over 1 test (" in lines[-2]  # SAM against SGD
    assert "train.py" not in printed(capsys, *grid, f"hours={0.1 * 240 / 3600}", code=1)[-1]  # not one seed fits


def test_a_run_is_its_passes_its_probes_and_what_it_evaluates(tiny: Callable[..., TrainConfig]) -> None:
    """Two epochs of XSAM, two steps each on 72 images: two passes a step, and 21 probes an epoch, each a third of one."""
    config = tiny(optimizer={"method": "xsam"}, dataset={"val_fraction": 0.25})
    assert plan.seconds_of(config, 3.0) == pytest.approx(3 * 8 + 2 * 21 + 2 * (797 + 24) / 40)


def test_a_share_that_the_settings_do_not_admit_is_left_out(a_second: None, capsys: pytest.CaptureFixture[str]) -> None:
    for more, epochs in (("keep_checkpoints=[2,6]", ["16", "8"]), ("warmup_epochs=9", ["16"]), ("epochs=1", ["1"])):
        lines = printed(capsys, *GRID, "epochs=16", more, "hours=1")
        at = next(i for i, line in enumerate(lines) if "seeds that fit" in line)
        assert [line.split()[0] for line in lines[at + 1 : lines.index("", at)]] == epochs


def test_a_file_of_rates_spares_the_timing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    calls = []
    monkeypatch.setattr(plan, "seconds_per_pass", lambda config, *_: calls.append(config) or 0.5)
    line = [*GRID, "hours=1", f"rates={tmp_path / 'rates.json'}"]
    first = printed(capsys, *line, "epochs=3")
    assert len(calls) == 2
    assert printed(capsys, *line, "epochs=3") == first
    printed(capsys, *line, "epochs=2", "seed=7")  # neither changes what a pass takes
    assert len(calls) == 2
    printed(capsys, *line, "batch_size=32")
    assert len(calls) == 4
    assert set(next(iter(json.loads((tmp_path / "rates.json").read_text("utf-8")).values())).values()) == {0.5}


def test_a_pass_is_timed(tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once a reading: the loop reads it twice a step and the script once, and SAM with N = 2 has three passes a step.
    Evaluations and the first step of an epoch, in which more is read, do not count."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(plan.time, "perf_counter", lambda: float(next(ticks)))
    for steps in (3, 9):
        progress = Progress(1, "", quiet=True)
        config = tiny(epochs=1, batch_size=64, optimizer={"method": "sam", "ascent_steps": 2})
        assert plan.seconds_per_pass(config, steps, progress) == pytest.approx(1.0)
        assert progress.done >= steps


def test_the_spread_of_finished_runs(tiny: Callable[..., TrainConfig]) -> None:
    """Of differences from SGD, which was not the first, pooled by degrees of freedom: one setting lacks a seed."""
    reached: dict[tuple[str, float], list[float]] = {}
    for seed in (0, 1, 2):
        for method, rho in (("sam", 0.05), ("sgd", 0.0), *[("sam", 0.5)][: 2 - seed]):
            config = tiny(seed=seed, epochs=1, batch_size=64, optimizer={"method": method} | ({"rho": rho} if rho else {}))
            reached.setdefault((method, rho), []).append(run(config)["final"]["test_accuracy"])
    few, all_ = (np.subtract(reached["sam", rho], reached["sgd", 0.0][:n]) for rho, n in ((0.5, 2), (0.05, 3)))
    expected = math.sqrt((np.var(few, ddof=1) + 2 * np.var(all_, ddof=1)) / 3)
    assert plan.spread_of(config.runs_dir) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "hours: is missing"),
        (["hours=1", "spread=1", "runs=x"], "give one of them"),
        (["hours=-1"], "hours=-1: must be a finite number > 0"),
        (["hours=1", "runs=nowhere"], "runs_dir=nowhere"),
        (["hours=1", "rates=BAD"], "must be a JSON file that this script wrote"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad").write_text('{"here": 3}')
    assert plan.main([*GRID, *(word.replace("BAD", str(tmp_path / "bad")) for word in arguments)]) == 2
    assert words in capsys.readouterr().err
