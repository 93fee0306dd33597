"""Four ways to get sharpness-aware minimization silently wrong, each shown on naive code and then refuted for ours."""

import numpy as np
import pytest
import torch
from optimizer_oracles import Net
from torch import nn
from torch.nn import functional

from sam.core import vectors
from sam.core.passes import Passes
from sam.optimizers.sam import SAM, RandSAM
from sam.optimizers.xsam import XSAM

RHO = 0.5


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    random = np.random.RandomState(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.tensor(0.3 * random.standard_normal(p.shape)))
    return model, torch.tensor(random.standard_normal((64, 16)), dtype=torch.float32), torch.tensor(random.randint(0, 4, 64))


def sharpness_in_float32() -> float:
    """L(w + rho g/||g||) - L(w)."""
    model, x, y = mlp()
    loss = functional.cross_entropy(model(x), y)
    g = torch.cat([t.reshape(-1) for t in torch.autograd.grad(loss, list(model.parameters()))]).double()
    w = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    nn.utils.vector_to_parameters((w + RHO * g / g.norm()).float(), model.parameters())
    return (functional.cross_entropy(model(x), y) - loss).item()


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_trap_a_naive_one_autocast_context_round_both_passes() -> None:
    """Autocast keeps the bf16 copies of pass 1: the second pass never sees the perturbation."""
    model, x, y = mlp()
    with autocast():
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        length = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(RHO * p.grad / length)
        rise = (functional.cross_entropy(model(x), y) - loss).item()
    assert rise < 0.3 * sharpness_in_float32()


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("method", [SAM, XSAM])
def test_trap_a_ours_inside_a_callers_context(method: type, inner: bool) -> None:
    """Every pass, and whatever the caller runs after the step in the same context, sees the weights as they are."""
    model, x, y = mlp()
    losses = []

    def closure(backward: bool = True):
        if inner:
            with autocast():
                loss = functional.cross_entropy(model(x).float(), y)
        else:
            loss = functional.cross_entropy(model(x).float(), y)
        if backward:
            loss.backward()
            losses.append(loss.item())
        return loss

    optimizer = method(torch.optim.SGD(model.parameters(), lr=0.5), rho=RHO, passes=Passes(model))
    with autocast():
        optimizer.step(closure)
        after = functional.cross_entropy(model(x).float(), y).item()
    assert losses[1] - losses[0] == pytest.approx(sharpness_in_float32(), rel=0.05)
    with autocast():
        assert functional.cross_entropy(model(x).float(), y).item() == after


def test_trap_a_what_a_caller_has_cached_is_not_what_a_perturbed_first_pass_sees() -> None:
    model, x, y = mlp()

    def closure(backward: bool = True):
        loss = functional.cross_entropy(model(x).float(), y)
        loss.backward()
        return loss

    optimizer = RandSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, passes=Passes(model))
    with autocast():
        before = functional.cross_entropy(model(x).float(), y).item()
        assert optimizer.step(closure).item() != before


# WRN-28-10's shape classes, 36.5 M entries: few tensors, long rows; views of one buffer keep memory at 146 MB.
SHAPES = [(640, 640, 3, 3)] * 7 + [(640, 320, 3, 3)] + [(320, 320, 3, 3)] * 8 + [(160, 160, 3, 3)] * 6 + [(10, 640), (640,), (160,)]


def wide_vector() -> tuple[torch.Tensor, list[torch.Tensor], float]:
    """(flat buffer, views of it, the true norm in float64)."""
    sizes = [int(np.prod(s)) for s in SHAPES]
    buffer = torch.empty(sum(sizes)).uniform_(-1e-3, 1e-3, generator=torch.Generator().manual_seed(0))
    views = [piece.view(shape) for piece, shape in zip(buffer.split(sizes), SHAPES, strict=True)]
    exact = sum(float(piece.double().square().sum()) for piece in buffer.split(2**20)) ** 0.5
    return buffer, views, exact


def test_trap_b_norms_of_36_million_float32_entries() -> None:
    """One flat `vector_norm` on a CPU sums in float32 and is tenths of a percent low; rho is then as wrong."""
    buffer, views, exact = wide_vector()
    assert 36e6 < buffer.numel() < 37.5e6
    assert abs(torch.linalg.vector_norm(buffer).item() / exact - 1) > 1e-3
    assert abs(vectors.norm(views).item() / exact - 1) < 1e-5
    assert abs(vectors.norm([buffer]).item() / exact - 1) < 1e-5  # one-dimensional tensors are cut into pieces
    assert abs(vectors.dot(views, views).item() / exact**2 - 1) < 1e-5


def test_trap_c_low_precision_weights_round_the_perturbation_away() -> None:
    """bf16 weights: most do not move, the rest point elsewhere. (bf16 copies of float32 weights: longer than rho, and elsewhere too.)"""
    random = torch.Generator().manual_seed(0)
    w = torch.randn(400_000, generator=random) * 0.03
    eps = torch.randn(400_000, generator=random)
    eps *= 0.01 / eps.norm()
    stored = (w.bfloat16() + eps.bfloat16()).float() - w.bfloat16().float()
    copied = (w + eps).bfloat16().float() - w.bfloat16().float()
    for moved in (stored, copied):
        assert (moved == 0).float().mean() > 0.75
        assert moved @ eps / (moved.norm() * eps.norm()) < 0.6
    assert stored.norm() < 0.8 * eps.norm() and copied.norm() > 1.5 * eps.norm()
    for dtype in (torch.bfloat16, torch.float16):
        parameter = nn.Parameter(w[:10].to(dtype))
        with pytest.raises(ValueError, match=f"SAM cannot perturb {dtype} weights"):
            SAM(torch.optim.SGD([parameter], lr=0.1), rho=0.05)


def test_trap_d_rebinding_data_moves_the_weights() -> None:
    """`p.data = saved` restores the values at a new address: a captured CUDA graph keeps reading the old one. Here the weights point
    elsewhere during a pass, and to the same storage as ever after it."""
    model = Net()
    addresses = [p.data_ptr() for p in model.parameters()]
    saved = [p.data.clone() for p in model.parameters()]
    for p, s in zip(model.parameters(), saved, strict=True):
        p.data = s
    assert all(p.data_ptr() != a for p, a in zip(model.parameters(), addresses, strict=True))

    model, x, y = mlp()
    addresses = [p.data_ptr() for p in model.parameters()]
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), rho=RHO, steps=3, passes=Passes(model))
    seen = []

    def closure(backward: bool = True):
        seen.append([p.data_ptr() for p in model.parameters()])
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert seen[::4] == [addresses] * 3 and [p.data_ptr() for p in model.parameters()] == addresses
    assert not set(addresses) & {address for pass_ in seen if pass_ != addresses for address in pass_}  # elsewhere: written anew
