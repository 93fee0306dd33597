"""Which radius an arm of the family picks on the tuning runs' validation images, by the product's own rule (sam.tables.picks.pick).

    python results/family/picks.py asam runs/family/tuning     # 0.5
    python results/family/picks.py radii runs/family/tuning    # every pick, with what it was picked from

A pick at an end of its grid is marked; no grid is extended, so that all arms have equally many trials. Exit code 1 where runs are missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sam.evaluation.storing import stored  # noqa: E402
from sam.runs import records  # noqa: E402
from sam.tables.picks import pick  # noqa: E402

MEASURE, CHANCE, TRIALS = "val_accuracy[bn=recalibrated]", 10.0, 6


def scores(arm: Path) -> dict[tuple[float, ...], dict[int, float]]:
    """{(rho,): {seed: validation accuracy}} of an arm, whose runs have a folder of their own; a diverged run counts as chance."""
    found: dict[tuple[float, ...], dict[int, float]] = {}
    for folder, record in records.find_runs(arm):
        config = record["config"]
        values = {name: value for row in stored(folder / records.MEASURES).values() for name, value in row.values.items()}
        value = CHANCE if record["status"] == records.DIVERGED else values.get(MEASURE)
        if records.is_done(record) and value is not None:
            found.setdefault((config["optimizer"]["rho"],), {})[config["seed"]] = value
    if len(found) != TRIALS or len({frozenset(of) for of in found.values()}) > 1:
        raise SystemExit(f"{arm.name}: {TRIALS} radii with the same seeds are expected, finished and measured: {found}")
    return found


def main(name: str, tuning: Path) -> None:
    if name != "radii":
        print(f"{pick(scores(tuning / name), ['optimizer.rho'])[0]:g}")
        return
    for folder in sorted(path for path in tuning.iterdir() if path.is_dir()):
        found = scores(folder)
        chosen = pick(found, ["optimizer.rho"])
        end = " (an end of its grid)" if chosen in (min(found), max(found)) else ""
        grid = ", ".join(f"{rho:g}: {mean(found[rho,].values()):.2f}" for (rho,) in sorted(found))
        print(f"{folder.name}: {chosen[0]:g}{end}; {grid}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
