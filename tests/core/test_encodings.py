"""Files are text in UTF-8 wherever the machine thinks otherwise."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("sam", "models", "data", "scripts", "hydra_plugins")
BINARY = ("Image", "os", "tarfile", "archive", "lzma", "zipfile")  # whose `open` takes no encoding


def unsaid(tree: ast.AST) -> list[int]:
    """Lines on which text is read or written by the locale's encoding."""
    lines = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
        owner = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        text = name in ("read_text", "write_text") or (name == "open" and owner not in BINARY and not any("b" in m for m in modes[:2]))
        said = "encoding" in [keyword.arg for keyword in call.keywords] or (name == "read_text" and call.args)
        if text and not said:
            lines.append(call.lineno)
    return lines


def test_every_file_is_opened_with_its_encoding() -> None:
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): lines for path in files if (lines := unsaid(ast.parse(path.read_text(encoding="utf-8"))))}
    assert len(files) > 100 and not found
    assert unsaid(ast.parse("p.read_text(); open(p); p.open('w'); open(p, 'rb'); p.read_text(encoding='utf-8')")) == [1, 1, 1]


@pytest.mark.slow
def test_a_run_is_trained_and_measured_in_ascii(tmp_path: Path) -> None:
    """LC_ALL=C without UTF-8 mode, in a folder whose name is not ASCII: what stands in files is as ever, the terminal gets escapes."""
    runs = tmp_path / "räume ρ"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    tiny = ["dataset=digits", "model=wrn_10_1", "dataset.train_size=64", "batch_size=32", "epochs=1", "threads=1", "device=cpu"]

    def run(*line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, *line], cwd=ROOT, env=environment, capture_output=True, timeout=240)

    trained = run("train.py", "-m", "seed=0,1", *tiny, f"runs_dir='{runs}'")
    assert trained.returncode == 0, trained
    measured = run("evaluate_sharpness.py", f"runs_dir='{runs}'", "threads=1", "device=cpu", "sharpness.m=32")
    assert measured.returncode == 0 and measured.stdout.isascii() and b"\\xb1" in measured.stdout, measured
    assert "±" in (runs / "tables" / "table2.md").read_text(encoding="utf-8")
    refused = run("train.py", *tiny, "optimizer.step_rule='ρ'")
    assert refused.returncode == 2 and refused.stderr.startswith(b"error: optimizer.step_rule="), refused
    assert run("scripts/status.py", f"runs_dir='{runs}'").returncode == 0
