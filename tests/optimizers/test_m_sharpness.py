"""Groups of samples with a perturbation of their own (m-sharpness, Foret et al. 2021, section 4.1), against a loop written out."""

import copy

import numpy as np
import pytest
import torch
from optimizer_oracles import Bowl, Net, arc, batch, buffers, flat, net_closure, net_gradient, sam_gradient, same, unit, xsam_plane
from registered import EVERY_STEP, of, passes
from torch import nn
from torch.nn import functional

from sam.core.passes import Passes
from sam.optimizers.sam import SAM, SGD, RandSAM
from sam.optimizers.settings import METHODS
from sam.optimizers.xsam import XSAM

SIZES = (6, 6, 3)  # the last group is ragged
SHARES = [n / sum(SIZES) for n in SIZES]
RHO, DECAY, LR = 0.2, 0.01, 0.1
GRID = [k / 5 for k in range(11)]


def groups() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch(size, seed) for seed, size in enumerate(SIZES)]


def grad_of(model: nn.Module, data):
    return lambda w: net_gradient(model, data, w, DECAY)


def loss_at(model: nn.Module, data, w: np.ndarray) -> float:
    twin = copy.deepcopy(model)
    nn.utils.vector_to_parameters(torch.tensor(w), twin.parameters())
    return functional.cross_entropy(twin(data[0]), data[1]).item()


def weighted(values) -> np.ndarray:
    return sum(share * value for share, value in zip(SHARES, values, strict=True))


def assert_one_forward_a_group(model: nn.Module, before: nn.Module, points: list[np.ndarray]) -> None:
    """BatchNorm's buffers: one plain forward for each group, in order, at these weights."""
    twin = copy.deepcopy(before)
    for data, point in zip(groups(), points, strict=True):
        nn.utils.vector_to_parameters(torch.tensor(point), twin.parameters())
        twin(data[0])
    for got, expected in zip(buffers(model), buffers(twin), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def one_step(cls, **options):
    """(model before, method after one step of plain SGD, w, weights reached, loss returned)."""
    model = Net()
    before = copy.deepcopy(model)
    w = flat(model.parameters())
    optimizer = cls(torch.optim.SGD(model.parameters(), lr=LR, fused=True), rho=RHO, loss_decay=DECAY, passes=Passes(model), **options)
    loss = optimizer.step([net_closure(model, data) for data in groups()], weights=SHARES)
    if cls is not RandSAM:  # never at w
        assert_one_forward_a_group(model, before, [w] * len(SIZES))
    return before, optimizer, w, flat(model.parameters()), loss.item()


@pytest.mark.contract
@pytest.mark.parametrize("name", METHODS)
def test_groups_descend_along_the_mean_of_their_own_gradients(name: str) -> None:
    """A step over groups is the weighted mean of the steps of each group alone; but where a method draws, or decides for all groups."""

    def moved(data) -> np.ndarray:
        model = Net()
        base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        optimizer = of(method=name, rho=RHO, alpha=0.7)(base, loss_decay=DECAY, passes=Passes(model))
        if optimizer.generators:
            pytest.skip("each group has draws of its own")
        w = flat(model.parameters())
        optimizer.step([net_closure(model, d) for d in data], weights=SHARES if len(data) > 1 else None)
        return flat(model.parameters()) - w

    np.testing.assert_allclose(moved(groups()), weighted(moved([d]) for d in groups()), rtol=1e-9, atol=1e-14)


def test_sgd_over_groups() -> None:
    model, _, w, reached, loss = one_step(SGD)
    np.testing.assert_allclose(reached, w - LR * weighted(grad_of(model, d)(w) for d in groups()), rtol=1e-11)
    assert loss == pytest.approx(weighted(loss_at(model, d, w) for d in groups()), rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "rule", "descent"), [(1, "split", "last"), (3, "split", "last"), (3, "project", "mean"), (2, "boundary", "last")]
)
def test_sam_over_groups(steps: int, rule: str, descent: str) -> None:
    model, _, w, reached, loss = one_step(SAM, steps=steps, rule=rule, descent_gradient=descent)
    expected = weighted(sam_gradient(grad_of(model, d), w, RHO, steps, rule, descent) for d in groups())
    np.testing.assert_allclose(reached, w - LR * expected, rtol=1e-9, atol=1e-11)
    assert loss == pytest.approx(weighted(loss_at(model, d, w) for d in groups()), rel=1e-12)


