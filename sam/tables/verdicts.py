"""The rule: a claim and runs in, one verdict out for each setting that holds its arms. Gates come before verdicts, and p > 0.05 alone
contradicts nothing; docs/claims.md tells the rule."""

import csv
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sam.schema import flat, to_dict
from sam.tables import picks
from sam.tables.claims import PICK, PICKS, WHERE, Arm, Claim, Tuned
from sam.tables.conditions import Condition, RunRow, TableRow, conditions, grouped, plain, row_matches, split_match, table_row, value_text
from sam.tables.inference import Effect, Ends, Simultaneous, of_mean, of_ratio, of_tau, over_seeds_and_images, simultaneous, unpacked
from sam.tables.settings import RowConfig
from sam.tables.statistics import is_finite, paired_difference, summarize

MEANS = ("training_accuracy", "positive_control", "rising_limb")  # gates that compare a mean with a number
PLANNED, CHANGED, ADDED, UNPLANNED = "", "changed after the plan", "added after the plan", "in no plan"
ROOT = Path(__file__).resolve().parents[2]
_AVERAGE = re.compile(r"average\[rho=([^,\]]+)\]")  # over the whole set
ACCURACY = "test_accuracy[bn=recalibrated]"  # of gates that compare arms, where the claim's measure is no accuracy
NOT_PICKED = "is not picked yet"
_matches = functools.partial(row_matches, by=value_text)  # numbers alike to six digits, which is what names and picks hold
Conditions = Sequence[Condition]
WHOLE = ["CIFAR-10", "CIFAR-100", "CIFAR-10, 90 of 60,000 images JPEG-decoded"]
PAPER: Mapping[str, Any] = {"model": "WRN-28-10", "data": WHOLE, "train_size": 50_000, "epochs": 200}  # for claims that name no setting


class Stop(Exception):
    """There is no verdict; the message says why: "open: ..." or "out of domain: ..."."""


@dataclass(frozen=True)
class Judged:
    """A claim in one setting.

    place        label of the setting; base: the condition of its treatment, None where nothing ran.
    picked       the picks that it stands on; stopped: why there is no verdict, or "".
    rows, values arms by name, with their runs, and seed -> value of each.
    effect       in the claimed direction; interval: the simultaneous one, in a family; drawn: of the bootstrap.
    """

    claim: Claim
    origin: str
    place: str
    base: Condition | None = None
    picked: Mapping[str, float | None] = field(default_factory=dict)
    rows: Mapping[str, TableRow] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    stopped: str = ""
    effect: Effect | None = None
    drawn: Ends | None = None
    interval: Simultaneous | None = None

    @property
    def confirmatory(self) -> bool:
        return self.claim.family is not None and self.origin in (PLANNED, CHANGED)

    @property
    def verdict(self) -> str:
        if self.origin == CHANGED:
            return CHANGED
        return rule(self.claim, self.effect, self.interval) if self.effect and self.interval else self.stopped

    @property
    def in_paper(self) -> str:
        run = self.base.runs[0] if self.base else None
        return self.verdict if run is not None and holds(self.claim.paper or PAPER, run) else "open"


def rule(claim: Claim, effect: Effect, i: Simultaneous) -> str:
    """The verdict of an effect in the claimed direction, and its interval."""
    margin, kind = claim.margin or 0.0, claim.kind
    if kind == "descriptive":
        return "descriptive: no verdict"
    if kind in ("no_gain", "tolerance", "equivalence"):  # of equivalence the nearer end decides
        inside = {"no_gain": -1, "tolerance": 1, "equivalence": -1 if effect.null > 0 else 1}[kind]
        return {inside: "supported", -inside: "contradicted", 0: "undecided"}[i.side]
    if kind == "retained_fraction":
        return "supported" if i.side > 0 else "contradicted" if i.side < 0 and i.high < claim.contradicted_below else "undecided"
    if i.side:
        return ("supported: real, below the margin" if i.high < margin else "supported") if i.side > 0 else "opposite"
    return "contradicted" if i.high < margin else "undecided"


