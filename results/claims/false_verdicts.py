"""How often the ledger's rule is wrong, by simulation: python results/claims/false_verdicts.py

Writes false_verdicts.csv (one claim of each kind: shares of the verdicts at known effects) and coverage.csv (families of ten tests: how
often a region misses some effect) beside itself. The rule and the tests are those of sam/tables; the draws are seeded.
"""

import csv
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from sam.schema import from_dict  # noqa: E402
from sam.tables.claims import Claim  # noqa: E402
from sam.tables.inference import Effect, of_tau, simultaneous  # noqa: E402
from sam.tables.verdicts import effect_of, rule  # noqa: E402

N, SPREAD, MARGIN, GAIN = 20, 0.6, 0.5, 2.0  # seeds, sd of paired differences and margin in points; SAM - SGD of the retained fraction
LOG_MARGIN, LOG_SPREAD = math.log(1.25), 0.3  # of log contrasts, in nats
VERDICTS = ("supported", "supported: real, below the margin", "opposite", "contradicted", "undecided")
# Where in the family: the first test of ten to be rejected (nine others are not), or the last one (nine others are).
REJECTED = Effect(9.0, N, 0.0, 1e-12, lambda alpha: (8.0, 10.0))
OTHERS: dict[str, list[Effect]] = {"first of ten": [], "last of ten": [REJECTED] * 9}  # tests that are no effect were not run
FALSE = {  # kind -> verdicts that are wrong at (no effect, an effect of the margin); "supported" is both kinds of it
    "difference": ({"supported", "opposite"}, {"opposite", "contradicted"}),
    "below both": ({"supported", "opposite"}, {"opposite", "contradicted"}),
    "log_contrast": ({"supported", "opposite"}, {"opposite", "contradicted"}),
    "no_gain": ({"contradicted"}, {"supported", "contradicted"}),
    "equivalence": ({"contradicted"}, {"supported", "contradicted"}),
    "tolerance": ({"supported"}, {"supported", "contradicted"}),
    "retained_fraction": ({"supported"}, {"supported", "contradicted"}),
    "correlation": ({"supported", "opposite"}, set()),
}


CONTROLS = {"below both": 2, "log_contrast": 3}  # of the other kinds one


def claim(kind: str) -> Claim:
    """A claim of this kind; "below both" has two controls, the less favourable of which counts."""
    sam = {"method": "sam"}
    own: dict[str, Any] = {"kind": kind, "margin": MARGIN, "arms": {"treatment": sam, "controls": [sam] * CONTROLS.get(kind, 1)}}
    own |= {
        "below both": {"kind": "difference", "combine": "least_favourable"},
        "log_contrast": {"margin": LOG_MARGIN, "measure": {"name": "train_loss", "transform": "log"}},
        "retained_fraction": {"margin": None, "arms": {**own["arms"], "reference": sam}},
        "correlation": {"arms": {}, "against": "test_accuracy", "axes": ["optimizer.rho"], "margin": 0.1},
    }.get(kind, {})
    return from_dict(Claim, {"id": kind, "statement": kind, "source": "ours", "measure": {"name": "train_loss"}, **own})


def drawn(kind: str, effect: float, draw: np.random.Generator) -> Effect:
    """Arms of N seeds, independent but for the seed's own level, whose paired differences have the standard deviation SPREAD."""
    spread = LOG_SPREAD if kind == "log_contrast" else SPREAD
    seeds = draw.normal(0, 1, N)
    arm = lambda mean: list(mean + seeds + draw.normal(0, spread / math.sqrt(2), N))
    if kind == "retained_fraction":
        return effect_of(claim(kind), {"treatment": arm(effect * GAIN), "controls[0]": arm(0.0), "reference": arm(GAIN)})[0]
    controls = {f"controls[{i}]": arm(0.0) for i in range(CONTROLS.get(kind, 1))}
    return effect_of(claim(kind), {"treatment": arm(effect), **controls})[0]