def test_rand_sam_over_groups() -> None:
    """A draw for each group."""
    model, optimizer, w, reached, loss = one_step(RandSAM, generator=torch.Generator().manual_seed(2))
    draws = torch.Generator().manual_seed(2)
    points = []
    for _ in SIZES:
        z = torch.cat([torch.empty(p.shape, dtype=p.dtype).normal_(generator=draws).reshape(-1) for p in model.parameters()]).numpy()
        points.append(w + RHO * unit(z))
    assert_one_forward_a_group(optimizer.passes.model, model, points)
    expected = weighted(grad_of(model, d)(p) for d, p in zip(groups(), points, strict=True))
    np.testing.assert_allclose(reached, w - LR * expected, rtol=1e-10)
    assert loss == pytest.approx(weighted(loss_at(model, d, p) for d, p in zip(groups(), points, strict=True)), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_xsam_over_groups_has_one_alpha(steps: int) -> None:
    """alpha maximises the weighted mean of the groups' probe losses, each on its own arc."""
    model, optimizer, w, reached, _ = one_step(XSAM, steps=steps, alphas=GRID)
    planes = [xsam_plane(grad_of(model, d), w, RHO, steps) for d in groups()]

    def probe(data, plane, alpha: float) -> float:
        point = w + 2 * RHO * arc(plane[0], plane[1], alpha)
        return loss_at(model, data, point) + DECAY / 2 * point @ point

    losses = [[probe(d, p, a) for a in GRID] for d, p in zip(groups(), planes, strict=True)]
    mean = weighted(np.array(row) for row in losses)
    np.testing.assert_allclose(optimizer.probe_losses, mean, rtol=1e-9)
    alpha = GRID[int(np.argmax(mean))]
    assert optimizer.alpha == alpha
    assert {GRID[int(np.argmax(row))] for row in losses} != {alpha}  # the groups alone would disagree
    np.testing.assert_allclose(reached, w - LR * weighted(n * arc(v0, v1, alpha) for v0, v1, n in planes), rtol=1e-8, atol=1e-10)


def test_equal_weights_by_default_and_wrong_counts_are_refused() -> None:
    bowls = [Bowl(seed) for seed in range(2)]
    parameters = bowls[0].parameters()
    optimizer = SGD(torch.optim.SGD(parameters, lr=1.0))
    w = flat(parameters)
    optimizer.step([bowl.closure(parameters) for bowl in bowls])
    np.testing.assert_allclose(flat(parameters), w - (bowls[0].grad(w) + bowls[1].grad(w)) / 2, rtol=1e-12)
    for bad in ({"weights": [1.0]}, {"ascent": bowls[0].closure(parameters)}):
        with pytest.raises(ValueError, match="equally many"):
            optimizer.step([bowl.closure(parameters) for bowl in bowls], **bad)
    with pytest.raises(ValueError, match="at least one"):
        optimizer.step([])


@pytest.mark.parametrize("steps", [1, 3])
def test_perturbing_with_another_batch(steps: int) -> None:
    """step(closure, ascent=other): eps from `other`, the descent gradient from `closure`; the loss returned is the other batch's."""
    own, other = Bowl(0), Bowl(1)
    parameters = own.parameters()
    w = own.start
    optimizer = SAM(torch.optim.SGD(parameters, lr=LR), rho=RHO, steps=steps)
    loss = optimizer.step(own.closure(parameters), ascent=other.closure(parameters))
    point = w
    for _ in range(steps):
        point = point + RHO / steps * unit(other.grad(point))
    np.testing.assert_allclose(flat(parameters), w - LR * own.grad(point), rtol=1e-12)
    assert loss.item() == pytest.approx(other.loss(w), rel=1e-12)


def test_without_a_perturbation_the_other_batch_does_nothing() -> None:
    """LookSAM between two looks: along the gradient of its own batch."""
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def along(axis: int):
        def closure(backward: bool = True) -> torch.Tensor:
            loss = w[axis] + 0 * w.sum()
            if backward:
                loss.backward()
            return loss

        return closure

    optimizer = of(method="looksam", rho=RHO, looksam_alpha=0.0)(torch.optim.SGD([w], lr=1.0))
    for _ in range(3):
        optimizer.step(along(0), ascent=along(1))
    assert w.tolist() == [-3, 0, 0]


def test_one_group_is_the_plain_step() -> None:
    results = []
    for wrap in (lambda c: c, lambda c: [c]):
        model = Net()
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=LR), rho=RHO, passes=Passes(model))
        optimizer.step(wrap(net_closure(model, batch())))
        results.append([p.detach() for p in model.parameters()])
    assert same(*results)


def test_statistics_are_means_over_the_groups() -> None:
    model, optimizer, w, _, _ = one_step(SAM)
    lengths = [np.linalg.norm(grad_of(model, data)(w)) for data in groups()]
    assert optimizer.stats["grad_norm"].item() == pytest.approx(weighted(lengths), rel=1e-6)
    assert optimizer.stats["eps_over_rho"].item() == pytest.approx(1, rel=1e-6)


@pytest.mark.contract
@pytest.mark.parametrize("name", METHODS)
def test_another_batch_perturbs_and_the_own_one_descends(name: str) -> None:
    model, met = Net(), []

    def closure_of(whose: str, data):
        inner = net_closure(model, data)
        return lambda backward=True: (met.append(whose), inner(backward))[1]

    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    optimizer = of(method=name, rho=RHO, alpha=0.7, **EVERY_STEP)(base, passes=Passes(model))
    optimizer.step(closure_of("own", batch(6)), ascent=closure_of("other", batch(6, 1)))
    assert met == ["other"] * (passes()[name] - 1) + ["own"]
