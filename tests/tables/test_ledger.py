"""Planted effects, nulls, underpowered tables and closed gates through the whole ledger: each verdict for the right reason."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
import yaml

from data.settings import AugmentationConfig, DatasetConfig
from models.settings import ModelConfig
from sam.config import ConfigError
from sam.optimizers.settings import OptimizerConfig
from sam.report.figures import gallery
from sam.report.page import report
from sam.schema import from_dict
from sam.settings import TrainConfig
from sam.sharpness.settings import SharpnessConfig
from sam.tables import ledger, render, verdicts
from sam.tables.claims import Claim, read
from sam.tables.conditions import RunRow, conditions
from sam.tables.inference import over_seeds_and_images
from sam.tables.latex import latex_full
from sam.tables.verdicts import ADDED, CHANGED, PLANNED, UNPLANNED, Judged, Sheet, holds, judge

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "conf" / "claim"
BASE = TrainConfig(
    model=ModelConfig.of(depth=10, width=1),
    dataset=DatasetConfig.of(name="arrays", path="x.npz", train_size=4000, val_size=10_000, sample="seed"),
    epochs=40,
    batch_size=64,
)
R = 0.2
ARMS: dict[str, dict[str, Any]] = {
    "sgd": {"method": "sgd"},
    "sgd2": {"method": "sgd", "epochs": 80},
    "sam": {"method": "sam", "rho": R},
    "half": {"method": "sam", "rho": 0.1},
    "sqrt3": {"method": "sam", "rho": 0.115470},
    "uniform": {"method": "sam", "rho": R, "radius": "uniform"},
    "n2": {"method": "sam", "rho": R, "ascent_steps": 2},
    "n3": {"method": "sam", "rho": R, "ascent_steps": 3},
    "n5": {"method": "sam", "rho": R, "ascent_steps": 5},
    "rand": {"method": "rand_sam", "rho": R},
    "xsam": {"method": "xsam", "rho": R},
    "constant": {"method": "xsam", "rho": R, "alpha": 0.75},
}
MEANS = {
    **{"sgd": 50.0, "sgd2": 50.5, "sam": 53.0, "half": 52.0, "sqrt3": 52.0, "uniform": 50.0, "n2": 53.0, "n3": 53.0, "n5": 51.0},
    **{"rand": 52.5, "xsam": 54.0, "constant": 53.0},
}
ACCURACY = "test_accuracy[bn=recalibrated]"
SHARP = f"sharpness[rho={R:g},bn=eval,batch=all]"


def run(seed: int, accuracy: float | None, *, lost: bool = False, sharp: float = 0.01, val: float | None = None, **keys: Any) -> RunRow:
    """keys: of the optimizer, and of training."""
    own = {key: keys.pop(key) for key in list(keys) if key not in ("epochs", "precision", "model", "dataset")}
    config = replace(BASE, optimizer=OptimizerConfig.of(**own), seed=seed, **keys)
    measures = {ACCURACY: accuracy, "train_accuracy": 99.8, "train_loss": 0.01, SHARP: sharp}
    measures |= {"val_accuracy[bn=recalibrated]": val}
    return RunRow(
        config=config,
        setting=repr(replace(config, seed=0)),
        status="diverged" if lost else "finished",
        diverged_epoch=3 if lost else None,
        measures={} if lost else {name: value for name, value in measures.items() if value is not None},
        epochs=(),
        folder=f"runs/{seed}-{own}-{keys}",
        fingerprint="",
        data_fingerprint="f5b199186481bfec",
        data_notes=(),
        files={} if lost else {"Checkpoint": "checkpoint.pt", "Measures": "sharpness.json"},
        record={"data": {"train_images": 4000}, "parameters": 77_850},
    )


def tuning(best: float = R, alpha: float = 0.75) -> list[RunRow]:
    """Stage 0: SAM's rho and XSAM's constant alpha, two seeds each."""
    rhos, alphas = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8), (0.5, 0.75, 1.25, 1.5, 2.0, 2.5)
    runs = [run(s, None, val=(60.0 if rho == best else 50.0) + s / 1000, method="sam", rho=rho) for s in (900, 901) for rho in rhos]
    reached = lambda a, seed: (60.0 if a == alpha else 50.0) + seed / 1000
    return runs + [run(s, None, val=reached(a, s), method="xsam", rho=R, alpha=a) for s in (900, 901) for a in alphas]


def campaign(arms: str = " ".join(ARMS), n: int = 20, spread: float = 0.3, sharp: Any = None, **means: float) -> list[RunRow]:
    """Stage 0, and `n` seeds of these arms of stage 1, whose accuracies have these means in every arm, exactly."""
    runs, draw = tuning(), random.Random(0)
    common = [draw.gauss(0, 1) for _ in range(n)]
    for name, keys in ((name, ARMS[name]) for name in arms.split()):
        noise = [draw.gauss(0, spread) for _ in range(n)]
        for i in range(n):
            accuracy = {**MEANS, **means}[name] + common[i] + noise[i] - sum(noise) / n
            height = (sharp or {"sam": 0.005}).get(name, 0.01) * math.exp(draw.gauss(0, 0.1))
            runs.append(run(1000 + i, accuracy, sharp=height, **keys))
    return runs


def load(*names: str, **changes: Any) -> list[tuple[Claim, str]]:
    return [(replace(read(CLAIMS / f"{name}.yaml"), **changes), PLANNED) for name in names]


def verdict(name: str, runs: Sequence[RunRow], given: Mapping[str, float] | None = None, **changes: Any) -> str:
    (case,) = judge(load(name, **changes), runs, given or {})
    return case.verdict


def all_ten(runs: Sequence[RunRow]) -> dict[str, Judged]:
    every = ledger.documents(CLAIMS, ROOT / "results/campaign/claims.sha256", {})
    return {case.claim.id: case for case in judge([one for one in every if one[1] == PLANNED], runs, {})}


def test_planted_effects_are_found_in_the_whole_family() -> None:
    found = {name: case.verdict for name, case in all_ten(campaign()).items()}
    assert found == {
        **{"2": "supported", "3": "supported", "4": "supported", "5": "supported", "6a": "supported", "6b": "supported"},
        **{"7": "supported", "12b": "supported", "2-resnet20": "open: R3 is not picked yet", "3-resnet20": "open: R3 is not picked yet"},
    }


def test_an_estimate_and_its_interval_are_those_of_the_paired_t_test() -> None:
    """By hand, with Holm's levels: eight tests were run of ten, all rejected, so that both ends are Bonferroni's or the null value."""
    from scipy import stats

    case = all_ten(runs := campaign())["2"]
    value = lambda arm: {r.config.seed: r.measures[ACCURACY] or 0.0 for r in changed(runs, arm, folder="here") if r.folder == "here"}
    by = {name: value(name) for name in ("sam", "sgd2")}
    differences = [by["sam"][seed] - by["sgd2"][seed] for seed in range(1000, 1020)]
    assert case.effect is not None and case.interval is not None
    assert case.effect.estimate == pytest.approx(2.5) and case.effect.n == 20
    expected = stats.ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 10)
    assert (case.interval.low, case.interval.high) == pytest.approx((expected.low, expected.high))


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no effect": ("equal_compute", {"sgd2": 53.0}, "contradicted"),
    "the other sign": ("equal_compute", {"sgd2": 54.0}, "opposite"),
    "real, but small": ("equal_compute", {"sgd2": 52.85, "spread": 0.05}, "supported: real, below the margin"),
    "underpowered": ("equal_compute", {"sgd2": 53.0, "spread": 3.0}, "undecided"),
    "a large p contradicts nothing": ("random_beats_sgd", {"rand": 50.1, "spread": 2.0}, "undecided"),
    "N = 5 gains": ("more_steps_do_not_improve", {"n5": 55.0}, "contradicted"),
    "N = 5 gains nothing": ("more_steps_do_not_improve", {"n5": 53.0}, "supported"),
    "N = 5 gains perhaps": ("more_steps_do_not_improve", {"n5": 53.5}, "undecided"),
    "Rand-SAM keeps nothing": ("random_keeps_gain", {"rand": 50.1}, "contradicted"),
    "Rand-SAM keeps a part": ("random_keeps_gain", {"rand": 51.2, "spread": 0.6}, "undecided"),
    "Rand-SAM keeps less than half, more than a quarter": ("random_keeps_gain", {"rand": 51.2, "spread": 0.2}, "undecided"),
    "SAM gains too little to divide by": ("random_keeps_gain", {"sam": 50.05, "rand": 50.05, "spread": 1.0}, "undecided"),
    "U[0, R] loses to one radius alone": ("boundary", {"half": 50.0}, "contradicted"),
    "U[0, R] wins": ("boundary", {"uniform": 53.0}, "opposite"),
    "one step is as flat": ("one_step_is_flatter", {"sharp": {"sam": 0.01}}, "contradicted"),
    "one step is sharper": ("one_step_is_flatter", {"sharp": {"sam": 0.02}}, "opposite"),
}


NEEDED = {
    **{"equal_compute": "sgd2", "random_beats_sgd": "rand", "random_keeps_gain": "rand", "more_steps_do_not_improve": "n5"},
    **{"boundary": "half sqrt3 uniform", "one_step_is_flatter": "n2 n3 n5"},
}


@pytest.mark.parametrize("case", CASES)
def test_each_verdict_appears_for_the_right_reason(case: str) -> None:
    name, planted, expected = CASES[case]
    assert verdict(name, campaign(f"sgd sam {NEEDED[name]}", **planted)) == expected


def changed(runs: Sequence[RunRow], arm: str, **changes: Any) -> list[RunRow]:
    own = lambda r: r.config.optimizer == OptimizerConfig.of(**{k: v for k, v in ARMS[arm].items() if k != "epochs"})
    hit = lambda r: own(r) and r.config.seed >= 1000 and r.config.epochs == ARMS[arm].get("epochs", 40)
    return [replace(r, **{k: v(r) if callable(v) else v for k, v in changes.items()}) if hit(r) else r for r in runs]


def measured(**values: float | None) -> Any:
    return lambda r: {name: v for name, v in {**r.measures, **values}.items() if v is not None}


def test_each_gate_comes_before_the_verdict() -> None:
    runs = campaign()
    low = changed(runs, "sgd", measures=measured(train_accuracy=98.5))
    assert verdict("equal_compute", low) == "out of domain: training_accuracy is 98.50, not at least 99"
    assert verdict("equal_compute", campaign("sgd sgd2 sam", sam=49.0)) == "out of domain: positive_control is -1.00, not above 0"
    assert verdict("boundary", campaign("sgd sam half sqrt3 uniform", sqrt3=52.8)) == "out of domain: rising_limb is 0.20, not at least 0.5"
    wide = lambda r: replace(r.config, optimizer=OptimizerConfig.of(**ARMS["sam"] | {"rho": 0.8}))
    at_edge = [r for r in changed(runs, "sam", config=wide) if r.config.seed >= 1000]
    assert verdict("equal_compute", at_edge + tuning(best=0.8)) == "out of domain: R = 0.8 is the largest value of its grid"
    alpha = [r for r in runs if getattr(r.config.optimizer, "alpha", None) is None] + [
        r for r in tuning(alpha=2.5) if getattr(r.config.optimizer, "alpha", None) is not None
    ]
    assert verdict("xsam_search", alpha).startswith("out of domain: alpha = 2.5 is the largest")
    one = next(r for r in runs if r.config.seed == 1003 and r.config.optimizer.method == "sgd" and r.config.epochs == 80)
    lost = [replace(r, status="diverged", diverged_epoch=2, measures={}) if r is one else r for r in runs]
    assert verdict("equal_compute", lost) == "out of domain: 1 of 40 runs diverged"
    other = [replace(r, config=replace(r.config, precision="bf16")) for r in runs]
    free = replace(load("equal_compute")[0][0].setting, where={})
    assert verdict("equal_compute", other, setting=free) == "out of domain: precision bf16, not fp32"


def test_a_diverged_run_counts_as_chance() -> None:
    """Without the gate: 20 seeds at 53 - 50.5, one of them 10 (CIFAR-10's chance) against what it was."""
    runs = campaign("sgd2 sam", spread=1e-3)
    one = next(r for r in runs if r.config.seed == 1003 and r.config.optimizer == OptimizerConfig.of(**ARMS["sam"]))
    lost = [replace(r, status="diverged", diverged_epoch=2, measures={}) if r is one else r for r in runs]
    (case,) = judge(load("equal_compute", gates=[]), lost, {})
    accuracy = one.measures[ACCURACY]
    assert case.effect is not None and accuracy is not None
    assert case.effect.estimate == pytest.approx(2.5 + (10 - accuracy) / 20) and case.effect.n == 20


def test_open_claims_say_what_is_missing() -> None:
    runs = campaign()
    few = [r for r in runs if r.config.seed < 1005]
    assert verdict("equal_compute", few) == "open: 5 of 20"
    assert verdict("equal_compute", tuning()) == "open"
    assert verdict("equal_compute", []) == verdict("equal_compute", tuning()[:1]) == "open: R is not picked yet"
    assert verdict("equal_compute", [r for r in runs if r.config.seed >= 1000]) == "open: R is not picked yet"
    assert verdict("equal_compute", [r for r in runs if r.config.seed >= 1000], {"R": R}) == "supported"
    unmeasured = changed(runs, "n3", measures=measured(**{SHARP: None}))
    assert verdict("one_step_is_flatter", unmeasured) == f"open: not measured ({SHARP})"
    assert verdict("more_steps_degrade", unmeasured) == "supported"
    no_gate = changed(runs, "sgd", measures=measured(train_accuracy=None))
    assert verdict("equal_compute", no_gate) == "open: not measured (train_accuracy)"
    half = [r for r in runs if r.config.optimizer.method != "sgd" or r.config.epochs == 80 or r.config.seed < 1010]
    assert verdict("equal_compute", half) == "open: training_accuracy has 10 of 20 runs of sgd"
    zero = changed(runs, "n3", measures=measured(**{SHARP: -1e-9}))
    assert verdict("one_step_is_flatter", zero).startswith("out of domain: sharpness")


def test_runs_that_another_claim_tests_are_no_tuning_runs() -> None:
    """Stage 2 trains SAM at R and R/3 at stage 1's condition, with seeds of its own; four claims test ten of stage 1's twenty seeds."""
    runs = campaign()
    others = [run(seed, 55.0, val=90.0, method="sam", rho=rho) for seed in range(2000, 2005) for rho in (R, R / 3)]
    both = judge(load("equal_compute", "beats_sgd"), [*runs, *others], {})
    assert both[0].verdict == "supported" and both[0].picked == {"R": R}
    ten = judge(load("premise", "equal_compute"), runs, {})[0]
    assert ten.picked == {"R": R}
    assert verdict("equal_compute", runs, seeds=[]) == "open: R is not picked yet"  # all seeds are tested: none is left to pick with
    odd = [run(s, None, val=99.0, method="sam", rho=0.8, perturb="no_norm") for s in (900, 901)]  # not what an arm would count
    assert verdict("equal_compute", [*runs, *odd]) == "supported"


def test_the_grid_of_claim_1_stands_on_the_pick_of_its_base_cell() -> None:
    """SAM at R wins in the small noisy cell and loses in the base cell; nothing was tuned but in the latter, which other claims name."""
    noisy = {"dataset": replace(BASE.dataset, train_size=1000, label_noise=0.2), "epochs": 156}
    cells = []
    for where, gain in ((noisy, 4.0), (dict[str, Any](), -2.0)):
        for s in range(2000, 2005):
            cells += [run(s, 50.0 + s % 7, method="sgd", **where), run(s, 50.0 + s % 7 + gain, method="sam", rho=R, **where)]
    judged = judge([*load("beats_sgd"), *load("equal_compute")], [*campaign(), *cells], {})
    of = {case.place: case for case in judged if case.claim.id == "1"}
    base, other = of.pop("mechanism"), *of.values()
    assert base.effect and other.effect and (base.effect.estimate, other.effect.estimate) == (-2.0, 4.0)
    assert base.picked == other.picked == {"R_base": R} and base.verdict == other.verdict == "descriptive: no verdict"
    assert "20% wrong" in other.place and "mechanism" in judged[-1].place
    short = ledger.short(judged)
    assert [row[0].parts[0][:2] for row in short.rows] == ["2."] and "Planned, and descriptive: 1." in short.notes


def test_a_control_at_another_condition_is_no_second_setting() -> None:
    """SGD of 80 epochs makes a condition of its own; the claim is about the treatment's."""
    setting = replace(load("equal_compute")[0][0].setting, where={"model": "WRN-10-1"})
    assert [case.verdict for case in judge(load("equal_compute", setting=setting), campaign(), {})] == ["supported"]


def test_what_all_runs_share_is_judged_by_its_exact_bounds() -> None:
    for value, told in ((0.0, "undecided"), (1.0, "contradicted")):  # ten runs without one leave up to 31% open
        runs = [replace(r, measures=r.measures | {f"interior_ball[rho={R:g}]": value}) for r in campaign("sam")]
        assert verdict("no_interior_maximum", runs, {"R": R}) == told


def test_what_was_not_run_counts_as_one_in_holms_family() -> None:
    """p = 0.01 alone, and above 0.05 / 10 as the only one of ten tests."""
    only = campaign("sgd sgd2 sam", sgd2=52.45, spread=0.7)
    case = all_ten(only)["2"]
    assert case.effect is not None and case.effect.p is not None and case.interval is not None
    assert 0.005 < case.effect.p < 0.05 < case.interval.p_holm == pytest.approx(10 * case.effect.p)
    assert case.verdict == "undecided"
    (alone,) = judge([(load("equal_compute")[0][0], ADDED)], only, {})
    assert alone.verdict == "supported" and not alone.confirmatory


def test_the_picks_are_those_of_the_campaigns_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule itself is compared in test_picks.py; here the names, the parts of R, the tuning runs that count, and the edge."""
    program = made_up.program("campaign/picks.py")
    runs = tuning(best=0.3, alpha=1.25)
    noise = [run(s, None, val=70.0, method="sam", rho=0.8, radius="uniform") for s in (900, 901)]  # another arm's tuning
    final = [run(1000, None, val=99.0, method="sam", rho=0.05)]  # a seed of the claim's
    every, untested = conditions([*runs, *noise, *final]), conditions([*runs, *noise])
    sheet = Sheet(load("boundary")[0][0], every[0], every, untested, {})
    scored = {}
    for r in runs:
        if r.config.optimizer.method == "sam":
            scored.setdefault((r.config.optimizer.rho,), {})[r.config.seed] = r.measures["val_accuracy[bn=recalibrated]"]
    monkeypatch.setattr(program, "scores", lambda stage, key: scored)
    assert {name: sheet.pick(name) for name in ("R", "R_half", "R_sqrt3", "R_third", "R_twice")} == {
        name: (value, False) for name, value in program.sam().items()
    }
    there = lambda r: replace(r, config=replace(r.config, optimizer=replace(r.config.optimizer, rho=0.3)))
    at_r = conditions([there(r) if r.config.optimizer.method == "xsam" else r for r in runs])
    assert Sheet(load("xsam_search")[0][0], at_r[0], at_r, at_r, {}).pick("alpha") == (1.25, False)
    short = [r for r in every[0].runs if r.config.seed != 901 or r.config.optimizer.rho != 0.5]  # not finished yet
    waiting = conditions(short)
    assert Sheet(load("boundary")[0][0], waiting[0], waiting, waiting, {}).pick("R") == (None, False)


def test_the_radius_of_the_same_rise_is_the_campaigns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around SAM(R)'s tuning runs random directions raise the loss by 1e-3 r^2 (and a half more around the other seed's)."""
    radii, grow = (1, 2, 4, 8, 16, 32, 64), {900: 1.0, 901: 1.5}
    rises = lambda s, rise: (
        {f"average[rho={r}]": grow[s] * 1e-3 * r**2 for r in radii} | {f"sharpness[rho={R:g},bn=eval,batch=all]": grow[s] * rise}
    )

    def tuned(rise: float) -> list[RunRow]:
        at_r = lambda r: r.config.optimizer.method == "sam" and r.config.optimizer.rho == R
        return [replace(r, measures=r.measures | rises(r.config.seed, rise)) if at_r(r) else r for r in tuning()]

    def picked(runs: list[RunRow]) -> tuple[float | None, bool]:
        every = conditions(runs)
        return Sheet(load("random_same_rise")[0][0], every[0], every, every, {}).pick("rho_rise")

    assert picked(tuned(0.036)) == (6.0, False) and picked(tuned(1e-4)) == (None, False) == picked(tuning())
    whole = [run(s, None, val=60.0 - 9 * abs(rho - 1) + s / 1000, method="sam", rho=rho) for s in (900, 901) for rho in (0.5, 1.0, 2.0)]
    around = {"average[rho=2]": 4e-3, "average[rho=8]": 64e-3, "sharpness[rho=1,bn=eval,batch=all]": 16e-3}  # names hold 1, not 1.0
    assert picked([replace(r, measures=r.measures | around) for r in whole]) == (4.0, False)
    program = made_up.program("campaign/picks.py")
    monkeypatch.setattr(program, "sam", lambda: {"R": R})
    monkeypatch.setattr(program, "folders", lambda: [900, 901])
    monkeypatch.setattr(program, "values_of", lambda seed: rises(seed, 0.05))
    assert program.rise()["rho_rise"] == picked(tuned(0.05))[0] == 7.07


def copied(folder: Path) -> tuple[Path, Path]:
    """The ten files, one of them edited, one added; and the plan's hashes."""
    hashes = ROOT / "results" / "campaign" / "claims.sha256"
    for name in hashes.read_text(encoding="utf-8").split()[1::2]:
        (folder / Path(name).name).write_bytes((ROOT / name).read_bytes())
    text = (CLAIMS / "equal_compute.yaml").read_text()
    (folder / "equal_compute.yaml").write_text(text.replace("margin: 0.5", "margin: 0.4"))
    (folder / "later.yaml").write_text(text.replace('id: "2"', 'id: "2b"\nlater: true'))
    return folder, hashes


def test_an_edited_claim_has_no_verdict_and_an_added_one_is_descriptive(tmp_path: Path) -> None:
    documents = ledger.documents(*copied(tmp_path), {})
    origins = {claim.id: origin for claim, origin in documents}
    assert origins.pop("2") == CHANGED and origins.pop("2b") == ADDED and set(origins.values()) == {PLANNED}
    judged = {case.claim.id: case for case in judge(documents, campaign("sgd sgd2 sam"), {})}
    assert judged["2"].verdict == "changed after the plan" and judged["2"].confirmatory
    assert judged["2b"].verdict == "supported" and not judged["2b"].confirmatory
    blocks = ledger.build(list(judged.values()))
    assert [len(block.rows) for block in blocks] == [10, 1]
    assert "confirmatory" in blocks[0].title and "descriptive" in blocks[1].title
    assert "added after the plan" in blocks[1].rows[0][0].parts


def test_the_committed_files_are_those_of_the_plan() -> None:
    documents = ledger.documents(CLAIMS, ROOT / "results" / "campaign" / "claims.sha256", {})
    assert sum(origin == PLANNED for _, origin in documents) == 10 and all(origin != CHANGED for _, origin in documents)


def test_a_claim_without_a_setting_is_judged_in_each_condition_that_holds_its_arms() -> None:
    free = replace(load("equal_compute")[0][0], setting=from_dict(type(load("equal_compute")[0][0].setting), {}), seeds=[], family=None)
    runs = campaign("sgd sgd2 sam")
    wide = [replace(r, config=replace(r.config, model=ModelConfig.of(depth=16, width=1))) for r in campaign("sgd sgd2 sam", sgd2=53.0)]
    found = judge([(free, ADDED)], [*runs, *wide], {"R": R})
    assert [case.verdict for case in found] == ["supported", "contradicted"]
    assert "WRN-10-1" in found[0].place and "WRN-16-1" in found[1].place
    faster = [replace(r, config=replace(r.config, optimizer=replace(r.config.optimizer, lr=0.2))) for r in runs]
    twice = judge(load("equal_compute"), [*runs, *faster], {})
    assert twice[0].verdict.startswith("open: its setting is found 2 times")


def test_the_respectable_setting_is_recognised() -> None:
    """Each value of the resnet20 claims' `where`, from a run of conf/experiment/campaign_resnet20.yaml."""
    dataset = DatasetConfig.of(name="cifar10", path="datasets/cifar10-32.npz")
    crops = AugmentationConfig(crop_padding=4, padding_mode="zeros", flip=True)
    config = TrainConfig(model=ModelConfig.of(name="resnet20"), dataset=dataset, augmentation=crops, epochs=2, batch_size=128)
    record = {"data": {"train_images": 50_000}}
    row = replace(run(3000, 91.0, method="sgd"), config=config, data_fingerprint="b15454854329bdde", record=record)
    row = replace(row, init_from="x", started_from="resnet20-12fca82f.th")
    where = load("equal_compute_resnet20")[0][0].setting.where
    assert holds(where, row) and not holds(where, run(3000, 91.0, method="sgd"))
    assert not holds(where, replace(row, config=replace(config, augmentation=replace(crops, flip=False))))
    assert holds({"epochs": [1, 2]}, row) and not holds({"epochs": [1, 3]}, row)


def test_the_papers_setting_stays_open_unless_the_runs_are_in_it() -> None:
    assert {case.in_paper for case in all_ten(campaign()).values()} == {"open"}
    runs = campaign("sgd sgd2 sam")
    (here,) = judge(load("equal_compute", paper={"model": "WRN-10-1", "epochs": 40}), runs, {})
    (near,) = judge(load("equal_compute", paper={"model": "WRN-10-1", "epochs": 200}), runs, {})
    assert (here.in_paper, near.in_paper) == ("supported", "open")


def own(kind: str, **keys: Any) -> Claim:
    base = {"id": "x", "statement": "s", "source": "ours", "measure": {"name": ACCURACY}, "margin": 0.5, "n": 20}
    arms = {"treatment": ARMS["sam"], "controls": [ARMS["sgd2"]]}
    return from_dict(Claim, {**base, "kind": kind, "arms": arms, "seeds": [1000, 1019], **keys})


def test_a_control_that_the_treatment_equals_is_not_beaten() -> None:
    """Above both controls is claimed; the treatment has one's very numbers."""
    arms = {"treatment": ARMS["sam"], "controls": [ARMS["sgd"], ARMS["sgd2"]]}
    runs = campaign("sgd sam sgd2", sgd=54.0, sgd2=50.0)
    same = {r.config.seed: r.measures for r in runs if r.config.optimizer.method == "sam" and r.config.seed >= 1000}
    runs = [replace(r, measures=same[r.config.seed]) if _is_sgd(r) and r.config.epochs == 40 else r for r in runs]
    (case,) = judge([(own("difference", combine="least_favourable", arms=arms), ADDED)], runs, {})
    assert case.verdict == "undecided" and case.effect is not None and (case.effect.estimate, case.effect.p) == (0.0, None)


def _is_sgd(row: RunRow) -> bool:
    return row.config.optimizer.method == "sgd" and row.config.seed >= 1000


def test_the_kinds_of_later_claims() -> None:
    of = lambda claim, **means: judge([(claim, ADDED)], campaign("sam sgd2", **means), {})[0].verdict
    assert of(own("equivalence"), sgd2=53.1) == "supported"
    assert of(own("equivalence"), sgd2=51.0) == of(own("equivalence"), sgd2=55.0) == "contradicted"
    assert of(own("equivalence"), sgd2=53.5) == "undecided"
    most = own("tolerance", direction="lower", margin=1.0)
    assert (of(most, sgd2=52.9), of(most, sgd2=51.0), of(most, sgd2=52.0)) == ("supported", "contradicted", "undecided")
    alone = {"treatment": ARMS["sam"]}
    assert of(own("tolerance", arms=alone, margin=50.0)) == "supported" and of(own("tolerance", arms=alone, margin=60.0)) == "contradicted"
    assert of(own("descriptive", margin=None)) == "descriptive: no verdict"
    within = {"treatment": ARMS["sam"] | {"measure": "train_accuracy"}, "controls": [ARMS["sam"]]}
    assert of(own("difference", arms=within)) == "supported"  # two measures of the same runs


def test_what_a_treatment_says_of_its_condition_is_its_setting() -> None:
    """Not judged again where its control ran, under a heading that names the control's epochs."""
    claim = own("difference", arms={"treatment": ARMS["sam"] | {"epochs": 40}, "controls": [ARMS["sgd2"]]}, seeds=[])
    (case,) = judge([(claim, ADDED)], campaign("sam sgd2"), {})
    assert case.verdict == "supported" and case.base is not None and case.base.config.epochs == 40


def test_which_images_are_right_is_asked_of_each_arms_own_measure() -> None:
    """The same runs with both kinds of statistics: one image more of eight with recalibrated ones, in every run."""
    words = lambda right: {"images": [8.0], "right": [float(right)]}
    runs = [
        replace(
            r,
            measures=r.measures | {ACCURACY: 50.0 + i, "test_accuracy": 37.5 + i},
            series={"outcomes[bn=recalibrated]": words(0b1111), "outcomes": words(0b0111)},
        )
        for i, r in enumerate(run(1000 + i, 50.0, **ARMS["sam"]) for i in range(20))
    ]
    arms = {"treatment": ARMS["sam"], "controls": [ARMS["sam"] | {"measure": "test_accuracy"}]}
    (case,) = judge([(own("difference", arms=arms), ADDED)], runs, {})
    assert case.drawn == (0.0, 37.5)  # of eight images drawn again, none to three are the one
    arms["controls"][0]["measure"] = "train_accuracy"  # of no test image
    (case,) = judge([(own("difference", arms=arms), ADDED)], runs, {})
    assert case.verdict in ("opposite", "supported", "undecided", "contradicted")


def test_a_readme_says_of_each_claim_without_a_result_why() -> None:
    stopped = own("difference", id="mine", gates=[{"gate": "diverged", "at_most": -1}])
    judged = judge([(stopped, UNPLANNED), (own("difference", id="later", n=30), ADDED)], campaign("sam sgd2"), {})
    notes = ledger.short(judged).notes
    assert "In no plan, and out of domain: mine." in notes and "Added after the plan, and open: later." in notes
    changed = judge([(own("difference", id="mine"), CHANGED)], campaign("sgd sam"), {})
    assert any(note.startswith("Changed after the plan: mine.") for note in ledger.short(changed).notes)


def test_nothing_is_retained_of_a_loss() -> None:
    """Without the gate of a positive control: 50.5 of 50 against 49 of 50 would be a ratio of -0.5, "contradicted"."""
    runs = campaign("sgd sam rand", sam=49.0, rand=50.5)
    assert verdict("random_keeps_gain", runs, gates=[]) == "out of domain: the reference gains nothing over the control"
    assert verdict("random_keeps_gain", campaign("sgd sam rand"), gates=[]) == "supported"


def test_a_correlation_counts_settings_and_takes_the_training_loss_away() -> None:
    runs = []
    for i, (rho, lr) in enumerate((rho, lr) for rho in range(1, 8) for lr in range(1, 7)):
        for seed in (0, 1):
            draw = random.Random(f"{i} {seed}")
            made = run(
                seed,
                50 - rho - 5 * lr + draw.gauss(0, 0.1),
                sharp=rho + 3 * lr + draw.gauss(0, 0.1),
                method="sam",
                rho=rho / 10,
                lr=lr / 10,
            )
            runs.append(replace(made, measures={**made.measures, "train_loss": draw.random()}))
    keys = {"measure": {"name": SHARP}, "against": ACCURACY, "axes": ["optimizer.rho", "optimizer.lr"], "arms": {}}
    claim = own("correlation", direction="lower", n=40, seeds=[], margin=0.1, **keys)
    (case,) = judge([(claim, ADDED)], runs, {})
    assert case.verdict == "supported" and case.effect is not None and case.effect.n == 42
    assert case.effect.estimate is not None and case.effect.estimate > 0.9
    (few,) = judge([(claim, ADDED)], runs[:40], {})
    assert few.verdict == "open: 20 of 40 settings"
    (missing,) = judge([(replace(claim, against="test_loss"), ADDED)], runs, {})
    assert missing.verdict == "open: not measured (test_loss)"
    wide = [replace(r, config=replace(r.config, model=ModelConfig.of(depth=16)), setting=f"{r.setting}, deeper") for r in runs]
    assert [case.effect.n for case in judge([(claim, ADDED)], [*runs, *wide], {}) if case.effect] == [42, 42]  # a network's own
    for gates, told in (
        ([{"gate": "precision", "is": "bf16"}], "precision fp32, not bf16"),
        ([{"gate": "precision", "is": "fp32"}, {"gate": "diverged", "at_most": -1}], "0 of 84 runs diverged"),
    ):
        (closed,) = judge([(replace(claim, gates=gates), ADDED)], runs, {})
        assert closed.verdict == f"out of domain: {told}"


def edited(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CLAIMS / "boundary.yaml").read_text()), **changes}


