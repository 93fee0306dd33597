"""The house plan (DESIGN.md) in numbers: budgets of lines, and the arrows that import-linter does not see. Run as a program, it prints
the lines of each room."""

import ast
import csv
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTER = ("train.py", "evaluate_sharpness.py", "scripts", "hydra_plugins")  # what may import sam, models and data, and nobody imports
FILES = sorted(
    path
    for top in ("sam", "models", "data", *OUTER)
    for path in ([ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*"))
    if path.suffix in (".py", ".css", ".js", ".sh")
)
PATH_OF_A_RUN = (
    "train.py",
    "sam/runs/run.py",
    "sam/training/loop.py",
    "sam/optimizers/base.py",
    "sam/optimizers/sam.py",
    "sam/core/ascent.py",
)


def lines(*names: str) -> int:
    return sum(len((ROOT / name).read_text("utf-8").splitlines()) for name in names)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rooms() -> Counter[str]:
    """Lines of each room: packages of sam, the other top-level folders, the entry points."""
    counts = Counter[str]()
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        counts["/".join(parts[: 2 if parts[0] == "sam" else 1])] += lines(name_of(path))
    return counts


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (("sam/config.py",), 150),
        (PATH_OF_A_RUN, 1000),
        (PATH_OF_A_RUN[:3], 500),
        # The house 14,000; claims and plans 900, theory and direction 700, the family 900; what a reader takes away, the rest.
        (tuple(map(name_of, FILES)), 18_280),
    ],
    ids=["machinery", "path of a run", "train, run, loop", "all code"],
)
def test_budget(names: tuple[str, ...], most: int) -> None:
    assert lines(*names) <= most


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_longer_than_350_lines(path: Path) -> None:
    assert lines(name_of(path)) <= 350


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=name_of)
def test_nobody_imports_an_entry_point_or_a_script(path: Path) -> None:
    """But for scripts/arguments.py, which every script imports first; and the SLURM launcher its base class, of a plug-in outside."""
    outer = {Path(name).stem for name in OUTER} | {script.stem for script in (ROOT / "scripts").glob("*.py")}
    found = {name for name in imported(path) if name.split(".")[0] in outer}
    allowed = {"arguments"} if path.parent.name == "scripts" else set()
    assert {name for name in found if not name.startswith("hydra_plugins.hydra_submitit_launcher")} <= allowed


def test_the_plans_tree_is_the_tree() -> None:
    """docs/design.md names each top-level folder and program, and each file and room of sam."""
    block = (ROOT / "docs" / "design.md").read_text("utf-8").split("```")[1]
    named, within = set(), ""
    for line in block.strip().splitlines():
        name = line.split()[0].rstrip("/")
        within = within if line.startswith("  ") else ""
        named.add(f"{within}{name}")
        within = within or f"{name}/"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    there = {name.split("/")[0] for name in tracked if "/" in name or name.endswith(".py")} - {".ci"}
    there |= {"/".join(name.split("/")[:2]) for name in tracked if name.startswith("sam/") and not name.endswith("__init__.py")}
    assert {name.split("/")[0] if name.startswith("examples/") else name for name in named} == there


def test_no_committed_text_is_torn() -> None:
    """Marks of a merge in any file, or rows of a table that are shorter or longer than its header."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for path in (ROOT / name for name in names if name.endswith((".py", ".md", ".yaml", ".sh", ".toml", ".txt", ".csv"))):
        text = path.read_text("utf-8")
        assert not re.search(r"^(<<<<<<<|\|\|\|\|\|\|\||>>>>>>>) ", text, re.MULTILINE), path
        if path.suffix == ".csv" and "results" in path.parts:
            assert len({len(row) for row in csv.reader(text.splitlines())}) <= 1, path


if __name__ == "__main__":
    for room, count in sorted(rooms().items()):
        print(f"{count:>6,}  {room}")
    print(f"{rooms().total():>6,}  in all")
