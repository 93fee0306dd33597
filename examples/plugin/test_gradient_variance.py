"""The notion against per-sample gradients, one by one."""

import gradient_variance
import pytest
import torch
from torch import nn
from torch.nn import functional

import sam.sharpness


def test_batches_of_any_size_estimate_the_trace_over_samples() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(401, 5), torch.randint(0, 3, (401,))
    each = []
    for k in range(len(x)):
        loss = functional.cross_entropy(model(x[k : k + 1].double()), y[k : k + 1])
        each.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    exact = torch.stack(each).var(0).sum().item()
    before = [p.detach().clone() for p in model.parameters()]
    for m in (2, 10, 25):  # the last batch holds one sample
        found = sam.sharpness.evaluate(model, (x, y), "gradient_variance", m=m)
        value, error = found["gradient_variance"], found["gradient_variance_stderr"]
        assert value == pytest.approx(exact, abs=3 * error) and 0 < error < 0.5 * exact
    batches = torch.stack(each).split(200)  # of 200, 200 and 1
    by_hand = sum(len(b) * (b.mean(0) - torch.stack(each).mean(0)).norm().item() ** 2 for b in batches) / (len(batches) - 1)
    assert sam.sharpness.evaluate(model, (x, y), "gradient_variance", m=200)["gradient_variance"] == pytest.approx(by_hand, rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert sam.sharpness.evaluate(model, (x, y), "gradient_variance", m=500) == {
        "gradient_variance": None,
        "gradient_variance_stderr": None,
    }


def test_a_subset_is_in_its_name() -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(40, 5), torch.randint(0, 3, (40,))
    found = sam.sharpness.evaluate(model, (x, y), "gradient_variance", m=4, gradient_variance={"subset": 20})
    assert list(found) == ["gradient_variance[subset=20]", "gradient_variance_stderr[subset=20]"]
    assert gradient_variance.VERSION == 1