CORRELATION = {"kind": "correlation", "against": "test_loss", "axes": ["epochs"], "combine": "mean", "arms": {"treatment": {}}, "gates": []}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "diff"}, "kind=diff: must be one of difference, log_contrast"),
        ({"colour": 1}, "colour: unknown key; known here: id, statement"),
        ({"margin": None}, "margin=None: kind=difference needs a number > 0"),
        *(({"margin": x}, f"margin={x}: kind=difference needs a number > 0") for x in (0.0, -1.0, math.nan, math.inf)),
        ({"measure": {"name": "flatness"}}, "measure.name=flatness: nothing is measured under this name"),
        (
            {"arms": {"treatment": {"method": "sgd", "rho": 0.1}, "controls": [{"method": "sgd"}]}},
            "arms.treatment.rho: unknown key; known here",
        ),
        ({"arms": {"treatment": {"method": "samm"}, "controls": [{"method": "sgd"}]}}, "arms.treatment.method=samm: must be one of sgd"),
        (
            {"arms": {"treatment": {"method": "sam", "rho": -1}, "controls": [{"method": "sgd"}]}},
            "arms.treatment.rho=-1.0: must be a finite number",
        ),
        ({"arms": {"treatment": {"method": "sam", "rho": "@Q"}, "controls": [{"method": "sgd"}]}}, "@Q: is no pick; there are R, "),
        ({"arms": {"treatment": {"method": "sam"}}}, "arms: kind=difference needs controls"),
        ({"gates": [{"gate": "luck"}]}, "gates[0].gate=luck: must be one of training_accuracy"),
        ({"gates": [{"gate": "pick_inside_grid", "pick": "rho_R"}]}, "@rho_R: is no pick; there are R, "),
        (
            {**CORRELATION, "gates": [{"gate": "pick_inside_grid", "pick": "R"}]},
            "gates[0].gate=pick_inside_grid: kind=correlation takes precision and diverged",
        ),
        ({"kind": "no_gain"}, "combine, measure.transform: kind=no_gain takes combine=mean"),
        ({"kind": "log_contrast"}, "combine, measure.transform: kind=log_contrast takes"),
        ({**CORRELATION, "axes": ["optimizer.lr", "rho"]}, "axes=rho: unknown key; known are keys of train.py"),
        ({**CORRELATION, "arms": {"treatment": {"method": "sam", "epochs": 3}}}, "arms: kind=correlation takes a treatment of"),
        ({**CORRELATION, "arms": {"treatment": {"method": "sam", "rho": "@R"}}}, "arms: kind=correlation takes a treatment of"),
        ({"gates": [{"gate": "diverged"}]}, "gates[0]: the gate diverged holds at_most"),
        ({"setting": {"where": {"net": "x"}}}, "setting.where.net: unknown key; known here: model, data"),
        ({"seeds": [1019, 1000]}, "seeds=[1019, 1000]: must hold the first and the last seed"),
        ({"source": ""}, "source: is missing or empty"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_wrong_document_is_one_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(edited(**changes)))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {told}") and "\n" not in str(error.value)