def judge(claims: Sequence[tuple[Claim, str]], runs: Sequence[RunRow], given: Mapping[str, float]) -> list[Judged]:
    """Judge every claim (with its origin) in each setting; the tests of a family are corrected together. given: picks by name."""
    every, own = conditions(runs), [claim.seeds for claim, _ in claims if claim.seeds]
    tuning = [replace(c, runs=tuple(r for r in c.runs if not any(a <= r.config.seed <= b for a, b in own))) for c in every]
    cases = [case for claim, origin in claims for case in _cases(claim, origin, every, tuning, given)]
    for family, members in grouped(enumerate(cases), lambda case: case[1].claim.family if case[1].confirmatory else case[0]).items():
        tested = [(i, case) for i, case in members if case.effect is not None and not case.stopped and case.origin != CHANGED]
        tests, level = (1, 0.05) if isinstance(family, int) or family is None else (family.tests, family.level)
        intervals = simultaneous([case.effect for _, case in tested if case.effect], tests, level)
        for (i, case), interval in zip(tested, intervals, strict=True):
            cases[i] = replace(case, interval=interval)
    named = {case.base.label: case.place for case in cases if case.base and case.claim.setting.name}  # by the claims that name it
    return [replace(case, place=named.get(case.place, case.place)) for case in cases]


def holds(where: Mapping[str, Any], run: RunRow) -> bool:
    """True if the run has every value of `where`, or one of its list."""
    config = flat(to_dict(run.config))
    have = lambda name: value_text(WHERE[name](run) if name in WHERE else config.get(name))
    return all(have(name) in list(map(value_text, v if isinstance(v, list) else [v])) for name, v in where.items())


def _cases(claim: Claim, origin: str, every: Conditions, tuning: Conditions, given: Mapping[str, float]) -> list[Judged]:
    """The claim in each of its settings, not judged yet; where nothing ran, once, with the reason. tuning: runs of untested seeds."""
    if claim.effects:
        return [_of_effects(claim, origin, ROOT / file) for file in claim.effects]
    first, last = claim.seeds or (0, math.inf)
    found = [replace(c, runs=runs) for c in every if (runs := tuple(run for run in c.runs if first <= run.config.seed <= last))]
    where, name = claim.setting.where, claim.setting.name
    nothing = lambda why: [Judged(claim, origin, name or "any", stopped=why)]
    if claim.kind == "correlation":
        chosen = [run for c in found for run in c.runs if holds(where, run) and _matches(claim.arms.treatment, run.config.optimizer)]
        tasks = grouped(chosen, lambda run: (WHERE["model"](run), WHERE["data"](run), run.data_fingerprint, run.init_from))
        return [_correlation(claim, origin, name or ", ".join(at[:2]), own) for at, own in tasks.items()] or nothing("open")
    fixed = {key: value for key, value in claim.arms.treatment.items() if key != "measure" and not PICK.fullmatch(str(value))}
    own = split_match(RowConfig(match=fixed))[1]  # what the treatment says of its condition
    sheets = [Sheet(claim, c, found, tuning, given) for c in found if c.key == {**c.key, **own} and holds(where, c.runs[0])]
    # What names its setting shows each arm that has run there; what does not is judged where all of its arms have.
    there = [sheet for sheet in sheets if (any if where else all)(row.ran for row in sheet.arms.values())]
    there = [sheet for sheet in there if sheet.arms["treatment"].ran] or there[:1]
    if len(there) > 1 and claim.family is not None and origin in (PLANNED, CHANGED):
        labels = "; ".join(sheet.base.label for sheet in there)
        return nothing(f"open: its setting is found {len(there)} times ({labels})")
    if not there:
        sheets = [Sheet(claim, c, found, tuning, given) for c in every if holds(where, c.runs[0])]
        unpicked = [pick for pick in claim.picks if pick not in given and all(sheet.pick(pick)[0] is None for sheet in sheets)]
        return nothing(f"open: {unpicked[0]} {NOT_PICKED}" if unpicked else "open")
    return [sheet.judged(origin, name or sheet.base.label) for sheet in there]


