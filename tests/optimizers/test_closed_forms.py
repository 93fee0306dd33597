"""Every method, step by step, against its paper's update written out in NumPy (float64, several tensors, a non-quadratic loss)."""

import numpy as np
import pytest
import torch
from optimizer_oracles import RULES, SIZE, BaseSGD, Bowl, arc, flat, sam_gradient, unit, xsam_plane

from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.xsam import XSAM

LR, RHO, DECAY, STEPS = 0.05, 0.3, 0.02, 12
BASES = {
    "plain": {"momentum": 0.0, "nesterov": False},
    "momentum": {"momentum": 0.9, "nesterov": False},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}
DECAYS = ("none", "loss", "optimizer")


def setting(base: str, decay: str, fused: bool = True):
    """(bowl, parameters, torch base, options of the method, NumPy base, gradient of the trained loss)."""
    bowl = Bowl()
    parameters = bowl.parameters()
    in_step = DECAY if decay == "optimizer" else 0.0
    in_loss = DECAY if decay == "loss" else 0.0
    torch_base = torch.optim.SGD(parameters, lr=LR, weight_decay=in_step, fused=fused, **BASES[base])
    return (
        bowl,
        parameters,
        torch_base,
        {"loss_decay": in_loss},
        BaseSGD(LR, decay=in_step, **BASES[base]),
        lambda w: bowl.grad(w) + in_loss * w,
    )


def follow(optimizer, bowl, parameters, numpy_base, direction) -> None:
    """Compare weights and returned loss over STEPS steps; `direction(w)` is the oracle's gradient for the base optimizer."""
    closure, w = bowl.closure(parameters), bowl.start
    for _ in range(STEPS):
        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(bowl.loss(w), rel=1e-12)  # the loss at w, without weight decay
        w = numpy_base.step(w, direction(w))
        np.testing.assert_allclose(flat(parameters), w, rtol=1e-11, atol=1e-13)
    assert np.linalg.norm(w - bowl.start) > 0.1  # it went somewhere


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("base", BASES)
def test_sgd(base: str, decay: str) -> None:
    bowl, parameters, torch_base, options, numpy_base, grad = setting(base, decay)
    follow(SGD(torch_base, **options), bowl, parameters, numpy_base, grad)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fused", [True, False])
def test_sam(base: str, decay: str, fused: bool) -> None:
    """Foret et al. 2021: eps = rho g/||g||, descend with the gradient at w + eps; the decay in the loss belongs to both gradients."""
    bowl, parameters, torch_base, options, numpy_base, grad = setting(base, decay, fused)
    follow(SAM(torch_base, rho=RHO, **options), bowl, parameters, numpy_base, lambda w: sam_gradient(grad, w, RHO))


