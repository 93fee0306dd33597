"""Every claim's experiment, in an edition for a CPU: the commands of its header on digits, one epoch, two seeds, fill its claims' arms."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sam.evaluation.evaluate import stored_runs
from sam.evaluation.measuring import measure_runs
from sam.evaluation.settings import EvaluateConfig
from sam.runs import records
from sam.runs.hydra_schema import register, resolve
from sam.runs.run import run
from sam.runs.sweep import compose, points
from sam.settings import TrainConfig
from sam.tables import claims, ledger
from sam.tables.verdicts import judge

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "conf/claim").glob("*.yaml"))
LATER = [path for path in FILES if "\nlater: true\n" in path.read_text(encoding="utf-8")]
WORDS = ("Claim", "Command:", "Cost:", "Confirms:", "Refutes:")
# A CPU's edition of any of them, as docs/experiments.md shows it, but with fewer images and candidates.
SMALL = ("dataset=digits", "dataset.path=null", "dataset.sample=fixed", "dataset.val_size=null", "dataset.train_size=48", "model=wrn_10_1")
SMALL += ("batch_size=24", "threads=1", "device=cpu", "optimizer.alpha_grid=[0,1,2]")
QUICK = ("threads=1", "device=cpu", "sharpness.maximum.steps=2", "sharpness.interior.steps=2", "sharpness.interior.batches=2")
QUICK += ("sharpness.hessian.steps=4", "sharpness.hessian.eigenvalues=1", "sharpness.hessian.probes=3", "sharpness.adaptive.steps=2")
QUICK += ("sharpness.interior.points=3", "sharpness.interior.restarts=0", "sharpness.maximum.restarts=0", "sharpness.adaptive.restarts=0")
QUICK += tuple(f"sharpness.adaptive.{radii}=[]" for radii in ("worst_linf", "average_l2", "average_linf"))
CASES = {  # of an experiment: the first seeds of its claims, what this edition leaves of its grid, and the claims that this much fills
    "claims_mechanism": (1000, ("optimizer=sgd,rand_sam,sam,xsam",), {"0", "2-tuned-sgd", "3", "4", "7-interior", "12a"}),
    "claim_grid": (2000, ("optimizer.rho=0.3", "dataset.label_noise=0.2"), {"1"}),
    "claim_correlation": (
        6000,
        ("batch_size=24", "optimizer.lr=0.05,0.1", "optimizer.rho=0.05,0.2", "optimizer.weight_decay=0.0005"),
        {"13", "13-maximum", "13-adaptive", "13-eigenvalue"},
    ),
    "claim_sensitivity": (7000, ("optimizer=sam", "augmentation=basic", "augmentation.crop_padding=1"), {"17-decay", "17-batchnorm"}),
}


@pytest.fixture
def hydra() -> Iterator[Any]:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield GlobalHydra.instance().hydra


def commands_of(name: str) -> list[list[str]]:
    """The commands of an experiment's header, each as words."""
    header = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8").partition("defaults:")[0]
    found = (re.match(r"#\s+(?:Command:\s+)?python (\S+\.py .*)", line) for line in header.splitlines())
    return [shlex.split(match[1], comments=True) for match in found if match]


def planned(hydra: Any, name: str, runs: Path) -> list[TrainConfig]:
    """What the experiment runs in this edition: one epoch, the first two seeds (where settings are compared, not runs: one)."""
    first, left, _ = CASES[name]
    given = [f"experiment={name}", *SMALL, *left, "epochs=1", f"seed={first}", f"runs_dir={runs}"]
    whole = hydra.compose_config("train", given, RunMode.MULTIRUN, False)
    configs = list(compose(points(whole, hydra.config_loader), whole, hydra.config_loader))
    return [replace(config, seed=seed) for config in configs for seed in range(first, first + (1 if name == "claim_correlation" else 2))]


def thousand(seeds: Sequence[int]) -> int:
    """The first seed of its stage: what keeps epochs begins a few later."""
    return seeds[0] // 1000 * 1000


def smaller(path: Path, to: Path) -> None:
    """Copy a claim as of this edition: two seeds, any setting, all 48 images, one epoch."""
    claim: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8").replace(",subset=512", "").replace("epochs: 40", "epochs: 1"))
    claim["setting"]["where"], claim["n"] = {}, 4 if claim["kind"] == "correlation" else 2
    claim.pop("family", None)
    if claim.get("seeds"):
        claim["seeds"] = [thousand(claim["seeds"]), claim["seeds"][1]]
    (to / path.name).write_text(yaml.safe_dump(claim), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_its_runs_measured_as_its_header_says_reach_the_ledger(name: str, hydra: Any, tmp_path: Path) -> None:
    own, runs, (first, _, filled) = tmp_path / "claims", tmp_path / "runs", CASES[name]
    own.mkdir()
    mine = [path for path in FILES if thousand(claims.read(path).seeds or [0]) == first]
    for path in mine:
        smaller(path, own)
    for config in planned(hydra, name, runs):
        run(config)
    problems: list[str] = []
    for words in commands_of(name):
        if words[0] == "evaluate_sharpness.py" and "sharpness.gap.splits=[val]" not in words:
            given = [word for word in words[1:] if "subset=" not in word and not word.startswith("runs_dir=")]
            whole = hydra.compose_config("evaluate", [*given, *QUICK, f"runs_dir={runs}"], RunMode.RUN, False)
            measure_runs(list(records.find_runs(runs)), resolve(EvaluateConfig, whole), problems)
    picks = {"R": 0.3, "R_base": 0.3, "alpha": 1.5}
    rows = stored_runs(EvaluateConfig(runs_dir=str(runs)), problems)
    judged = judge(ledger.documents(own, None, picks), rows, picks)
    assert problems == [] and {case.claim.id for case in judged} == {claims.read(path).id for path in mine}
    said = {case.claim.id: case.verdict for case in judged}
    assert {id for id, verdict in said.items() if not verdict.startswith("open")} == filled, said
    assert ledger.build(judged)


def test_each_claim_has_an_experiment() -> None:
    """That its header names, and each experiment's header says all that a reader needs."""
    for name in CASES:
        header = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8")
        assert all(f"# {word}" in header for word in (*WORDS, "Expect:")), name
        assert ["scripts/claims.py"] in [line[:1] for line in commands_of(name)]
    first = {seed for seed, _, _ in CASES.values()} | {8000}  # 12c's, timed alone
    assert all(thousand(claim.seeds) in first for path in LATER if not (claim := claims.read(path)).effects)


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_a_later_claim_says_all_that_a_planned_one_does(path: Path) -> None:
    claim, header = claims.read(path), path.read_text(encoding="utf-8").partition("\nid:")[0]
    assert claim.later and claim.family is None and claim.source and claim.statement.endswith(".")
    assert all(f"# {word}" in header for word in WORDS)
    trains = "no training" not in header  # what is measured alone is measured in fp32, whatever it was trained in
    assert claim.effects or {gate["gate"] for gate in claim.gates} >= {"diverged", *(["precision"] if trains else [])}
    if claim.kind == "retained_fraction":  # it presupposes SAM's gain
        assert "positive_control" in {gate["gate"] for gate in claim.gates}


def test_ids_are_unique_and_the_grid_never_stands_on_the_chosen_setting() -> None:
    read = [claims.read(path) for path in FILES]
    assert len({claim.id for claim in read}) == len(read)
    assert next(claim for claim in read if claim.id == "1").kind == "descriptive"