def correlation(draw: np.random.Generator) -> Effect:
    """42 settings on two axes: sharpness and error follow the training loss, and each other not at all."""
    settings = [{"rho": rho, "lr": lr} for rho in range(7) for lr in range(6)]
    loss = draw.normal(0, 1, 42)
    x, y = (loss + draw.normal(0, 1, 42) for _ in range(2))
    return of_tau(settings, ["rho", "lr"], x, y, loss, 1)


def verdicts(kind: str, effect: float, others: list[Effect], runs: int) -> Counter[str]:
    """Counts of the verdicts of one claim beside the other tests of a family of ten."""
    draw, of, found = np.random.default_rng([len(kind), len(others), round(1000 * effect)]), claim(kind), Counter[str]()
    for _ in range(runs):
        one = correlation(draw) if kind == "correlation" else drawn(kind, effect, draw)
        found[rule(of, one, simultaneous([one, *others], 10, 0.05)[0])] += 1
    return found


def effects(kind: str) -> dict[str, float]:
    """Name -> effect: none, and the margin; of the retained fraction the bounds of both verdicts."""
    if kind == "retained_fraction":
        return {"0.25": 0.25, "0.5": 0.5}
    return {"0": 0.0} if kind == "correlation" else {"0": 0.0, "margin": LOG_MARGIN if kind == "log_contrast" else MARGIN}


def lines(runs: int) -> Iterator[dict[str, object]]:
    for kind, wrong in FALSE.items():
        for (name, effect), bad in zip(effects(kind).items(), wrong, strict=False):
            for where, others in OTHERS.items():
                count = max(runs // 10, 1) if kind == "correlation" else runs
                found = verdicts(kind, effect, others, count)
                false = sum(number for verdict, number in found.items() if verdict.partition(":")[0] in bad)
                shares = {verdict: found[verdict] / count for verdict in VERDICTS}
                yield {"kind": kind, "effect": name, "in the family": where, **shares, "false": false / count, "simulated": count}


# Ten effects in standard errors; the tests are Student's t of N seeds, and share arms (correlation 0.5) or not.
FAMILIES = {
    "all 0": [0.0] * 10,
    "one large": [8.0] + [0.0] * 9,
    "nine large": [8.0] * 9 + [0.0],
    "half near": [2.8] * 5 + [0.0] * 5,
    "all near": [2.8] * 10,
    "all tiny": [0.1] * 10,
    "large, near and tiny": [8.0] * 4 + [2.8] * 3 + [0.1] * 3,
}


def coverage(runs: int) -> Iterator[dict[str, object]]:
    """Shares of families in which some effect lies outside of Holm's region (on the other side, or outside of the interval of a test that
    is not rejected), and outside of some printed interval."""
    of = claim("difference")
    for name, theta in FAMILIES.items():
        for correlated in (0.0, 0.5):
            draw, holms, printed = np.random.default_rng([len(name), int(10 * correlated)]), 0, 0
            for _ in range(runs):
                noise = math.sqrt(correlated) * draw.normal(size=(1, N)) + math.sqrt(1 - correlated) * draw.normal(size=(10, N))
                means = np.array(theta) / math.sqrt(N)
                tests = [effect_of(of, {"treatment": list(m + z), "controls[0]": [0.0] * N})[0] for m, z in zip(means, noise, strict=True)]
                found = simultaneous(tests, 10, 0.05)
                outside = [not f.low <= m <= f.high or f.side * m < 0 or bool(f.side and not m) for f, m in zip(found, means, strict=True)]
                wrong = [f.side * m <= 0 if f.side else o for f, m, o in zip(found, means, outside, strict=True)]
                holms, printed = holms + any(wrong), printed + any(outside)
            shares = {"Holm's region misses": holms / runs, "printed intervals miss": printed / runs, "simulated": runs}
            yield {"effects": name, "correlation": correlated, **shares}


def write(name: str, rows: Iterator[dict[str, object]]) -> None:
    made = list(rows)
    with open(HERE / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    print("\n".join(str(row) for row in made))


if __name__ == "__main__":
    write("false_verdicts.csv", lines(4_000))
    write("coverage.csv", coverage(1_000))