def test_the_ledger_prints_everywhere_and_survives_hostile_text() -> None:
    claim = replace(load("equal_compute")[0][0], statement="a | b <script>\x1b[31m \\input{x}\n")
    judged = [*judge([(claim, PLANNED)], campaign("sgd sgd2 sam"), {}), *judge(load("boundary", "random_keeps_gain"), [], {})]
    blocks = ledger.build(judged)
    text = render.terminal(blocks, 80)
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text and "supported" in text
    page, tex = render.markdown(blocks), latex_full(blocks)
    assert "<script>" not in page and "\\input{" not in tex
    assert "77,850 parameters<br>4,000 images<br>16 x 16<br>40 epochs<br>training loss 0.01<br>R = 0.2" in page
    assert "+2.50" in render.csv(blocks)
    line = json.loads(json.dumps(ledger.data(judged[0])))
    assert line["verdict"] == "supported" and line["planned"] == 20 and line["low"] > 0


def test_the_report_shows_the_claims_that_have_runs() -> None:
    runs = campaign("sgd sgd2 sam")
    blocks = ledger.of_runs(ledger.own_documents(), runs)
    assert [row[0].parts[0] for row in blocks[0].rows if row[5].text == "supported"] == ["2"]
    page = report(runs, blocks, SharpnessConfig.of(), "python evaluate_sharpness.py", (), gallery(runs, {}))
    assert "<h2>Claims</h2>" in page and "SAM generalises better than SGD at equal numbers" in page and "Confirmatory claims: " in page
    assert ledger.of_runs(ledger.own_documents(), tuning()) == []
    alone = [r for r in runs if r.config.seed >= 1000]  # tuned elsewhere: nothing is said that a ledger with the picks contradicts
    assert {row[0].parts[0] for block in ledger.of_runs(ledger.own_documents(), alone) for row in block.rows}.isdisjoint({"2", "3", "4"})


