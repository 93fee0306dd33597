"""The end of a command: runs counted by their records, and the commands that come next."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sam.config import ConfigError
from sam.runs import ending, identity, lock, progress, records
from sam.runs.progress import Progress
from sam.runs.run import run
from sam.settings import TrainConfig

Tiny = Callable[..., TrainConfig]


def end(
    plans: list[TrainConfig], capsys: pytest.CaptureFixture[str], before: int | None = 0, stop: int | None = None, **options: bool
) -> str:
    capsys.readouterr()
    try:
        with ending.summed_up():
            ending.begin(plans, before, **options)
            if stop is not None:
                raise SystemExit(stop)
    except SystemExit as leaving:
        assert leaving.code == stop
    return capsys.readouterr().out


@pytest.fixture
def plans(tiny: Tiny) -> list[TrainConfig]:
    """Of seven points: finished, finished, the second again, diverged, failed, killed, preempted, and never begun."""
    made = [tiny(seed=seed, epochs=1, batch_size=96, optimizer={"method": "sgd"}) for seed in range(7)]
    record = run(made[0])
    for config, status in zip(
        made[1:6], (records.FINISHED, records.DIVERGED, records.FAILED, records.RUNNING, records.PREEMPTED), strict=True
    ):
        own = {"fingerprint": identity.run_fingerprint(config), "identity": identity.identity(config), "status": status}
        records.write_run(identity.run_folder(config), record | own)
    return [*made[:2], made[1], *made[2:]]


def test_a_sweep_that_went_to_its_end(plans: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    counts, following = end(plans, capsys).splitlines()
    assert re.fullmatch(r"2 finished, 3 failed, 1 diverged, 1 stopped in 0:0\d\. The same command runs what is left\.", counts), (
        counts
    )  # killed, and without a record: whatever ended them, it was not asked to
    assert following == f"Next: python evaluate_sharpness.py runs_dir={plans[0].runs_dir}"
    assert end(plans[:3], capsys, before=1).startswith("2 finished (1 before), 0 failed in 0:0")
    with lock.hold(identity.run_folder(plans[5]), print):  # which its record calls running
        assert re.match(r"2 finished, 2 failed, 1 diverged, 1 stopped, 1 run by others in 0:0\d\. The same", end(plans, capsys))
    assert "left" not in end(plans[:4], capsys) and "1 diverged" in end(plans[:4], capsys)


@pytest.mark.parametrize("code", [75, 130])
def test_a_sweep_that_was_stopped(plans: list[TrainConfig], capsys: pytest.CaptureFixture[str], code: int) -> None:
    assert end(plans, capsys, stop=code).startswith("2 finished, 1 failed, 1 diverged, 2 stopped, 1 not begun in")
    assert end(plans, capsys, stop=1).startswith("2 finished, 3 failed, 1 diverged, 1 stopped in")
    forced = [replace(plan, force=True) for plan in plans]
    assert "runs what is left, and redoes what is finished (force=true).\n" in end(forced, capsys, stop=code)


def test_one_run_and_what_was_only_submitted(plans: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    following = f"python evaluate_sharpness.py runs_dir={plans[0].runs_dir}"
    assert end(plans[:1], capsys, before=None) == f"Next: {following}\n"
    assert end(plans[-1:], capsys, before=None) == ""
    assert end(plans, capsys, waits=False) == f"Next: python scripts/status.py runs_dir={plans[0].runs_dir}\n"


def test_it_is_told_once_and_never_without_a_plan(plans: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    end(plans, capsys)
    with pytest.raises(ConfigError), ending.summed_up():
        raise ConfigError("nothing was planned")
    assert capsys.readouterr().out == ""


def test_folders_of_any_name(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    plans = [tiny(runs=f"it's\x1b[31m {name}", epochs=1, batch_size=96) for name in "abcd"]
    run(plans[0])
    lines = end(plans, capsys).splitlines()
    assert len(lines) == 1 + ending.MOST_COMMANDS and all(line.isprintable() for line in lines)


def test_the_sweeps_progress_ends_with_it(plans: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    for stop, said in ((None, True), (75, False)):
        progress.share(Progress(100, "sweep"))
        capsys.readouterr()
        try:
            with ending.summed_up():
                if stop is not None:
                    raise SystemExit(stop)
        except SystemExit:
            pass
        assert ("100%" in capsys.readouterr().err) == said and progress.shared is None


# ------------------------------------------------------------------------------------------------------------- another run


def test_another_run_says_what_differs(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny(epochs=1, batch_size=96))
    assert "another run" not in capsys.readouterr().err
    run(tiny(epochs=2, batch_size=96))
    name = identity.run_name(tiny(epochs=1, batch_size=96))
    assert f"another run than {name}: epochs 2 instead of 1\n" in capsys.readouterr().err
    assert records.another(tiny(epochs=2, batch_size=96)) is None  # it is there
    assert records.another(tiny(epochs=3, batch_size=64)) is None  # two keys
    assert records.another(tiny(epochs=1, batch_size=96, seed=1)) is None  # another name
    assert records.another(tiny(epochs=3, batch_size=96, run_dir="mine")) is None
    assert records.another(tiny(epochs=1)) == f"another run than {name}: batch_size 40 instead of 96"
    assert records.another(tiny(epochs=1), [Path(tiny().runs_dir) / name]) is None
    usual = records.another(tiny(epochs=1, batch_size=96, optimizer={"lr": 0.2}))
    assert usual == f"another run than {name}: optimizer.lr 0.2 instead of 0.1"  # the default, which an identity leaves out


@pytest.mark.parametrize("content", [b"", b"[]", b'{"identity": 3}', b'{"identity": {"epochs": {"a": "\\u001b[31m"}}}', None])
def test_a_damaged_neighbour_keeps_nobody_from_running(tiny: Tiny, content: bytes | None) -> None:
    config = tiny(epochs=1, batch_size=96)
    folder = identity.run_folder(config)
    neighbour = folder.with_name(f"{folder.name[:-8]}00000000")
    neighbour.mkdir(parents=True)
    if content is None:
        (neighbour / "run.json").mkdir()
    else:
        (neighbour / "run.json").write_bytes(content)
    assert records.another(config) is None
    assert run(config)["status"] == "finished"


def test_a_key_that_no_run_reads_is_told_once(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    sgd, sam = (tiny(epochs=1, optimizer={"method": method}) for method in ("sgd", "sam"))
    given = ["optimizer.rho=0.1", "optimizer.alpha=0.5,1", "+model.timm_name=x", "epochs=1", "optimizer.step_rule=project"]
    told = lambda plans: (ending.begin(plans, given=given), capsys.readouterr().err)[1]
    unread = "".join(f"note: {line}: no run here reads this key.\n" for line in (given[1], given[2], given[4]))
    assert told([sgd, sam]) == unread  # step_rule: with one step there is nothing to choose
    assert told([sgd]) == f"note: {given[0]}: no run here reads this key.\n{unread}"
    assert told([tiny(optimizer={"method": "xsam"})]) == "".join(line for line in unread.splitlines(keepends=True) if "alpha" not in line)


def test_a_file_of_weights_that_is_gone_at_the_end(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny(epochs=1))
    file = tmp_path / "weights.pt"
    shutil.copy(identity.run_folder(tiny(epochs=1)) / "checkpoint.pt", file)
    config = tiny(runs="second", epochs=1, init_from=str(file))
    with ending.summed_up():
        ending.begin([config], 0)
        run(config)
        file.unlink()
    assert "1 finished, 0 failed" in capsys.readouterr().out
