"""A wandb that raises, at whatever call: the real command trains to the end."""

import json
from pathlib import Path

from real_commands import Commands

CALLS = ("Settings", "login", "init", "summary.get", "define_metric", "log", "summary.update", "finish")
BROKEN_WANDB = f'''
"""The n-th run fails at the n-th of these calls."""
import os
CALLS = {CALLS}
now = None

class CommError(Exception): ...
class UsageError(Exception): ...
class errors: CommError, UsageError = CommError, UsageError

def call(name):
    if name == now:
        raise RuntimeError("broken at " + name)

class Summary:
    def get(self, key): call("summary.get")
    def update(self, values): call("summary.update")

class Run:
    summary = Summary()
    def define_metric(self, name, step_metric=None): call("define_metric")
    def log(self, values, step, commit): call("log")
    def finish(self, exit_code): call("finish")

def Settings(**values):
    global now
    with open(os.path.join(os.path.dirname(__file__), "runs"), "ab") as count:  # each run has a process of its own
        now = CALLS[count.tell()]
        count.write(b".")
    call("Settings")

def login(**options):
    call("login")
    return True

def init(**options):
    call("init")
    return Run()
'''


def test_a_wandb_that_raises_anywhere_costs_one_warning(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(BROKEN_WANDB)
    seeds = f"seed=range({len(CALLS)})"
    done = commands.train(seeds, "epochs=1", "-m", environment={"PYTHONPATH": str(tmp_path / "fake")})
    assert done.returncode == 0, done.stderr
    for name in CALLS:
        assert done.stderr.count(f"warning: tracking stopped (RuntimeError: broken at {name}); the run goes on.") == 1
    assert done.stderr.count("warning") == len(CALLS)
    statuses = [json.loads(path.read_text())["status"] for path in commands.folder.glob("runs/*/run.json")]
    assert statuses == ["finished"] * len(CALLS)