def test_a_page_holds_the_table_between_its_markers() -> None:
    page = f"before\n{ledger.BEGIN}\nold\n{ledger.END}\nafter\n"
    placed = ledger.placed(page, "| new |\n")
    assert placed == f"before\n{ledger.BEGIN}\n\n| new |\n\n{ledger.END}\nafter\n" == ledger.placed(placed, "| new |")
    with pytest.raises(ConfigError, match="readme: must hold"):
        ledger.placed("no markers", "")


def of_effects(values: Mapping[str, Sequence[float | str]], folder: Path, **keys: Any) -> Judged:
    """A claim "A is above B" judged from a table of effects, a starting point a column."""
    (folder / "walks").mkdir(exist_ok=True)
    file = folder / "walks" / "effects.csv"
    lines = [f'"{arm}",{start},{value}' for arm, row in values.items() for start, value in enumerate(row)]
    file.write_text("\n".join(["arm,start,top", *lines]) + "\n")
    document = {"id": "x", "statement": "A is above B.", "source": "ours", "kind": "difference", "margin": 1.0, "n": 5, "later": True}
    arms = {"treatment": {"arm": "A, batch 1"}, "controls": [{"arm": "B"}]}
    claim = from_dict(Claim, document | {"effects": [str(file)], "measure": {"name": "top"}, "arms": arms} | keys)
    (case,) = judge([(claim, ADDED)], [], {})
    return case


