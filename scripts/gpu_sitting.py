"""A campaign of runs on a machine that is lent for minutes: each call works until its minutes are over, and the next goes on from there.

    python scripts/gpu_sitting.py minutes=9 dataset=cifar10 dataset.path=cifar10.npz out=runs/gpu
    python scripts/gpu_sitting.py minutes=9 out=runs/gpu                            # goes on, in mid-run too; repeats nothing
    python scripts/gpu_sitting.py minutes=9 out=runs/gpu cifar100=cifar100.npz      # with a second data set

The first call chooses precision and number of epochs from a short timing, so that Table 3 (SGD, Rand-SAM, SAM, XSAM) fits with its
measuring into `budget_minutes`, and fixes them for good; runs the tests that want a GPU and the benchmark; and trains. Then come Table
2's N = 2, 3, 5, the second data set, and more seeds. Every run is measured at its end: gap and L^Asc over the full set in float32, L^Avg
and the largest Hessian eigenvalue on a fixed subset. Nothing is downloaded, and neither Hydra nor W&B is needed; PyYAML reads conf/.

`out` then holds campaign.json, rows.json, rows.csv, curves.csv, README.md, log.txt, tests.txt, benchmark.json, all small: with these
alone, on another machine, finished runs are not repeated. A run under way is continued from its checkpoint in `out`/runs. All keys
stand in sam/campaign/options.py.

Exit status: 0 the time was used, or all is done; 1 a run or a measurement failed (the next call tries it again); 2 refused; 3 tests
failed in this call (the rest went on); 75 or 130 stopped by a signal, saved.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path

BEGAN = time.monotonic()
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

NEEDED = {"torch": "torch", "numpy": "numpy", "yaml": "PyYAML", "tqdm": "tqdm"}  # module -> package


def main(arguments: list[str], began: float | None = None) -> int:
    """Exit status; a user's error is one sentence on the standard error output."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        absent = [package for module, package in NEEDED.items() if find_spec(module) is None]
        if absent:
            raise ValueError(f"{', '.join(absent)}: not installed here; install it, where there is no network from wheels brought along.")
        from sam.campaign.options import parse

        options = parse(arguments)
        from sam.campaign.call import sit  # torch is imported only now

        return sit(options, time.monotonic() if began is None else began)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was recorded is kept; the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], BEGAN))
