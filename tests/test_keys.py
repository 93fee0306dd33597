"""docs/keys.md and --help list every key, and neither needs torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam.optimizers.settings import METHODS
from sam.runs.help import COMMANDS, keys, markdown, methods

ROOT = Path(__file__).resolve().parents[1]


def printed(*arguments: str) -> str:
    """What it prints, in a process that cannot import torch."""
    code = "import runpy, sys; sys.modules['torch'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False, **process)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_docs_keys_is_what_the_script_writes() -> None:
    assert markdown() == (ROOT / "docs" / "keys.md").read_text("utf-8"), "python scripts/keys.py"


def test_docs_methods_has_the_table_and_a_section_for_every_method() -> None:
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    assert page.count(methods()) == 1, "python scripts/keys.py"
    headings = " ".join(line for line in page.splitlines() if line.startswith("## "))
    assert not [row.label for row in METHODS.values() if not row.is_foreign and row.label not in headings]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_key(command: str) -> None:
    words = printed(command, "--help").split()
    found = [name for name, *_ in keys(COMMANDS[command])]
    assert len(found) > 60 and not [name for name in found if not {name} & {word.partition("=")[0] for word in words}]
