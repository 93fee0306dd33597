"""Hessian-vector products of the mean loss over a set, against dense autograd over one concatenated batch, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sam.sharpness.dataset_loss import DatasetLoss


def network(affine: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=affine)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)).double()
    net(3 + 2 * torch.randn(50, 2, 4, 4, dtype=torch.float64))
    return net


def samples(n: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(n, 2, 4, 4, dtype=torch.float64, generator=generator), torch.randint(4, (n,), generator=generator)


def directions(net: nn.Module, count: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in net.parameters()] for _ in range(count)]


def flat(tensors: object) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])  # type: ignore[attr-defined]


def dense(net: nn.Module, pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(gradient (D,), Hessian (D, D)) of the mean loss over the pieces, by two backward passes row by row; the net's modes are used."""
    parameters = list(net.parameters())
    count = sum(len(y) for _, y in pieces)
    loss = torch.stack([functional.cross_entropy(net(x), y, reduction="sum") for x, y in pieces]).sum() / count
    gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True))
    rows = [flat(torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True)) for g in gradient]
    return gradient.detach(), torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23, 500])  # 23 = 5 * 4 + 3 = 3 * 7 + 2
def test_in_eval_mode_it_is_one_dense_batch_whatever_the_batches(batch_size: int) -> None:
    net, (x, y) = network(), samples()
    gradient, hessian = dense(copy.deepcopy(net).eval(), [(x, y)])
    loss, along = DatasetLoss(net, x, y, batch_size=batch_size), directions(net, 3)
    with loss.measuring():
        ours = loss.hessian_vector_products(along)
        slope = loss.value_and_gradient()[1]
    assert torch.allclose(flat(slope), gradient, rtol=1e-11, atol=1e-13)
    for v, product in zip(along, ours, strict=True):
        assert [t.shape for t in product] == [p.shape for p in net.parameters()]
        assert torch.allclose(flat(product), hessian @ flat(v), rtol=1e-10, atol=1e-12)
        assert not any(t.requires_grad for t in product)


@pytest.mark.parametrize("batch_size", [4, 7, 23])
def test_in_train_mode_it_differentiates_through_each_batchs_statistics(batch_size: int) -> None:
    net, (x, y) = network(), samples()
    oracle = copy.deepcopy(net).train()
    oracle[3].eval()  # dropout is off in both modes
    gradient, hessian = dense(oracle, list(zip(x.split(batch_size), y.split(batch_size), strict=True)))
    in_eval = dense(copy.deepcopy(net).eval(), [(x, y)])[1]
    loss, along = DatasetLoss(net, x, y, batch_size=batch_size, batchnorm="train"), directions(net, 2)
    with loss.measuring():
        ours = loss.hessian_vector_products(along)
        slope = loss.value_and_gradient()[1]
    assert torch.allclose(flat(slope), gradient, rtol=1e-10, atol=1e-13)
    for v, product in zip(along, ours, strict=True):
        assert torch.allclose(flat(product), hessian @ flat(v), rtol=1e-9, atol=1e-11)
        assert not torch.allclose(flat(product), in_eval @ flat(v), rtol=0.1)


def test_the_products_of_several_directions_are_those_of_each_alone() -> None:
    net, (x, y) = network(), samples()
    loss, along = DatasetLoss(net, x, y, batch_size=7), directions(net, 3)
    with loss.measuring():
        together = loss.hessian_vector_products(along)
        alone = [loss.hessian_vector_products([v])[0] for v in along]
        assert loss.hessian_vector_products([]) == []
    assert torch.equal(flat(map(flat, together)), flat(map(flat, alone)))


@pytest.mark.parametrize("count", [1, 3])
def test_a_sample_counts_3_and_4_more_for_each_direction(count: int) -> None:
    net, (x, y) = network(), samples()
    done: list[float] = []
    loss = DatasetLoss(net, x, y, batch_size=7, progress=done.append)
    with loss.measuring():
        loss.hessian_vector_products(directions(net, count))
    assert done == [(3 + 4 * count) * b for b in (7, 7, 7, 2)]


def test_nothing_is_left_behind() -> None:
    net, (x, y) = network().train(), samples()
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    loss = DatasetLoss(net, x, y, batch_size=7, batchnorm="train")
    with loss.measuring():
        loss.hessian_vector_products(directions(net, 2))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and all(m.training for m in net.modules())
    assert torch.equal(random, torch.get_rng_state())


class Parts(nn.Module):
    """Loss = mean of c x a² + b x + 0 unused: a is curved, b is linear, unused plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (0.5, 2.0, 7.0))
        self.curved = True

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (self.a**2 + self.b if self.curved else self.a + self.b)


@pytest.mark.parametrize("curved", [True, False])
def test_linear_and_unused_parameters_have_no_curvature(curved: bool) -> None:
    net = Parts()
    net.curved = curved
    x = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    loss = DatasetLoss(net, x, x.long(), criterion=lambda outputs, _: outputs, batch_size=2)
    one = torch.ones(1, dtype=torch.float64)
    with loss.measuring():
        (product,) = loss.hessian_vector_products([[one, one, one]])
    assert [t.item() for t in product] == [6.0 if curved else 0.0, 0.0, 0.0]  # 2 * mean(x)


def test_it_goes_through_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.project, self.head = nn.Linear(4, 12).double(), nn.Linear(4, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part[:, None] for part in self.project(x).chunk(3, dim=-1))  # with heads, as the fused kernels take it
            return self.head(functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    net, (x, y) = Attention(), samples(5)
    x = x.flatten(2)[:, :, :4]
    along = directions(net, 1)[0]
    loss = DatasetLoss(net, x, y, batch_size=3)
    with loss.measuring():
        (product,) = loss.hessian_vector_products([along])
        slopes = []
        for sign in (1, -1):
            for p, v in zip(loss.points, along, strict=True):
                p.add_(v, alpha=sign * 1e-5)
            slopes.append(flat(loss.value_and_gradient()[1]))
            for p, v in zip(loss.points, along, strict=True):
                p.sub_(v, alpha=sign * 1e-5)
    assert torch.allclose(flat(product), (slopes[0] - slopes[1]) / 2e-5, atol=1e-8)
