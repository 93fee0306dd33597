"""rho = 0 is plain SGD, bitwise: weights, BatchNorm's buffers and `num_batches_tracked` alike. Popular implementations fail the latter."""

import pytest
import torch
from optimizer_oracles import RULES, Net, batch, net_closure, same
from registered import FOREIGN, of, registered

from sam.core.passes import Passes
from sam.optimizers.sam import SAM

METHODS = {
    **registered(rho=0.0),
    "rand_sam_drawn": of(method="rand_sam", rho=0.0, radius="uniform"),
    "sam_drawn": of(method="sam", rho=0.0, radius="uniform"),
    **{f"sam_n3_{rule}": of(method="sam", rho=0.0, ascent_steps=3, step_rule=rule) for rule in RULES},
    "xsam_k1": of(method="xsam", rho=0.0, alpha_grid=[0.0, 0.5, 1.0, 1.5]),
    "xsam_k3": of(method="xsam", rho=0.0, ascent_steps=3, alpha_refresh=0.5),  # of 4 steps
    "xsam_alpha_0.3": of(method="xsam", rho=0.0, alpha=0.3),
    "late_sam": of(method="late_sam", rho=0.0, start=0.5),
    "looksam": of(method="looksam", rho=0.0, looksam_interval=4),
    "arwp": of(method="rwp", rho=0.0, rwp_eta=0.1, perturbed_weight=0.5),
}
BASE = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def train(dtype: torch.dtype, fused: bool, make=None, momentum: float | None = 0.1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """6 steps (plain torch.optim.SGD if `make` is None); (weights, buffers)."""
    model = Net(dtype, momentum=momentum)
    base = torch.optim.SGD(model.parameters(), fused=fused, **BASE)
    optimizer = make(base, passes=Passes(model)) if make else base
    for k in range(6):
        closure = net_closure(model, batch(8 if k % 3 else 5, k, dtype))
        if make:
            optimizer.step(closure)
        else:
            base.zero_grad()
            closure()
            base.step()
    return list(model.parameters()), list(model.buffers())


@pytest.mark.contract
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", METHODS)
def test_zero_radius_is_bitwise_sgd(name: str, dtype: torch.dtype, fused: bool) -> None:
    weights, buffers = train(dtype, fused, METHODS[name])
    expected_weights, expected_buffers = train(dtype, fused)
    if name in FOREIGN:  # a sum of equal gradients may round
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0.0)
    else:
        assert same(weights, expected_weights)
    assert same(buffers, expected_buffers)
    assert [int(b) for b in buffers if b.dtype == torch.int64] == [6, 6]


def test_cumulative_batch_norm_too() -> None:
    """momentum=None averages over `num_batches_tracked`: one count too many per pass would show in running_mean."""
    weights, buffers = train(torch.float64, True, METHODS["xsam_k3"], momentum=None)
    expected_weights, expected_buffers = train(torch.float64, True, momentum=None)
    assert same(weights, expected_weights) and same(buffers, expected_buffers)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_mean_gradient_at_zero_radius(dtype: torch.dtype, tolerance: float) -> None:
    """The average of N equal gradients is rounded: equal to that precision only."""
    weights, buffers = train(dtype, True, of(method="sam", rho=0.0, ascent_steps=3, descent_gradient="mean"))
    expected_weights, expected_buffers = train(dtype, True)
    for got, expected in zip(weights + buffers, expected_weights + expected_buffers, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance * 10, atol=tolerance)


def test_a_positive_radius_is_not_sgd() -> None:
    """The comparison above can fail."""
    model = Net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), fused=True, **BASE), rho=0.05, passes=Passes(model))
    for k in range(6):
        optimizer.step(net_closure(model, batch(8 if k % 3 else 5, k)))
    assert not same(list(model.parameters()), train(torch.float64, True)[0])