def test_a_table_of_effects_is_judged_over_its_starting_points(tmp_path: Path) -> None:
    b = [1.0, 2.0, 3.0, 4.0, 5.0]
    above = of_effects({"A, batch 1": [x + d for x, d in zip(b, (1.9, 2.0, 2.1, 2.0, 2.0), strict=True)], "B": b}, tmp_path)
    assert above.verdict == "supported" and above.place == "walks" and above.effect is not None
    assert above.effect.estimate == pytest.approx(2.0) and not above.confirmatory and above.in_paper == "open"
    assert ledger.build([above])[0].rows[0][0].parts[2] == "A, batch 1 against B"
    assert of_effects({"A, batch 1": b, "B": [x + 2 + x / 100 for x in b]}, tmp_path).verdict == "opposite"
    assert (
        of_effects({"A, batch 1": b, "B": [x + e for x, e in zip(b, (0.1, -0.1, 0, 0.1, -0.1), strict=True)]}, tmp_path).verdict
        == "contradicted"
    )
    lost = of_effects({"A, batch 1": [*b[:4], "nan"], "B": b}, tmp_path)
    assert (
        lost.verdict == "open: 4 of 5" and lost.effect is not None and lost.effect.n == 4
    )  # a start without a value in an arm is left out
    assert of_effects({"A, batch 1": b, "B": b}, tmp_path, measure={"name": "other"}).verdict == "open: not measured (other)"
    assert of_effects({"A, batch 1": b, "B": b}, tmp_path, effects=["nowhere/effects.csv"]).verdict == "open"
    with pytest.raises(ConfigError, match=r"arms.treatment=.*must be {arm: NAME}"):
        of_effects({}, tmp_path, arms={"treatment": {"method": "sam"}, "controls": [{"arm": "B"}]})


