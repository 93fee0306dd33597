"""The ledger: one line a claim and setting, from the documents and the runs, as blocks of cells."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam.config import ConfigError
from sam.optimizers.settings import METHODS
from sam.tables import claims, picks
from sam.tables.cells import EMPTY, Block, Cell
from sam.tables.claims import WHERE, Arm, Claim
from sam.tables.conditions import RunRow, grouped, value_text
from sam.tables.inference import Ends
from sam.tables.statistics import Summary, is_finite, rounded, summarize
from sam.tables.verdicts import ADDED, CHANGED, NOT_PICKED, PLANNED, ROOT, UNPLANNED, Judged, judge

TABLE = "Claims"
BRIEF = (0, 2, 3, 4, 5)  # claim, setting, effect, n and verdict fit into 80 columns
HEADER = ("Claim", "Source", "Here", "Effect in the claimed direction", "n", "Verdict here", "The paper's setting")
NOTES = (
    "Effect [simultaneous interval]: at a round bracket stands the value that Holm's test excludes, the other end is Bonferroni's. What is"
    " supported, opposite or contradicted is read from Holm's region, which holds all effects together with 95%; both with at least 90%.",
    "Drawn: 95% interval of a bootstrap over seeds and test images together, for each effect by itself. Where the notion outcomes was not"
    " measured for all of its runs, each arm's binomial error is added as if arms erred on unrelated images, which is too wide. No"
    " accuracy: over seeds alone. Of few seeds it is too narrow (normal values: 85% at 5 seeds, 93% at 20); no verdict is read from it.",
    "Supported: the interval lies above 0 (real, below the margin: and ends below it). Opposite: below 0. Contradicted: it holds 0 and ends"
    " below the margin. Out of domain: a gate does not hold. A large p alone contradicts nothing.",
)
CLAIMS, HASHES = ROOT / "conf" / "claim", ROOT / "results" / "campaign" / "claims.sha256"  # the project's own, and its plan
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"


def documents(folder: Path, hashes: Path | None, given: Mapping[str, float]) -> list[tuple[Claim, str]]:
    """The claims of a folder, each with its origin: as planned, changed since, or added. hashes: the plan's list (sha256sum); None: no
    plan. Raises ConfigError."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError(f"claims={folder}: holds no claim (*.yaml).")
    lines = hashes.read_text(encoding="utf-8").splitlines() if hashes else []
    planned = {Path(name).name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}
    found = []
    for path in files:
        same = planned.get(path.name) == hashlib.sha256(path.read_bytes()).hexdigest()
        found.append((claims.read(path, given), PLANNED if same else CHANGED if path.name in planned else ADDED if hashes else UNPLANNED))
    return found


def own_documents() -> list[tuple[Claim, str]]:
    """The project's own claims, where its folder is there."""
    return documents(CLAIMS, HASHES if HASHES.is_file() else None, {}) if CLAIMS.is_dir() else []


def of_runs(found: Sequence[tuple[Claim, str]], runs: Sequence[RunRow]) -> list[Block]:
    """The ledger of the claims that have runs among these, and the picks that they stand on."""
    ran = lambda case: any(row.ran for row in case.rows.values()) and not case.stopped.endswith(NOT_PICKED)
    return build([case for case in judge(found, runs, {}) if ran(case)])


def build(judged: Sequence[Judged]) -> list[Block]:
    """The confirmatory claims, family by family, then all others."""
    blocks = []
    for family, own in grouped(judged, lambda case: case.claim.family if case.confirmatory else None).items():
        tests = max(family.tests, sum(case.interval is not None for case in own)) if family else 0
        said = f"confirmatory, family {family.name}: Holm over {tests} tests at {family.level:.0%}" if family else ""
        title = f"{TABLE}, {said or 'descriptive: each by itself, in no family of tests'}"
        ordered = sorted(own, key=lambda case: _in_order(case.claim.id))
        by_word = grouped(ordered, lambda case: case.verdict.partition(":")[0])
        found = ", ".join(f"{len(cases)} {word} ({', '.join(case.claim.id for case in cases)})" for word, cases in by_word.items())
        finding = f"{'Confirmatory' if family else 'Descriptive'} claims: {found}; each setting counts."
        notes = (*NOTES, "A test of the family that was not run counts as p = 1.") if family else NOTES
        blocks.append(Block(TABLE, title, 1, HEADER, tuple(map(_row, ordered)), notes, finding=finding, about=TABLE, brief=BRIEF))
    return sorted(blocks, key=lambda block: "descriptive" in block.title)