class Sheet:
    """A claim at one condition: its arms, picks and gates. found: conditions of the claim's seeds; tuning: of the runs to pick among."""

    def __init__(self, claim: Claim, base: Condition, found: Conditions, tuning: Conditions, given: Mapping[str, float]):
        self.claim, self.base, self.found, self.tuning = claim, base, found, tuning
        parts = {n: float(f"{given['R'] / t.part:.6g}") for n, t in PICKS.items() if "R" in given and t == replace(PICKS["R"], part=t.part)}
        self.picked: dict[str, tuple[float | None, bool]] = {name: (value, False) for name, value in {**parts, **given}.items()}
        self.arms = {name: self.arm(arm) for name, arm in claim.arms.named.items()}

    def pick(self, name: str) -> tuple[float | None, bool]:
        """A pick by name, and whether it is the largest value of its grid; None where a setting is missing, or not measured alike."""
        if name not in self.picked:
            self.picked[name] = self._rise(PICKS[name]) if PICKS[name].rise else self._pick(PICKS[name])
        return self.picked[name]

    def _tuning(self, tuned: Tuned) -> list[RunRow]:
        """The condition's runs to pick among; none where the claim names no seeds, and so tests them all."""
        named = {*tuned.match, tuned.key.removeprefix("optimizer.")}
        return plain(self.runs(self.tuning, tuned.match, tuned.changed), named) if self.claim.seeds else []

    def _rise(self, tuned: Tuned) -> tuple[float | None, bool]:
        """By the mean rises around the picked tuning runs, interpolated in the logarithms; None where no two radii enclose the ascent's."""
        r, edge = self.pick("R")
        own = [run.measures for run in self._tuning(tuned) if r is not None and value_text(run.own["optimizer.rho"]) == value_text(r)]
        mean = {name: float(np.mean([m[name] for m in own])) for name in own[0] if all(is_finite(m.get(name)) for m in own)} if own else {}  # type: ignore[misc]
        radii = sorted((float(found[1]), mean[found[0]]) for found in map(_AVERAGE.fullmatch, mean) if found and mean[found[0]] > 0)
        rise, heights = mean.get(f"sharpness[rho={value_text(r)},bn=eval,batch=all]", 0.0), [height for _, height in radii]
        if not radii or heights != sorted(heights) or not heights[0] <= rise <= heights[-1]:
            return None, False
        at = np.interp(math.log(rise), np.log(heights), np.log([radius for radius, _ in radii]))
        return float(f"{math.exp(at):.3g}"), edge

    def _pick(self, tuned: Tuned) -> tuple[float | None, bool]:
        runs = self._tuning(tuned)
        value = lambda run: getattr(run.config.optimizer, tuned.key.removeprefix("optimizer."))
        rows: dict[picks.Values, TableRow]
        rows = {(at,): table_row("", RowConfig(), own) for at, own in grouped(runs, value).items() if at is not None}
        scores = picks.scores(rows, picks.recalibrated("val_accuracy", rows.values()))
        if len(scores) < max(2, len(rows)) or len({frozenset(of) for of in scores.values()}) > 1:
            return None, False
        (at,) = picks.pick(scores, (tuned.key,))
        return float(f"{at / tuned.part:.6g}"), at == max(scores)[0]

    def filled(self, value: Any) -> Any:
        """The value with its picks filled in."""
        whole = PICK.fullmatch(str(value))
        return self.pick(whole[1])[0] if whole else PICK.sub(lambda m: f"{self.pick(m[1])[0]:g}", value) if "@" in str(value) else value

    def runs(self, among: Conditions, arm: Arm, changed: Mapping[str, Any]) -> list[RunRow]:
        """The runs that have an arm's values, at this condition but for what the arm says of it; none while a pick of it is open."""
        match, of_condition = split_match(RowConfig(match={name: self.filled(value) for name, value in arm.items() if name != "measure"}))
        if any(match[name] is None for name in match if PICK.fullmatch(str(arm[name]))):
            return []
        wanted = {**self.base.key, **of_condition, **changed}
        return [run for c in among if c.key == wanted for run in c.runs if _matches(match, run.config.optimizer)]

    def arm(self, arm: Arm) -> TableRow:
        """The runs of an arm; a key that it does not name, and in which they differ, has its default."""
        runs = plain(self.runs(self.found, arm, {}), arm)
        return table_row("", RowConfig(), runs) if runs else TableRow("", RowConfig(), self.base.config.optimizer, {}, {})

    def values(self, arm: Arm, row: TableRow, measure: str, log: bool = False) -> dict[int, float]:
        """Seed -> value; a diverged run has the accuracy of a guess, and no other value. Raises Stop if the measure is missing."""
        measure = self.filled(arm.get("measure", measure))
        raw = {seed: value for seed, value in row.values(measure, 1.0).items() if is_finite(value)}
        if row.finished and not raw:
            raise Stop(f"open: not measured ({measure})")
        raw |= {seed: picks.chance(run) for seed, run in row.diverged.items()} if "accuracy" in measure else {}
        if log and min(raw.values(), default=1.0) <= 0:
            raise Stop(f"out of domain: {measure} is not positive, and has no logarithm")
        return {seed: math.log(value) if log else value for seed, value in raw.items()}

    def compared(self, gate: Mapping[str, Any]) -> float:
        """Mean of the gate's arm, or of its treatment minus its control over common seeds. Raises Stop where runs are missing."""
        measure = gate.get("measure") or (self.claim.measure.name if "accuracy" in self.claim.measure.name else ACCURACY)
        arms = [gate[name] for name in ("arm", "treatment", "control") if name in gate]
        seeds, shown = _in_common({str(i): self.values(arm, self.arm(arm), measure) for i, arm in enumerate(arms)})
        if len(seeds) < self.claim.n:
            raise Stop(f"open: {gate['gate']} has {len(seeds)} of {self.claim.n} runs of {' and '.join(arm['method'] for arm in arms)}")
        means = [math.fsum(of) / len(seeds) for of in shown.values()]
        return means[0] - sum(means[1:])

    def gates(self, *kinds: str) -> None:
        """Raises Stop at the first gate of these kinds that does not hold."""
        runs = [run for row in self.arms.values() for run in row.shown]
        for gate in (gate for gate in self.claim.gates if gate["gate"] in kinds):
            kind, told = gate["gate"], _amiss(gate, runs)
            if kind == "pick_inside_grid" and self.pick(gate["pick"])[1]:
                told = f"{gate['pick']} = {self.pick(gate['pick'])[0]:g} is the largest value of its grid"
            elif kind in MEANS:
                mean, word = self.compared(gate), "above" if "above" in gate else "at_least"
                if mean < gate[word] or (mean == gate[word] and word == "above"):
                    told = f"{kind} is {mean:.2f}, not {word.replace('_', ' ')} {gate[word]:g}"
            if told:
                raise Stop(f"out of domain: {told}")

    @property
    def measured(self) -> list[str]:
        """The measure of each arm."""
        return [arm.get("measure", self.claim.measure.name) for arm in self.claim.arms.named.values()]

    def right(self, seeds: Sequence[int]) -> np.ndarray | None:
        """Which test images the runs behind accuracies got right (arms x seeds x images); None where one has no outcomes."""
        series = [name.replace("test_accuracy", "outcomes") if name.startswith("test_accuracy") else "" for name in self.measured]
        runs = [(of, row.finished.get(seed)) for of, row in zip(series, self.arms.values(), strict=True) for seed in seeds]
        words = [run.series[of] for of, run in runs if run is not None and of in run.series]
        return np.array([unpacked(word) for word in words]).reshape(len(self.arms), len(seeds), -1) if len(words) == len(runs) else None

    def judged(self, origin: str, place: str) -> Judged:
        """The claim here, without its interval."""
        picked = {name: self.pick(name)[0] for name in self.claim.picks}
        case, measure = Judged(self.claim, origin, place, self.base, picked, self.arms), self.claim.measure
        try:
            if unpicked := [name for name, value in picked.items() if value is None]:
                raise Stop(f"open: {unpicked[0]} {NOT_PICKED}")
            self.gates("diverged", "precision", "pick_inside_grid")
            arms = self.claim.arms.named
            values = {name: self.values(arms[name], row, measure.name, measure.transform == "log") for name, row in self.arms.items()}
            case = replace(case, values=values)
            seeds, shown = _in_common(values)
            if seeds:
                about = picks.about(WHERE["data"](self.base.runs[0])) if all("test_accuracy" in name for name in self.measured) else None
                case = _with_effect(case, shown, about.test_size if about else None, self.right(seeds))
            if len(seeds) < self.claim.n:
                raise Stop(f"open: {len(seeds)} of {self.claim.n}")
            self.gates(*MEANS)
            if self.claim.kind == "retained_fraction":  # of a loss nothing can be retained
                gain = np.mean(shown["reference"]) - np.mean([of for name, of in shown.items() if name.startswith("controls")])
                if not (gain > 0 if self.claim.direction == "higher" else gain < 0):
                    raise Stop("out of domain: the reference gains nothing over the control")
        except Stop as stop:
            case = replace(case, stopped=str(stop))
        return case