def test_a_given_r_moves_its_parts() -> None:
    runs = campaign("sgd", n=2)
    sheet = Sheet(*load("boundary")[0][:1], conditions(runs)[0], conditions(runs), conditions(runs), {"R": 0.1})
    assert [sheet.pick(name) for name in ("R", "R_half", "R_sqrt3")] == [(0.1, False), (0.05, False), (0.057735, False)]


def test_drawn_is_of_the_control_that_decides() -> None:
    """The smaller t is the first control's, the smaller mean the second's."""
    draw, near = np.random.default_rng(0), np.zeros(20)
    arms = {"treatment": near, "controls[0]": -1.2 + 3 * draw.standard_normal(20), "controls[1]": -0.6 + 0.3 * draw.standard_normal(20)}
    effect, estimate = verdicts.effect_of(own("difference", combine="least_favourable", **two_controls()), arms)
    assert estimate(np.array([[of.mean()] for of in arms.values()])) == pytest.approx([effect.estimate])


def two_controls() -> dict[str, Any]:
    return {"arms": {"treatment": ARMS["sam"], "controls": [ARMS["half"], ARMS["sqrt3"]]}}


def test_a_ratio_without_a_gain_in_some_draws_has_no_drawn_interval() -> None:
    arms = np.array([[50, 50.25, 51], [50, 50.5, 51], [50, 50.5, 52]])
    with np.errstate(divide="ignore", invalid="ignore"):
        assert over_seeds_and_images(arms, lambda m: (m[0] - m[1]) / (m[2] - m[1]), None, None) is None


