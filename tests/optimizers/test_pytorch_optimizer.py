"""Trajectories of PyPI's pytorch-optimizer beside ours, 20 steps on a loss that is no quadratic, where it is installed.

What differs, and how the two are made to agree: it sums norms in float32 and adds 1e-12 to them (1e-8 in LookSAM), so that its steps are
ours to 1e-7; its adaptive SAM scales every tensor by |w| (asam_eta=0, asam_biases=true); its WSAM mixes as ours does with decouple=False
alone; its LookSAM
takes norms of each tensor (so: one tensor) and looks when a step counter is a multiple of k, from 0 on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_oracles import SHAPES, Bowl, flat
from registered import of
from torch import nn

peer = pytest.importorskip("pytorch_optimizer.optimizer.sam")
BASE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
ONE = ((12,),)


class Constant:
    """A schedule of rho for its GSAM."""

    def step(self) -> float:
        return 0.3


def twice(made: Any, closure: Callable[..., Any]) -> None:
    """A step of those that want the gradient at w before it, and may need it again."""
    made.zero_grad()
    closure()

    def again() -> Any:
        made.zero_grad()
        return closure()

    made.step(again)


def gsam(made: Any, closure: Callable[..., Any]) -> None:
    def pass_() -> tuple[None, Any]:
        made.base_optimizer.zero_grad()
        with torch.enable_grad():
            return None, closure().detach()

    made.step(pass_)


def wsam(made: Any, closure: Callable[..., Any]) -> None:
    def fresh() -> Any:
        made.zero_grad()
        return closure()

    made.step(fresh)


CASES: dict[str, tuple[dict[str, Any], Callable[..., Any], Callable[..., None], tuple[tuple[int, ...], ...]]] = {
    "sam": ({"method": "sam"}, lambda p: peer.SAM(p, torch.optim.SGD, rho=0.3, **BASE), twice, SHAPES),
    "asam": (
        {"method": "asam", "asam_eta": 0.0, "asam_biases": True},
        lambda p: peer.SAM(p, torch.optim.SGD, rho=0.3, adaptive=True, **BASE),
        twice,
        SHAPES,
    ),
    "gsam": (
        {"method": "gsam", "gsam_alpha": 0.4},
        lambda p: peer.GSAM(p, torch.optim.SGD(p, **BASE), nn.Identity(), Constant(), alpha=0.4),
        gsam,
        SHAPES,
    ),
    "wsam": (
        {"method": "weighted_sam", "perturbed_weight": 0.6 / 0.4},
        lambda p: peer.WSAM(nn.Identity(), p, torch.optim.SGD, rho=0.3, gamma=0.6, decouple=False, **BASE),
        wsam,
        SHAPES,
    ),
    "friendly_sam": (
        {"method": "friendly_sam", "fsam_lambda": 0.6},
        lambda p: peer.FriendlySAM(p, torch.optim.SGD, rho=0.3, sigma=1.0, lmbda=0.6, **BASE),
        twice,
        SHAPES,
    ),
    "looksam": (
        {"method": "looksam", "looksam_interval": 3},
        lambda p: peer.LookSAM(p, torch.optim.SGD, rho=0.3, k=3, alpha=0.7, **BASE),
        twice,
        ONE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_its_steps_are_ours(name: str) -> None:
    keys, make, step, shapes = CASES[name]
    bowl = Bowl(shapes=shapes)
    ours, theirs = bowl.parameters(), bowl.parameters()
    optimizer = of(**keys, rho=0.3)(torch.optim.SGD(ours, **BASE))
    made = make(theirs)
    for k in range(20):
        shift = torch.tensor(np.random.RandomState(k).standard_normal(12)) * 0.5  # another batch in each step

        def closure(parameters: list[nn.Parameter], shift: torch.Tensor = shift) -> Any:
            loss = bowl.closure(parameters)(False) + torch.cat([p.reshape(-1) for p in parameters]) @ shift
            loss.backward()
            return loss

        optimizer.step(lambda closure=closure: closure(ours))
        step(made, lambda closure=closure: closure(theirs))
        np.testing.assert_allclose(flat(theirs), flat(ours), rtol=1e-6, atol=1e-6)
    assert np.linalg.norm(flat(ours) - bowl.start) > 0.1