def short(judged: Sequence[Judged]) -> Block:
    """The ledger of a README, one row a claim with a line for each setting: the planned ones, and of all others those with a verdict."""
    by = lambda case: (not case.confirmatory, _in_order(case.claim.id))
    shown = sorted((case for case in judged if case.confirmatory or (case.interval and case.claim.kind != "descriptive")), key=by)
    others = sorted({case.claim.id for case in judged} - {case.claim.id for case in shown}, key=_in_order)
    why = lambda case: ", and ".join(dict.fromkeys([case.origin or "planned", case.verdict.partition(":")[0]]))
    left = grouped([case for name in others for case in judged if case.claim.id == name], why)
    rows, here = [], dict[str, dict[str, None]]()
    for (name, origin), cases in grouped(shown, lambda case: (case.claim.id, "" if case.confirmatory else f" ({case.origin})")).items():
        claim, lines = cases[0].claim, list[tuple[str, ...]]()
        for case in cases:
            here.setdefault(case.place, {}).update(dict.fromkeys(part for part in _here(case) if "loss" not in part))
            lines.append((case.place, *(", ".join(cell.parts) for cell in _row(case)[3:5]), case.verdict.partition(" (")[0]))
        texts = [(f"{name}. {claim.statement}{origin}",), (f"{claim.stance}: {re.split(r' [(]|; ', claim.source)[0]}",)]
        rows.append(tuple(Cell("value", parts) for parts in (*texts, *zip(*lines, strict=True))))
    notes = [f"{place}: {', '.join(parts)}." for place, parts in here.items() if parts]
    notes.append("Holm's correction over the planned ones; every other stands alone, at 95%. From claim to verdict: docs/claims.md.")
    notes += [f"{words.capitalize()}: {', '.join(dict.fromkeys(case.claim.id for case in own))}." for words, own in left.items()]
    header = (*HEADER[:2], "Setting", *HEADER[3:6])
    return Block(TABLE, "Planned claims, and others that have a verdict", 1, header, tuple(rows), tuple(notes), about=TABLE)


def _in_order(name: str) -> tuple[int, str]:
    """ "2" before "12b"."""
    return int("0" + re.split(r"\D", name)[0]), name


def _row(case: Judged) -> tuple[Cell, ...]:
    claim = case.claim
    controls = " and ".join(_arm(arm) for name, arm in claim.arms.named.items() if name != "treatment")
    arms = _arm(claim.arms.treatment) + (f" against {controls}" if controls else "")
    origin = (case.origin,) if case.origin in (ADDED, UNPLANNED) else ()
    behind = [(run.folder, case.values.get(arm, {}).get(run.config.seed)) for arm, row in case.rows.items() for run in row.runs]
    folders, numbers = tuple(folder for folder, _ in behind), tuple(number for _, number in behind)
    effect = case.effect
    low, high = (case.interval.low, case.interval.high) if case.interval else (None, None)
    summary = Summary(effect.n, effect.estimate, None, low, high) if effect and effect.n else None
    return (
        Cell("label", (claim.id, claim.statement, arms, *origin)),
        Cell("value", (claim.stance, claim.source), HEADER[1]),
        Cell("value", (case.place, *_here(case)), HEADER[2]),
        Cell("value", _effect(case), HEADER[3], summary, folders=folders, numbers=numbers),
        Cell("value", (f"{effect.n if effect else 0}/{claim.n}",), HEADER[4]),
        Cell("value", (case.verdict,), HEADER[5], best=case.verdict.startswith(("supported", "contradicted", "opposite"))),
        Cell("value", (case.in_paper,), HEADER[6]),
    )