def test_a_correlation_that_the_training_loss_makes_is_none() -> None:
    """Sharpness and error follow the training loss, each with noise of its own."""
    draw, runs = random.Random(0), []
    for rho, lr in ((rho, lr) for rho in range(1, 8) for lr in range(1, 7)):
        loss = draw.gauss(0, 1)
        made = run(0, 50 - loss + draw.gauss(0, 0.5), sharp=loss + draw.gauss(0, 0.5), method="sam", rho=rho / 10, lr=lr / 10)
        runs.append(replace(made, measures={**made.measures, "train_loss": loss}))
    keys = {"measure": {"name": SHARP}, "against": ACCURACY, "axes": ["optimizer.rho", "optimizer.lr"], "arms": {}}
    (case,) = judge([(own("correlation", direction="lower", n=40, seeds=[], margin=0.1, **keys), ADDED)], runs, {})
    assert case.effect is not None and case.effect.estimate is not None and abs(case.effect.estimate) < 0.2 and case.verdict != "supported"


def test_drawn_holds_the_binomial_error_of_the_test_images() -> None:
    (case,) = judge(load("equal_compute"), campaign("sgd sgd2 sam"), {})
    arms = np.array([[case.values[name][seed] for seed in range(1000, 1020)] for name in ("treatment", "controls[0]")])
    assert case.drawn == over_seeds_and_images(arms, lambda m: m[0] - m[1], 10_000)