def _amiss(gate: Mapping[str, Any], runs: Sequence[RunRow]) -> str:
    """Why a gate that asks the runs themselves does not hold, or ""."""
    if gate["gate"] == "diverged" and (lost := sum(not run.is_finished for run in runs)) > gate["at_most"]:
        return f"{lost} of {len(runs)} runs diverged"
    other = {run.config.precision for run in runs} - {gate["is"]} if gate["gate"] == "precision" else ()
    return f"precision {', '.join(sorted(other))}, not {gate['is']}" if other else ""


def _in_common(values: Mapping[str, Mapping[int, float]]) -> tuple[list[int], dict[str, list[float]]]:
    """The seeds (starting points) that every arm has, and each arm's values at them."""
    seeds = sorted(set.intersection(*map(set, values.values())))
    return seeds, {name: [of[seed] for seed in seeds] for name, of in values.items()}


def _with_effect(case: Judged, shown: Mapping[str, Sequence[float]], images: int | None = None, right: np.ndarray | None = None) -> Judged:
    effect, estimate = effect_of(case.claim, shown)
    return replace(case, effect=effect, drawn=over_seeds_and_images(np.array(list(shown.values())), estimate, images, right))


def effect_of(claim: Claim, arms: Mapping[str, Sequence[float]]) -> tuple[Effect, Callable[[np.ndarray], np.ndarray]]:
    """The effect in the claimed direction, and how it follows from the arms' means (for a bootstrap). arms: name -> a value a seed, the
    treatment first."""
    sign, margin = (1 if claim.direction == "higher" else -1), claim.margin or 0.0
    matrix, controls = np.array(list(arms.values())), [i for i, name in enumerate(arms) if name.startswith("controls")]
    base = lambda m, own: m[own].mean(axis=0) if own else np.zeros(m.shape[1])
    if claim.kind == "retained_fraction":
        gains = lambda m: (m[0] - base(m, controls), m[-1] - base(m, controls))
        ratio = lambda y, x: np.divide(y, x, out=np.full_like(y, np.inf), where=x > 0)
        return of_ratio(*gains(sign * matrix), claim.supported_above), lambda m: ratio(*gains(sign * m))
    against = [[i] for i in controls] if claim.combine == "least_favourable" else [controls]
    paired = [paired_difference(dict(enumerate(sign * matrix[0])), dict(enumerate(sign * base(matrix, own)))) for own in against]
    null = {"no_gain": margin, "tolerance": sign * margin, "equivalence": math.copysign(margin, paired[0].mean or 0.0)}.get(claim.kind, 0.0)
    least = min(paired, key=lambda d: (bool(d.std), (d.mean or 0.0) / (d.std or 1.0)))  # one without spread has no test, and decides
    share = claim.measure.unit.startswith("share") and not controls and 0 <= matrix.min() <= matrix.max() <= 1
    return of_mean(least, null, sign * share), lambda m: sign * (m[0] - base(m, against[paired.index(least)]))


