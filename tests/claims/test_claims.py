"""The confirmatory claims are documents: every field is there, and none has changed since the campaign was planned."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.schema import from_dict

ROOT = Path(__file__).resolve().parents[2]
PLANNED = [line.split() for line in (ROOT / "results/campaign/claims.sha256").read_text(encoding="utf-8").splitlines()]
FILES = sorted(ROOT / name for _, name in PLANNED)
FIELDS = {
    "id",
    "statement",
    "stance",
    "source",
    "setting",
    "measure",
    "kind",
    "direction",
    "margin",
    "arms",
    "gates",
    "n",
    "seeds",
    "family",
}
MORE = {"difference": {"combine"}, "retained_fraction": {"supported_above", "contradicted_below"}, "log_contrast": set(), "no_gain": set()}
PICKS = {"@R", "@R_half", "@R_sqrt3", "@R3", "@alpha"}


def claims() -> dict[str, dict[str, Any]]:
    return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_claim_says_all_that_its_verdict_needs(path: Path) -> None:
    claim = claims()[path.name]
    assert set(claim) - MORE[claim["kind"]] == FIELDS
    assert claim["stance"] in ("states", "implies", "ours")
    assert claim["direction"] in ("higher", "lower")
    assert claim["n"] == claim["seeds"][1] - claim["seeds"][0] + 1
    assert (claim["margin"] is None) == (claim["kind"] == "retained_fraction")
    header = path.read_text(encoding="utf-8").split("id:")[0]
    assert all(f"# {word}" in header for word in ("Claim", "Command:", "Cost:", "Confirms:", "Refutes:"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_arms_are_optimizer_settings_and_picks_of_the_plan(path: Path) -> None:
    arms = claims()[path.name]["arms"]
    for arm in [arms["treatment"], *arms["controls"], *([arms["reference"]] if "reference" in arms else [])]:
        assert arm["method"] in METHODS
        assert {value for value in arm.values() if str(value).startswith("@")} <= PICKS
        plain = {key: value for key, value in arm.items() if key != "epochs" and not str(value).startswith("@")}
        from_dict(OptimizerConfig, plain)


def test_the_family_is_the_ten_tests_of_the_plan() -> None:
    found = claims().values()
    assert len(found) == 10 and len({claim["id"] for claim in found}) == 10
    assert all(claim["family"] == {"name": "campaign", "tests": 10, "correction": "holm", "level": 0.05} for claim in found)


def test_no_planned_claim_has_changed() -> None:
    for digest, name in PLANNED:
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest, name
