"""optimizer.base: what takes the step that a method asks for."""

from typing import Any

import pytest
import torch

from sam.config import ConfigError
from sam.optimizers.build import build
from sam.optimizers.settings import METHODS, OptimizerConfig
from sam.schema import from_dict
from sam.settings import TrainConfig


class Quadratic(torch.nn.Module):
    """L(w) = w'Hw / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.h = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]], dtype=torch.float64)

    def closure(self, backward: bool = True) -> torch.Tensor:
        loss = self.w @ self.h @ self.w / 2
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss


def trained(steps: int, **keys: Any) -> torch.Tensor:
    model = Quadratic()
    optimizer = build(model, OptimizerConfig.of(**keys), steps_per_epoch=steps, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.step(model.closure)
    return model.w.detach()


def adamw(steps: int, rho: float, decay: float, in_loss: bool) -> torch.Tensor:
    """AdamW (Loshchilov & Hutter 2019) with SAM's gradient, by hand: lr 0.01, betas 0.8 and 0.95, eps 1e-8."""
    model = Quadratic()
    w, h, m, v = model.w.detach(), model.h, torch.zeros(3).double(), torch.zeros(3).double()
    added = decay if in_loss else 0.0
    for t in range(1, steps + 1):
        g = h @ w + added * w
        there = w + rho * g / g.norm()
        g = h @ there + added * there
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w = w - 0.01 * (0.0 if in_loss else decay) * w
        w = w - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    return w


@pytest.mark.parametrize("mode", ["loss", "optimizer"])
@pytest.mark.parametrize("rho", [0.0, 0.2])
def test_adamw_by_hand(rho: float, mode: str) -> None:
    keys = {"base": "adamw", "lr": 0.01, "betas": [0.8, 0.95], "weight_decay": 0.1, "weight_decay_mode": mode}
    found = trained(20, method="sam", rho=rho, **keys)
    torch.testing.assert_close(found, adamw(20, rho, 0.1, mode == "loss"), rtol=1e-10, atol=0)
    if rho == 0:
        assert torch.equal(found, trained(20, method="sgd", **keys))


@pytest.mark.contract
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_it(method: str) -> None:
    one, again, other = (trained(5, method=method, base=base, lr=0.01) for base in ("adamw", "adamw", "sgd"))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_what_cannot_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.betas=\[0.9\]: must be two numbers"):
        OptimizerConfig.of(base="adamw", betas=[0.9])
    with pytest.raises(ConfigError, match=r"cuda_graph=true with optimizer.base=adamw"):
        from_dict(TrainConfig, {"optimizer": {"base": "adamw"}, "cuda_graph": True})
    OptimizerConfig.of(base="adamw", momentum=0.0)  # which it does not read
    with pytest.raises(ConfigError, match=r"optimizer.momentum=0 with optimizer.method=momentum_sam"):
        OptimizerConfig.of(method="momentum_sam", momentum=0.0, nesterov=False)


def test_momentum_sam_climbs_against_adamws_first_moment() -> None:
    found = trained(20, method="momentum_sam", base="adamw", lr=0.01, betas=[0.8, 0.95], rho=0.2, weight_decay=0.0)
    w, h, m, v = Quadratic().w.detach(), Quadratic().h, torch.zeros(3).double(), torch.zeros(3).double()
    for t in range(1, 21):
        g = h @ (w - 0.2 * m / m.norm() if t > 1 else w)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w = w - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    torch.testing.assert_close(found, w, rtol=1e-10, atol=0)
