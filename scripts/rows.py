"""Pack the records of finished runs into one small file, and unpack them again: runs to share and to keep without their checkpoints.

    python scripts/rows.py pack=results/campaign/rows runs_dir=runs/campaign     # what is finished and not packed yet: one new file there
    python scripts/rows.py unpack=results/campaign/rows runs_dir=runs/campaign   # folders with run.json, metrics.csv, sharpness.json
    python scripts/rows.py unpack=results/campaign/rows branch=main runs_dir=runs/campaign   # the same, as committed on that branch

An unpacked run counts as finished: train.py skips it, and evaluate_sharpness.py tabulates its measures; to measure more it needs the
checkpoint, whose SHA-256 the record holds. A folder with a run.json, or with files of another origin, is never written to; one without
run.json that holds only files of the pack, whole or half written, is of an unpacking that was cut short, and is completed.
"""

import json
import lzma
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from arguments import parse, script

from data import regular_file, usable_folder
from sam.core.files import DamagedError, check, write_atomic
from sam.runs import records
from sam.text import counted

FILES = (records.RUN, records.METRICS, records.MEASURES)
Packed = dict[str, dict[str, str]]  # folder below runs_dir -> file -> text


def files(folder: str, branch: str | None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of a folder's packed files, by name; with `branch`, as committed there (none if it has no such folder)."""
    if branch is None:
        yield from ((str(path), regular_file(path).read_bytes()) for path in sorted(Path(folder).glob("*.json.xz")))
        return
    listed = subprocess.run(["git", "ls-tree", "--name-only", branch, f"{folder.rstrip('/')}/"], capture_output=True, text=True)
    if listed.returncode:
        raise ValueError(f"branch={branch}: must be a branch or commit that git can list {folder} of ({listed.stderr.strip()}).")
    for name in (line for line in listed.stdout.splitlines() if line.endswith(".json.xz")):
        yield name, subprocess.run(["git", "show", f"{branch}:./{name}"], capture_output=True, check=True).stdout


def packed(folder: str, branch: str | None = None) -> Packed:
    """All runs of a folder's files; a later file's row of a run replaces an earlier one's."""
    runs: Packed = {}
    for file, content in files(folder, branch):
        try:
            check(found := json.loads(lzma.decompress(content)), {...: {records.RUN: str, ...: str}})
        except (lzma.LZMAError, ValueError, EOFError) as error:
            raise ValueError(f"{file}: is no file of packed runs, or is cut short ({error}).") from error
        if outside := [name for name in found if ".." in Path(name).parts or Path(name).is_absolute()]:
            raise ValueError(f"{file}: the place of {outside[0]} is not below runs_dir; nothing was written.")
        runs |= found
    return runs


def pack(folder: str, runs_dir: Path) -> str:
    from sam.evaluation.storing import stored  # imports torch, for which unpacking need not wait

    if not os.path.isdir(runs_dir):
        raise ValueError(f"runs_dir={runs_dir}: there is no such folder.")
    usable_folder(folder, "pack")
    known, new = packed(folder), Packed()
    damaged: dict[Path, str] = {}
    for run, record in records.find_runs(runs_dir, damaged):
        if records.is_done(record):
            try:
                records.read_metrics(run, record)
                stored(run / records.MEASURES, record["fingerprint"])
            except DamagedError as error:
                damaged[run] = str(error)
                continue
            texts = {name: (run / name).read_text(encoding="utf-8") for name in FILES if (run / name).exists()}
            if known.get(name := run.relative_to(runs_dir).as_posix()) != texts:
                new[name] = texts
    if not new and not damaged:
        return f"{runs_dir}: nothing new to pack."
    last = max((int(path.name[:3]) for path in Path(folder).glob("[0-9][0-9][0-9].json.xz")), default=-1)
    path = Path(folder) / f"{last + 1:03}.json.xz"
    if new:
        write_atomic(path, lzma.compress(json.dumps(new, sort_keys=True).encode(), preset=9))
    if damaged:
        raise DamagedError(f"{counted(len(new), 'run')} packed, and these cannot be: {' '.join(damaged.values())}")
    return f"{path}: {counted(len(new), 'run')}, {path.stat().st_size:,} bytes."


def lacking(run: Path, texts: Mapping[str, str]) -> bool:
    """Whether there is no such folder, or only what an unpacking leaves that ends before the record, its last file."""
    left = os.listdir(run) if run.is_dir() else [records.RUN] * run.exists()
    known, of = texts.keys() & FILES, lambda name: re.sub(r"^[0-9a-f]{12}\.(.+)\.tmp$", r"\1", name)  # write_atomic of sam.core.files
    same = lambda path: path.is_file() and path.read_bytes() == texts[path.name].encode()
    return records.RUN not in left and all(same(run / name) if name in known else of(name) in known for name in left)


def unpack(folder: str, runs_dir: Path, branch: str | None) -> str:
    if branch is None and not os.path.isdir(folder):
        raise ValueError(f"unpack={folder}: there is no such folder.")
    usable_folder(runs_dir, "runs_dir")
    if not (runs := packed(folder, branch)):
        raise ValueError(f"unpack={folder}{f', branch={branch}' if branch else ''}: holds no packed runs; must be what pack= wrote.")
    new = [name for name, texts in runs.items() if lacking(runs_dir / name, texts)]
    same = lambda path, text: path.is_file() and path.read_bytes() == text.encode()
    older = [name for name in runs if name not in new and not all(same(runs_dir / name / file, text) for file, text in runs[name].items())]
    other = f", {len(older)} of them with other content, such as {older[0]}; move them to unpack these" if older else ""
    for name in new:
        for file in (f for f in reversed(FILES) if f in runs[name]):  # the record last: a folder without it is no run yet
            write_atomic(runs_dir / name / file, runs[name][file])
    return f"{runs_dir}: {len(new)} of {len(runs)} packed runs unpacked; the others were there{other}."


@script
def main(arguments: list[str]) -> int:
    own, _ = parse({"pack": str, "unpack": str, "branch": str, "runs_dir": "runs"}, arguments)
    if (own["pack"] is None) == (own["unpack"] is None):
        raise ValueError("give pack=FOLDER or unpack=FOLDER, and only one of them.")
    runs_dir = Path(own["runs_dir"])
    print(pack(own["pack"], runs_dir) if own["pack"] else unpack(own["unpack"], runs_dir, own["branch"]))
    return 0
