"""Every claim's experiment, in an edition for a CPU: the commands of its header on digits, one epoch, two seeds, fill the arms of its claims."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam.optimizers.settings import METHODS
from sam.tables import claims

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "conf/claim").glob("*.yaml"))
LATER = [path for path in FILES if "\nlater: true\n" in path.read_text(encoding="utf-8")]
WORDS = ("Claim", "Command:", "Cost:", "Confirms:", "Refutes:")
SMALL = ("dataset=digits", "dataset.path=null", "dataset.sample=fixed", "dataset.val_size=null", "dataset.train_size=96", "model=wrn_10_1")
SMALL += ("epochs=1", "batch_size=48", "threads=1", "device=cpu", "hydra/launcher=basic")
QUICK = ("threads=1", "device=cpu", "table=none", "sharpness.maximum.steps=2", "sharpness.interior.steps=2", "sharpness.interior.batches=2")
QUICK += ("sharpness.hessian.steps=4", "sharpness.hessian.eigenvalues=1", "sharpness.hessian.probes=3", "sharpness.adaptive.steps=2")
AXES = ("optimizer.lr=0.05,0.1", "optimizer.weight_decay=0.0005,0.002", "optimizer.rho=0.05,0.2", "batch_size=24,48")
CASES = {  # of an experiment: the first seeds of its claims, what its edition changes, how many of the header's training commands it runs
    "claims_mechanism": ((1000, 8000), (), 99),
    "claim_grid": ((2000,), (), 1),
    "claim_correlation": ((6000,), AXES, 1),
    "claim_sensitivity": ((7000,), ("augmentation=basic", "augmentation.crop_padding=1"), 99),
}


def commands_of(name: str) -> list[list[str]]:
    """The commands of an experiment's header, each as words."""
    header = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8").partition("defaults:")[0]
    lines = re.sub(r" \\\n#\s+", " ", header).splitlines()
    return [shlex.split(match[1], comments=True) for line in lines if (match := re.match(r"#\s+(?:Command:\s+)?python (\S+\.py .*)", line))]


def edition(words: list[str], name: str, runs: Path) -> list[str]:
    """A training command for a CPU: on digits, one epoch (two where it says twice as many), its first two seeds."""
    kept = [word for word in words if not word.startswith(("hydra/", "dataset.train_size="))]
    kept = [re.sub(r"^seed=range\((\d+),.*", lambda m: f"seed={m[1]},{int(m[1]) + 1}", word) for word in kept]
    first = CASES[name][0][0]
    seeds = () if any(word.startswith("seed=") for word in kept) else (f"seed={first},{first + 1}",)
    longer = ("epochs=2",) if "epochs=80" in kept else ()
    return [*(word for word in kept if word != "epochs=80"), *seeds, *SMALL, *CASES[name][1], *longer, f"runs_dir={runs}"]


def smaller(path: Path, to: Path) -> None:
    """Copy a claim as of this edition: two seeds, any setting, the subsets and epochs of the edition."""
    text = path.read_text(encoding="utf-8").replace(",subset=512", "").replace("subset=512", "").replace("epochs: 80", "epochs: 2")
    claim: dict[str, Any] = yaml.safe_load(text.replace("epochs: 40", "epochs: 1").replace("[k=1,]", "[k=1]"))
    claim["setting"]["where"], claim["n"] = {}, 8 if claim["kind"] == "correlation" else 2
    claim.pop("family", None)
    (to / path.name).write_text(yaml.safe_dump(claim), encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_the_commands_of_its_header_fill_the_arms_of_its_claims(name: str, commands: Callable[..., Any], tmp_path: Path) -> None:
    runs, own = tmp_path / "runs", tmp_path / "claims"
    own.mkdir()
    found = {path: claims.read(path) for path in FILES}
    mine = {path: claim for path, claim in found.items() if claim.seeds and claim.seeds[0] in CASES[name][0]}
    for path in mine:
        smaller(path, own)
    lines = [line for line in commands_of(name) if not any(word.startswith("seed=900") for word in line) and "sharpness.gap.splits=[val]" not in line]
    train = [edition(line, name, runs) for line in lines if line[0] == "train.py"][: CASES[name][2]]
    measure = [[*(w for w in line if not re.search(r"runs_dir=|subset=", w)), *QUICK, f"runs_dir={runs}"] for line in lines if "evaluate" in line[0]]
    judge = ["scripts/claims.py", f"runs_dir={runs}", f"claims={own}", "picks={R: 0.3, alpha: 1.5}", f"out={tmp_path}"]
    results = commands([*train, *measure, judge])
    assert [result.code for result in results] == [0] * len(results), [result.err for result in results if result.code]
    ledger = json.loads((tmp_path / "ledger.json").read_text(encoding="utf-8"))
    waiting = {claim.id for claim in mine.values() if set(claim.needs) - set(METHODS)}
    assert {row["id"] for row in ledger} == {claim.id for claim in mine.values()}
    assert {row["id"] for row in ledger if row["verdict"].startswith("open")} == waiting, [(r["id"], r["verdict"]) for r in ledger]


def test_each_claim_has_an_experiment() -> None:
    """That its header names, and each experiment's header says all that a reader needs."""
    for name in CASES:
        header = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8")
        assert all(f"# {word}" in header for word in (*WORDS, "Expect:")), name
        assert ["scripts/claims.py"] in [line[:1] for line in commands_of(name)]
    first = {seed for seeds, _, _ in CASES.values() for seed in seeds}
    assert all(claims.read(path).seeds[0] in first for path in LATER)


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_a_later_claim_says_all_that_a_planned_one_does(path: Path) -> None:
    claim, header = claims.read(path), path.read_text(encoding="utf-8").partition("\nid:")[0]
    assert claim.later and claim.family is None and claim.source and claim.statement.endswith(".")
    assert all(f"# {word}" in header for word in WORDS)
    assert {gate["gate"] for gate in claim.gates} >= {"precision", "diverged"}
    if claim.kind == "retained_fraction":  # it presupposes SAM's gain
        assert "positive_control" in {gate["gate"] for gate in claim.gates}


def test_ids_are_unique_and_the_grid_never_stands_on_the_chosen_setting() -> None:
    read = [claims.read(path) for path in FILES]
    assert len({claim.id for claim in read}) == len(read)
    assert next(claim for claim in read if claim.id == "1").kind == "descriptive"
