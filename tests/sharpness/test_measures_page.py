"""docs/measures.md names every number and series that a notion returns, and no other."""

import re
from pathlib import Path

import torch
from torch import nn

import sam.sharpness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "measures.md").read_text("utf-8")
SMALL = {"points": 3, "lanczos_steps": 3, "grid": 3}


def test_the_page_is_what_is_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    pair = torch.randn(12, 4), torch.arange(12) % 3
    own = {"landscape": SMALL | {"planes": ["random", "xsam", "eigenvectors"]}, "n_step": {"steps": [1, 3]}}
    found = sam.sharpness.evaluate(model, {"train": pair, "test": pair}, notions="all", m=4, **own)
    measured = {name.partition("[")[0] for name in (*found, *found.series)}
    heads = (re.match(r"- (Series )?((`[^`]*`(, | and )?(\.\.\., )?)+)", line) for line in PAGE.splitlines() if line.startswith("- "))
    named = {name for head in heads if head for name in re.findall(r"`([a-z][a-z0-9_]*)", head[2])}
    assert named - {name for name in named if name.startswith(("val_", "corruption"))} == measured