def _of_effects(claim: Claim, origin: str, file: Path) -> Judged:
    """From a table of effects, over the starting points that have a finite value in every arm."""
    case = Judged(claim, origin, file.parent.name)
    if not file.is_file():
        return replace(case, stopped="open")
    with file.open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    number = lambda row: float(row.get(claim.measure.name) or math.nan)
    every = {name: {int(row["start"]): number(row) for row in table if row["arm"] == arm["arm"]} for name, arm in claim.arms.named.items()}
    values = {name: {start: value for start, value in of.items() if is_finite(value)} for name, of in every.items()}
    starts, shown = _in_common(values)
    if not starts:
        return replace(case, stopped=f"open: not measured ({claim.measure.name})")
    stopped = f"open: {len(starts)} of {claim.n}" if len(starts) < claim.n else ""
    return _with_effect(replace(case, values=values, stopped=stopped), shown)


def _correlation(claim: Claim, origin: str, place: str, runs: Sequence[RunRow]) -> Judged:
    """Tau over the settings among these runs, each the mean of its finished ones."""
    rows = [table_row("", RowConfig(), own) for own in grouped(runs, lambda run: run.setting).values()]
    names = (claim.measure.name, claim.against, claim.given)
    means = [[summarize(row.values(name, 1.0).values()).mean for name in names] for row in rows]
    kept = [(row, of) for row, of in zip(rows, means, strict=True) if None not in of]
    base, shown = Condition(place, runs[0].config, tuple(runs)), {"treatment": table_row("", RowConfig(), runs)}
    case = Judged(claim, origin, place, base, rows=shown)
    missing = [name for i, name in enumerate(names) if all(of[i] is None for of in means)]
    if missing or not kept:
        return replace(case, stopped=f"open: not measured ({', '.join(missing or names)})")
    x, y, z = np.array([of for _, of in kept], dtype=float).T
    effect = of_tau([row.shown[0].own for row, _ in kept], claim.axes, x, y, z, 1 if claim.direction == "higher" else -1)
    closed = [f"out of domain: {told}" for gate in claim.gates if (told := _amiss(gate, runs))]
    few = [f"open: {len(kept)} of {claim.n} settings"] if len(kept) < claim.n else []
    return replace(case, effect=effect, stopped=next(iter([*closed, *few]), ""))
