"""docs/plugins.md quotes these files as they are; its commands work, and what README.md shows of plug-ins."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXT = (ROOT / "docs" / "plugins.md").read_text("utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("piece", blocks("python"))
def test_quoted_code_is_the_files_own(piece: str) -> None:
    name, _, code = piece.partition("\n")
    assert code in (HERE / name.removeprefix("# ")).read_text("utf-8")


def test_it_is_short_and_quotes_every_file() -> None:
    assert TEXT.count("\n") <= 150
    named = {piece.partition("\n")[0].removeprefix("# ") for piece in blocks("python")}
    assert named == {path.name for path in HERE.glob("*.py") if not path.name.startswith(("test_", "conf", "all_of"))}


COMMANDS = [(HERE, line) for block in blocks("bash") for line in block.splitlines()]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS += [(ROOT, line) for block in blocks("bash", README) for line in block.splitlines() if "plugin" in line.lower()]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "line"), COMMANDS)
def test_commands_work(folder: Path, line: str, tmp_path: Path) -> None:
    """Composed, planned or collected, but not trained."""
    words = shlex.split(line, comments=True)
    at = words.index("python")
    settings, arguments = dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]
    if arguments[:2] == ["../../train.py", "-m"]:  # planned
        arguments = ["../../scripts/grid.py", *arguments[2:]]
    dry = {"-m": ["--collect-only"], "../../scripts/grid.py": [f"runs_dir={tmp_path}"]}.get(arguments[0], ["--cfg", "job"])
    dry = [] if "--help" in arguments else dry
    done = subprocess.run(
        [sys.executable, *arguments, *dry], cwd=folder, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