@pytest.mark.parametrize("descent", ["last", "mean"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_n_step_sam(steps: int, rule: str, descent: str) -> None:
    """Tiwary & Aananth 2024, Eqs. 4-5, and the other step rules."""
    for base, decay in (("plain", "none"), ("nesterov", "loss"), ("momentum", "optimizer")):
        bowl, parameters, torch_base, options, numpy_base, grad = setting(base, decay)
        optimizer = SAM(torch_base, rho=RHO, steps=steps, rule=rule, descent_gradient=descent, **options)

        def direction(w, grad=grad):
            return sam_gradient(grad, w, RHO, steps, rule, descent)

        follow(optimizer, bowl, parameters, numpy_base, direction)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("base", BASES)
def test_rand_sam(base: str, decay: str) -> None:
    """Tiwary & Aananth 2024, section 4.2: eps = rho z/||z||; one gradient, at w + eps, and the loss there is the one returned."""
    bowl, parameters, torch_base, options, numpy_base, grad = setting(base, decay)
    optimizer = RandSAM(torch_base, rho=RHO, generator=torch.Generator().manual_seed(5), **options)
    draws, closure, w = torch.Generator().manual_seed(5), bowl.closure(parameters), bowl.start
    for _ in range(STEPS):
        z = torch.cat([torch.empty(s, dtype=torch.float64).normal_(generator=draws).reshape(-1) for s in bowl.shapes]).numpy()
        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(bowl.loss(w + RHO * unit(z)), rel=1e-12)
        w = numpy_base.step(w, grad(w + RHO * unit(z)))
        np.testing.assert_allclose(flat(parameters), w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("steps", [1, 3])
def test_xsam_with_a_search_in_every_step(steps: int, base: str, decay: str) -> None:
    """Chen & Zhou 2026, Eq. 6: ||g_k|| v(alpha), alpha the first maximum of L(w + 2 rho v(alpha)), decay in the loss included."""
    bowl, parameters, torch_base, options, numpy_base, grad = setting(base, decay)
    grid = [k / 4 for k in range(9)]
    optimizer = XSAM(torch_base, rho=RHO, steps=steps, alphas=grid, **options)
    chosen = []

    def direction(w):
        v0, v1, length = xsam_plane(grad, w, RHO, steps)
        points = [w + 2 * RHO * arc(v0, v1, alpha) for alpha in grid]
        alpha = grid[int(np.argmax([bowl.loss(p) + options["loss_decay"] / 2 * p @ p for p in points]))]
        assert optimizer.alpha == alpha
        chosen.append(alpha)
        return length * arc(v0, v1, alpha)

    follow(optimizer, bowl, parameters, numpy_base, direction)
    assert set(chosen) - {0.0, 1.0}  # the search mattered


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.7])
def test_xsam_with_a_constant_alpha(alpha: float) -> None:
    bowl, parameters, torch_base, options, numpy_base, grad = setting("nesterov", "loss")

    def direction(w):
        v0, v1, length = xsam_plane(grad, w, RHO, 3)
        return length * arc(v0, v1, alpha)

    follow(XSAM(torch_base, rho=RHO, steps=3, alpha=alpha, **options), bowl, parameters, numpy_base, direction)


def test_gradient_clipping_shortens_the_descent_gradient_only() -> None:
    bowl, parameters, torch_base, _, numpy_base, grad = setting("momentum", "none")
    limit = 0.5

    def direction(w):
        g = sam_gradient(grad, w, RHO)
        return g * min(1, limit / (np.linalg.norm(g) + 1e-6))  # torch.nn.utils.clip_grad_norm_

    follow(SAM(torch_base, rho=RHO, grad_clip=limit), bowl, parameters, numpy_base, direction)


@pytest.mark.parametrize("everything", [True, False], ids=["all perturbed", "some not"])
def test_xsam_clips_what_it_descends_with(everything: bool) -> None:
    """Where all is perturbed, XSAM knows how long the descent gradient is; where not, the rest counts too."""
    bowl, parameters, torch_base, _, numpy_base, grad = setting("momentum", "none")
    limit, moved = 0.5, np.ones(SIZE)
    if not everything:
        moved[-parameters[-1].numel() :] = 0
        torch_base = torch.optim.SGD(
            [{"params": parameters[:-1]}, {"params": parameters[-1:], "perturb": False}], lr=LR, fused=True, **BASES["momentum"]
        )

    def direction(w):
        v0 = unit(moved * grad(w))
        g = grad(w + RHO * v0)
        length = np.linalg.norm(moved * g)
        g = length * arc(v0, unit(moved * g), 0.4) + (1 - moved) * g
        return g * min(1, limit / (np.linalg.norm(g) + 1e-6))

    follow(XSAM(torch_base, rho=RHO, alpha=0.4, grad_clip=limit), bowl, parameters, numpy_base, direction)


def test_diagnostics() -> None:
    bowl, parameters, torch_base, options, _, grad = setting("plain", "loss")
    optimizer = SAM(torch_base, rho=RHO, steps=3, **options)
    w = bowl.start
    eps = sum(0.1 * unit(g) for g in _gradients(grad, w))
    optimizer.step(bowl.closure(parameters))
    stats = {name: value.item() for name, value in optimizer.stats.items()}
    g = grad(w)
    assert stats["grad_norm"] == pytest.approx(np.linalg.norm(g), rel=1e-6)
    assert stats["eps_over_rho"] == pytest.approx(np.linalg.norm(eps) / RHO, rel=1e-6)
    assert stats["cos_g_eps"] == pytest.approx(unit(g) @ unit(eps), rel=1e-6)
    assert stats["decay_ratio"] == pytest.approx(DECAY * np.linalg.norm(w) / np.linalg.norm(g), rel=1e-6)
    assert len(w) == SIZE


def _gradients(grad, w):
    for _ in range(3):
        g = grad(w)
        yield g
        w = w + RHO / 3 * unit(g)
