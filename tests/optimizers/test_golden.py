"""Golden traces: the losses of 20 steps on a small conv-BatchNorm net, float64, momentum, Nesterov, decay in the loss, ragged last batch.

A refactoring must not move them. After a change of the arithmetic that is meant, write them anew, and say so in the commit:

    WRITE_GOLDEN=1 python -m pytest tests/optimizers/test_golden.py

Initial weights and data come from NumPy's RandomState, whose numbers are frozen; Rand-SAM's draws come from torch's CPU generator.
"""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from optimizer_oracles import RULES, Net, batch, flat, net_closure

from sam.core.passes import Passes
from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.xsam import XSAM

FILE = Path(__file__).parent / "golden" / "traces.json"
WRITE = os.environ.get("WRITE_GOLDEN") == "1"
RHO = 0.1
CASES = {
    "sgd": lambda base, **k: SGD(base, **k),
    "rand_sam": lambda base, **k: RandSAM(base, rho=RHO, generator=torch.Generator().manual_seed(1), **k),
    "sam_n1": lambda base, **k: SAM(base, rho=RHO, **k),
    **{
        f"sam_n3_{rule}_{descent}": lambda base, rule=rule, descent=descent, **k: SAM(
            base, rho=RHO, steps=3, rule=rule, descent_gradient=descent, **k
        )
        for rule in RULES
        for descent in ("last", "mean")
    },
    "xsam_k1": lambda base, **k: XSAM(base, rho=RHO, search_interval=5, **k),
    "xsam_k3": lambda base, **k: XSAM(base, rho=RHO, steps=3, search_interval=5, **k),
    "xsam_constant_alpha": lambda base, **k: XSAM(base, rho=RHO, alpha=1.5, **k),
}


def trace(name: str) -> dict[str, list[float]]:
    """The loss of each step, and a summary of what is left at the end: norm of the weights, running statistics."""
    model = Net()
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, fused=True)
    optimizer = CASES[name](base, loss_decay=5e-3, passes=Passes(model))
    sizes = (8, 8, 8, 3)
    losses = [optimizer.step(net_closure(model, batch(sizes[k % 4], k % 4))).item() for k in range(20)]
    weights = flat(model.parameters())
    return {
        "losses": losses,
        "end": [float(abs(weights).sum()), model.norm2.running_mean.sum().item(), model.norm2.running_var.sum().item()],
    }


@pytest.mark.parametrize("name", CASES)
def test_trace(name: str) -> None:
    got = trace(name)
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    if WRITE:
        stored[name] = got
        FILE.write_text(json.dumps({key: stored[key] for key in CASES if key in stored}, indent=1) + "\n")
    expected = stored[name]
    assert got["losses"] == pytest.approx(expected["losses"], rel=1e-9)
    assert got["end"] == pytest.approx(expected["end"], rel=1e-9)


def test_traces_tell_the_methods_apart() -> None:
    stored = json.loads(FILE.read_text())
    assert set(stored) == set(CASES)
    ends = sorted(t["losses"][-1] for t in stored.values())
    assert all(b - a > 1e-7 for a, b in itertools.pairwise(ends))
    assert all(t["losses"][-1] < t["losses"][0] for t in stored.values())