def test_a_diverged_run_has_no_sharpness() -> None:
    gone = lambda r: r.config.seed == 1003 and getattr(r.config.optimizer, "ascent_steps", 1) == 3
    runs = [replace(r, status="diverged", diverged_epoch=2, measures={}) if gone(r) else r for r in campaign("sgd sam n2 n3 n5")]
    (case,) = judge(load("one_step_is_flatter", gates=[]), runs, {})
    assert case.verdict == "open: 19 of 20" and case.effect is not None and case.effect.n == 19


def test_a_part_is_retained_of_what_should_fall() -> None:
    arms = {"treatment": ARMS["rand"], "controls": [ARMS["sgd"]], "reference": ARMS["sam"]}
    claim = own("retained_fraction", direction="lower", margin=None, measure={"name": SHARP}, arms=arms)
    (case,) = judge([(claim, ADDED)], campaign("sgd sam rand", sharp={"sgd": 0.01, "sam": 0.005, "rand": 0.006}), {})
    assert case.verdict == "supported" and case.effect is not None and case.effect.estimate == pytest.approx(0.8, abs=0.1)


def test_a_family_of_ones_own_has_its_level_and_counts_no_edited_claim() -> None:
    runs, family = campaign("sgd sgd2 sam", sgd=40.0, sgd2=52.8, spread=0.37), {"name": "mine", "tests": 2, "level": 0.4}
    small = own("difference", family=family)
    large = replace(small, id="y", arms=replace(small.arms, controls=[ARMS["sgd"]]))
    case, edited = judge([(small, PLANNED), (large, CHANGED)], runs, {})
    assert case.effect is not None and case.effect.p is not None and case.interval is not None
    assert case.interval.p_holm == pytest.approx(2 * case.effect.p) and 0.05 < case.interval.p_holm < 0.4 and case.interval.side == 1
    assert edited.interval is None
