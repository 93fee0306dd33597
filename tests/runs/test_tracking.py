"""Tracking mirrors the record, and never decides about a run."""

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig
from sam.runs import identity, records, tracking
from sam.runs.command import BASE
from sam.runs.progress import Progress
from sam.runs.run import run
from sam.runs.tracking import series, sync_command
from sam.schema import to_dict
from sam.settings import TrackingConfig, TrainConfig
from sam.training.loop import Trainer

Tiny = Callable[..., TrainConfig]
Calls = list[tuple[str, Any]]


class FakeRun:
    def __init__(self, calls: Calls, failing: str, error: BaseException, epoch: int | None, mode: str) -> None:
        self.calls, self.failing, self.error, self.settings = calls, failing, error, types.SimpleNamespace(mode=mode)
        self.summary = types.SimpleNamespace(update=lambda values: self._note("summary", values), get={"epoch": epoch}.get)

    def _note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if name == self.failing:
            raise self.error

    def define_metric(self, *names: str, step_metric: str = "") -> None:
        self._note("define_metric", step_metric)

    def log(self, values: dict[str, float], step: int, commit: bool) -> None:
        self._note("log", values)

    def mark_preempting(self) -> None:
        self._note("mark_preempting", None)

    def finish(self, exit_code: int) -> None:
        self._note("finish", exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Installs a fake wandb that fails where told, with a server that has rows up to `epoch`; returns the list of its calls."""

    def install(failing: str = "", error: BaseException | None = None, key: str | None = None, epoch: int | None = None) -> Calls:
        calls: Calls = []
        module: Any = types.ModuleType("wandb")
        problem = error or RuntimeError("the server is gone")

        class CommError(Exception):
            pass

        class UsageError(Exception):
            pass

        def init(**options: Any) -> FakeRun:
            calls.append(("init", options))
            if failing == "init":
                raise problem
            if failing == "online" and options["mode"] == "online":
                raise CommError("no route")
            return FakeRun(calls, failing, problem, epoch, options["mode"])

        module.init, module.api, module.Settings = init, types.SimpleNamespace(api_key=key), lambda **options: options
        module.teardown = lambda: calls.append(("teardown", None))
        module.login = lambda **options: key is not None
        module.errors = types.SimpleNamespace(CommError=CommError, UsageError=UsageError)
        monkeypatch.setitem(sys.modules, "wandb", module)
        monkeypatch.setattr(tracking, "_unreachable_until", 0.0)
        monkeypatch.setattr(tracking, "_told", set())
        monkeypatch.setattr(tracking, "Apart", tracking.WandbTracker)  # in this process, where the fake is
        for variable in ("WANDB_API_KEY", "WANDB_MODE"):
            monkeypatch.delenv(variable, raising=False)
        return calls

    return install


def test_it_mirrors_rows_and_summary(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb()
    config = tiny(tracking={"backend": "wandb", "project": "mine"}, optimizer={"method": "xsam"})
    record = run(config)
    assert [name for name, _ in calls] == ["init", *["define_metric"] * 4, "log", "log", "summary", "finish"]
    options = calls[0][1]
    assert (options["id"], options["name"], options["project"]) == (record["fingerprint"], "XSAM N=1 rho=0.1 seed=0", "mine")
    assert options["mode"] == "offline" and options["resume"] == "allow"  # no key, so nothing waits for a server
    assert options["config"]["optimizer"]["rho"] == 0.1
    assert options["group"] == "digits, 96 training images WRN-10-1 tiwary2024 2 epochs lr 0.1 batch_size=40 crop_padding=0 flip=False"
    assert (options["tags"], options["notes"]) == (None, None)  # W&B's own variables decide
    assert options["config"]["commit"] == record["environment"]["commit"]
    assert options["config"]["data_fingerprint"] == record["data"]["fingerprint"]
    rows = [values for name, values in calls if name == "log"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["test/accuracy"] == record["final"]["test_accuracy"] and not any("probe_losses" in key for key in rows[1])
    assert (rows[1]["cost/grad_evals"], rows[1]["cost/forwards"]) == (record["cost"]["backwards"], record["cost"]["forwards"])
    assert rows[1]["cost/wall_s"] == record["seconds"] > rows[1]["cost/train_s"]
    assert calls[-2][1]["status"] == "finished" and calls[-2][1]["final/test_loss"] == record["final"]["test_loss"]
    assert calls[-1][1] == 0


def test_group_tags_and_notes_stay_those_of_the_run_when_it_is_measured(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb()
    config = tiny(tracking={"backend": "wandb", "group": "mine", "tags": ["a", "b"], "notes": "why"}, epochs=1)
    record = run(config)
    folder = identity.run_folder(config)
    measuring = TrackingConfig(backend="wandb", group="other", mode="offline")
    untracked = record | {"config": record["config"] | {"tracking": TrainConfig().tracking.__dict__}}
    tracking.mirror_sharpness(measuring, [(folder, record, {"gap": 1.0}), (folder, untracked, {"gap": 1.0})])
    told = [tuple(options[key] for key in ("group", "tags", "notes", "id")) for name, options in calls if name == "init"]
    own = ("mine", ["a", "b"], "why", record["fingerprint"])
    assert told == [own, own, ("other", None, None, record["fingerprint"])]


def test_the_group_that_the_docs_and_the_dashboard_show_is_a_default_one(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls, config = wandb(), tiny(epochs=1)
    record = run(config) | {"config": to_dict(BASE), "identity": identity.identity(BASE)}
    tracking.mirror_sharpness(TrackingConfig(backend="wandb", mode="offline"), [(identity.run_folder(config), record, {"gap": 1.0})])
    for page in ("docs/wandb.md", "scripts/dashboard.py"):
        assert re.search(f'[`"]{re.escape(calls[0][1]["group"])}[`"]', (tracking.ROOT / page).read_text()), page


@pytest.mark.parametrize("key", ["group", "tags", "notes"])
@pytest.mark.parametrize("value", ["", " ", "two\nlines", "\x1b[31m", 5000 * "x"])
def test_a_text_that_is_no_line_is_refused(key: str, value: str) -> None:
    config = TrackingConfig(**{key: [value] if key == "tags" else value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"tracking.{key}="):
        config.check_names()


def test_why_it_is_offline_is_said_once_and_one_command_uploads_it(
    tiny: Tiny, wandb: Callable[..., Calls], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wandb()
    folders = [identity.run_folder(tiny(runs="my runs", seed=seed)) for seed in (0, 1, 2)]
    for seed, folder in enumerate(folders):
        run(tiny(runs="my runs", tracking={"backend": "wandb"}, epochs=1, seed=seed))
        (folder / "wandb" / "offline-run-1-a").mkdir(parents=True)
        (folder / "wandb" / "offline-run-1-a" / "run-a.wandb").touch()
    assert capsys.readouterr().err.count("logging offline") == 1
    assert sync_command(folders) == f"wandb sync '{tmp_path}/my runs'/*/wandb/offline-run-*"
    for folder in folders[:2]:
        (folder / "wandb" / "offline-run-1-a" / "run-a.wandb.synced").touch()
    assert sync_command(folders) == f"wandb sync '{folders[2]}'/wandb/offline-run-*"
    assert sync_command(folders[:2]) is None


@pytest.mark.parametrize("error", [RuntimeError("the server is gone"), OSError(), ValueError("two\nlines"), ValueError("")])
@pytest.mark.parametrize("failing", ["init", "define_metric", "log", "summary", "finish"])
def test_its_failure_ends_tracking_and_nothing_else(
    tiny: Tiny, wandb: Callable[..., Calls], capsys: pytest.CaptureFixture[str], failing: str, error: Exception
) -> None:
    calls = wandb(failing, error)
    config = tiny(tracking={"backend": "wandb"}, epochs=1, batch_size=96)
    assert run(config)["status"] == "finished"
    record = records.read_run(identity.run_folder(config))
    assert record is not None and record["status"] == "finished"
    assert capsys.readouterr().err.count("warning: tracking stopped") == 1
    assert [name for name, _ in calls][-1] == failing  # not called again after its failure


@pytest.mark.parametrize(("variable", "mode"), [("disabled", "disabled"), ("offline", "offline"), ("online", "offline")])
def test_the_variable_decides_before_the_credentials(
    tiny: Tiny, wandb: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch, variable: str, mode: str
) -> None:
    calls = wandb(key=None if variable == "online" else "secret")  # online without a key: nobody is asked for one
    monkeypatch.setenv("WANDB_MODE", variable)
    run(tiny(tracking={"backend": "wandb"}, epochs=1))
    assert [options["mode"] for name, options in calls if name == "init"] == [mode]


def test_a_server_that_did_not_answer_is_left_alone_for_a_while(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb("online", key="secret")
    for seed in (0, 1):
        run(tiny(tracking={"backend": "wandb"}, epochs=1, seed=seed))
    assert [options["mode"] for name, options in calls if name == "init"] == ["online", "offline", "offline"]


def test_rows_that_the_server_has_are_not_logged_again(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb(key="secret", epoch=2)
    run(tiny(tracking={"backend": "wandb"}, epochs=4))
    assert [values["epoch"] for name, values in calls if name == "log"] == [3, 4]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_under_an_agent_a_run_is_the_agents_and_stays_it(
    tiny: Tiny, wandb: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """wandb itself takes project, entity and id from the agent; measured later, without one, the run is found by the folder it left."""
    calls = wandb(key="secret")
    config = tiny(tracking={"backend": "wandb", "mode": mode, "entity": "team"}, epochs=1)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents-1")
    record, folder = run(config), identity.run_folder(config)
    assert [(o["project"], o["entity"], o["id"]) for name, o in calls if name == "init"] == [(None, None, None)]
    monkeypatch.delenv("WANDB_SWEEP_ID")
    monkeypatch.delenv("WANDB_RUN_ID")
    assert tracking.run_id(record, folder) == record["fingerprint"]
    (folder / "wandb" / "offline-run-20260101_000000-agents-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").mkdir()
    assert tracking.run_id(record, folder) == "agents-1"
    tracking.mirror_sharpness(config.tracking, [(folder, record, {})])
    assert calls[-1] == ("finish", 0) and [o["id"] for name, o in calls if name == "init"] == [None, "agents-1"]


def test_a_run_redone_replaces_the_one_before(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb()
    run(tiny(tracking={"backend": "wandb"}, epochs=1))
    run(tiny(tracking={"backend": "wandb"}, epochs=1, force=True))
    assert [options["resume"] for name, options in calls if name == "init"] == ["allow", None]
    assert [values["epoch"] for name, values in calls if name == "log"] == [1, 1]


def test_a_redone_run_that_is_interrupted_goes_on_in_the_one_begun(
    tiny: Tiny, wandb: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = wandb()
    config, train = tiny(tracking={"backend": "wandb"}, force=True), Trainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", lambda self, *given: 1 / 0 if self.epoch else train(self, *given))
        with pytest.raises(ZeroDivisionError):
            run(config)
    run(config)
    assert [options["resume"] for name, options in calls if name == "init"] == [None, "allow"]


def test_a_run_about_to_be_continued_says_so_before_it_ends(tiny: Tiny, wandb: Callable[..., Calls], tmp_path: Path) -> None:
    calls = wandb()
    config = tiny(tracking={"backend": "wandb"}, epochs=1)
    record = run(config)
    tracker = tracking.Apart(config, record, tmp_path)
    tracker.finish(record | {"status": "preempted"})
    tracker.finish(record | {"status": "preempted"})  # the second time there is nothing to do
    assert calls[-2:] == [("mark_preempting", None), ("finish", 1)]


def test_no_server_means_offline(tiny: Tiny, wandb: Callable[..., Calls], capsys: pytest.CaptureFixture[str]) -> None:
    calls = wandb("online", key="secret")
    assert run(tiny(tracking={"backend": "wandb"}, epochs=1))["status"] == "finished"
    assert [options["mode"] for name, options in calls if name == "init"] == ["online", "offline"]
    assert [name for name, _ in calls][:3] == ["init", "teardown", "init"]  # or the id would still be taken
    assert calls[-1] == ("finish", 0)
    assert "no W&B server" in capsys.readouterr().err


def test_without_wandb_installed_the_run_goes_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    monkeypatch.setattr(tracking, "Apart", tracking.WandbTracker)
    assert run(tiny(tracking={"backend": "wandb"}, epochs=1))["status"] == "finished"
    assert "warning: tracking stopped" in capsys.readouterr().err


def test_without_tracking_wandb_is_not_imported(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(tiny(epochs=1))["status"] == "finished"
    assert "tracking" not in capsys.readouterr().err


def test_a_run_that_dies_is_marked_as_failed(tiny: Tiny, wandb: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = wandb()

    def interrupt(self: Progress, units: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tracking={"backend": "wandb"}))
    assert calls[-1] == ("finish", 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "sam"}, "SAM N=1 rho=0.05"),
        ({"method": "sam", "radius": "uniform"}, "SAM N=1 rho=0.05 uniform"),
        ({"method": "xsam", "radius": "uniform"}, "XSAM N=1 rho=0.05"),
        ({"method": "weighted_sam", "normalized": False}, "Weighted SAM rho=0.05 normalized=False"),
        ({"method": "sam", "ascent_steps": 3, "descent_gradient": "mean"}, "SAM N=3 rho=0.05 descent_gradient=mean"),
        ({"method": "sgd", "lr": 0.3, "weight_decay": 0.002}, "SGD weight_decay=0.002"),
    ],
)
def test_a_series_is_one_setting(options: dict[str, Any], expected: str) -> None:
    assert series(OptimizerConfig.of(**options)) == expected


def test_settings_that_no_series_names_have_groups_of_their_own(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb()
    other = [{"batch_size": 24}, {"precision": "bf16"}, {"optimizer": {"momentum": 0.5}}, {"augmentation": {"flip": True}}]
    other += [{"model": {"dropout": 0.1}}, {"model": {"shortcut": "zero_pad"}}, {"dataset": {"val_fraction": 0.1}}]
    for settings in ({}, *other, {"seed": 3}, {"optimizer": {"rho": 0.3}}):
        run(tiny(tracking={"backend": "wandb"}, epochs=1, **settings))
    groups = [options["group"] for name, options in calls if name == "init"]
    assert len({*groups[:8]}) == 8 and groups[8] == groups[9] == groups[0]


def test_groups_that_are_too_long_for_wandb_stay_two(tiny: Tiny, wandb: Callable[..., Calls]) -> None:
    calls = wandb()
    for size in (24, 48):
        run(tiny(tracking={"backend": "wandb"}, epochs=1, batch_size=size, protocol={"name": 99 * "p"}))
    groups = [options["group"] for name, options in calls if name == "init"]
    assert len({*groups}) == 2 and {len(group) for group in groups} == {128}