def _arm(arm: Arm) -> str:
    """ "SAM (ascent_steps 1, rho @R)"."""
    method = METHODS[arm["method"]].label if "method" in arm else arm.get("arm", "all runs")
    rest = ", ".join(f"{name} {value_text(value)}" for name, value in arm.items() if name not in ("method", "arm"))
    return f"{method} ({rest})" if rest else method


def _here(case: Judged) -> tuple[str, ...]:
    """Network, parameters, images, pixels, epochs, final training loss of the treatment, picks."""
    if case.base is None:
        return ()
    runs = (own := case.rows["treatment"].runs) or case.base.runs
    first, images = runs[0], WHERE["data"](runs[0])
    about = picks.about(images)
    pixels = images.partition(" at ")[2].partition(" (")[0] or (f"{about.image_size} x {about.image_size}" if about else "")
    train, count = WHERE["train_size"](first), first.record.get("parameters")
    loss = summarize(run.measures.get("train_loss", (run.record.get("final") or {}).get("train_loss")) for run in own).mean
    parts = [WHERE["model"](first), f"{count:,} parameters" if count else "", f"{train:,} images" if train else "", pixels]
    parts += [f"{first.config.epochs} epochs", f"training loss {loss:.2g}" if is_finite(loss) else ""]
    return tuple(filter(None, [*parts, *(f"{name} = {value:g}" for name, value in case.picked.items() if value is not None)]))


def _effect(case: Judged) -> tuple[str, ...]:
    effect, i, unit = case.effect, case.interval, "" if case.claim.kind in ("retained_fraction", "correlation") else case.claim.measure.unit
    if effect is None or effect.estimate is None:
        return EMPTY
    digits = 2 + (0 < abs(case.claim.margin or 0.0) < 0.1)  # an end can be told from the margin
    ends = _ends((i.low, i.high), digits, effect.null if i.side else None) if i else ""
    drawn = (f"drawn {_ends(case.drawn, digits)}",) if case.drawn else ()
    return (f"{rounded(effect.estimate, digits, sign=True)} {ends}".rstrip(), *((unit,) if unit else ()), *drawn)


def _ends(ends: Ends, digits: int, excluded: float | None = None) -> str:
    text = [("∞" if end > 0 else "-∞") if math.isinf(end) else rounded(end, digits, sign=True) for end in ends]
    left, right = "(" if ends[0] in (excluded, -math.inf) else "[", ")" if ends[1] in (excluded, math.inf) else "]"
    return f"{left}{text[0]}, {text[1]}{right}" if ends[0] <= ends[1] else f"all but ({text[1]}, {text[0]})"


def data(case: Judged) -> dict[str, Any]:
    """A line of the ledger for programs."""
    claim, effect, interval = case.claim, case.effect, case.interval
    finite = lambda end: end if is_finite(end) else None
    return {
        **{name: getattr(claim, name) for name in ("id", "statement", "stance", "source", "kind", "direction", "margin")},
        **{"setting": case.place, "origin": case.origin, "confirmatory": case.confirmatory, "here": list(_here(case))},
        **{"effect": effect and effect.estimate, "unit": claim.measure.unit, "n": effect.n if effect else 0, "planned": claim.n},
        **{"p": effect and effect.p, "p_holm": interval and interval.p_holm, "low": interval and finite(interval.low)},
        **{"high": interval and finite(interval.high), "drawn": case.drawn, "verdict": case.verdict, "paper": case.in_paper},
    }


def placed(text: str, table: str) -> str:
    """A page with the table between its markers. Raises ConfigError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"readme: must hold {BEGIN} and, below it, {END}, each once.")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n\n{table.strip()}\n\n{END}{text.partition(END)[2]}"
