"""Judge the claims: one verdict a claim, from finished runs as they were measured, or from committed rows.

    python scripts/claims.py runs_dir=runs/campaign                    # prints the ledger
    python scripts/claims.py rows=results/campaign/rows                # the same from packed rows (scripts/rows.py), without checkpoints
    python scripts/claims.py runs_dir=runs/mine claims=my/claims       # your own documents (docs/claims.md)
    python scripts/claims.py runs_dir=runs/mine 'picks={R: 0.2}'       # a pick that is not made from tuning runs
    python scripts/claims.py rows=results/campaign/rows out=ledger readme=README.md

out: a folder for ledger.md, .csv, .tex and .json. readme: a page whose short ledger, between two markers, is written anew. hashes: the
plan's list of hashes; only a claim in it is confirmatory, and one that was edited since has no verdict. Nothing is measured.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml
from arguments import ROOT, parse, script

from data import usable_folder
from sam.config import ConfigError, check_number
from sam.core.files import write_atomic
from sam.evaluation.evaluate import stored_runs
from sam.evaluation.settings import EvaluateConfig
from sam.tables import ledger, render
from sam.tables.claims import PICKS
from sam.tables.conditions import RunRow
from sam.tables.latex import latex_full
from sam.tables.verdicts import judge
from sam.text import counted


def unpacked(rows: str, problems: list[str]) -> list[RunRow]:
    """The runs of packed rows; their folders as they were packed."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(ROOT / "scripts" / "rows.py"), f"unpack={rows}", f"runs_dir={place}"]
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            raise ConfigError(f"rows={rows}: {done.stderr.strip().removeprefix('error: ')}")
        runs = stored_runs(EvaluateConfig(runs_dir=place), problems)
        return [replace(run, folder=Path(run.folder).relative_to(place).as_posix()) for run in runs]


@script
def main(arguments: list[str]) -> int:
    own, _ = parse({"runs_dir": str, "rows": str, "claims": str, "hashes": str, "picks": "{}", "out": str, "readme": str}, arguments)
    if (own["runs_dir"] is None) == (own["rows"] is None):
        raise ConfigError("give runs_dir=FOLDER or rows=FOLDER, and only one of them.")
    if own["out"]:
        usable_folder(own["out"], "out")
    try:
        given = dict(yaml.safe_load(own["picks"]))
        for name, value in given.items():
            check_number(f"picks.{name}", value)
    except (yaml.YAMLError, ValueError, TypeError):
        raise ConfigError(f"picks={own['picks']}: must hold names and numbers, as in 'picks={{R: 0.2}}'.") from None
    folder = Path(own["claims"] or ledger.CLAIMS)
    hashes = Path(own["hashes"]) if own["hashes"] else ledger.HASHES if folder.resolve() == ledger.CLAIMS else None
    documents, problems = ledger.documents(folder, hashes, given), list[str]()
    if unused := given.keys() - {name for claim, _ in documents for name in (*claim.picks, *PICKS)}:
        raise ConfigError(f"picks.{min(unused)}: no claim here stands on it; picks are {', '.join(PICKS)}.")
    runs = unpacked(own["rows"], problems) if own["rows"] else stored_runs(EvaluateConfig(runs_dir=own["runs_dir"]), problems)
    judged = judge(documents, runs, given)
    blocks = ledger.build(judged)
    print(render.terminal(blocks))
    files = {"md": render.markdown(blocks), "csv": render.csv(blocks), "tex": latex_full(blocks)}
    files["json"] = json.dumps([ledger.data(case) for case in judged], indent=1) + "\n"
    for suffix, content in files.items() if own["out"] else ():
        write_atomic(Path(own["out"]) / f"ledger.{suffix}", content)
    if own["readme"]:
        page = Path(own["readme"])
        write_atomic(page, ledger.placed(page.read_text(encoding="utf-8"), render.markdown([ledger.short(judged)])))
    if problems:
        print(f"{counted(len(problems), 'run')} left out: {problems[0]}", file=sys.stderr)
    return 0
