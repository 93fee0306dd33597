"""Vector arithmetic over lists of tensors, against NumPy on the concatenated vector."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam.core import vectors

SHAPES = ((4, 3, 2, 2), (5,), (3, 7), (1,), ())
DTYPES = [(torch.float64, 1e-13), (torch.float32, 2e-6)]


def sample(seed: int, dtype: torch.dtype = torch.float64, layout: torch.memory_format = torch.contiguous_format) -> list[torch.Tensor]:
    random = np.random.RandomState(seed)
    x = [torch.tensor(random.standard_normal(s), dtype=dtype) for s in SHAPES]
    return [x[0].contiguous(memory_format=layout), *x[1:]]


def flat(x: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([t.double().numpy().reshape(-1) for t in x])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_norm_and_dot(dtype: torch.dtype, tolerance: float, layout: torch.memory_format) -> None:
    x, y = sample(0, dtype, layout), sample(1, dtype)
    assert vectors.norm(x).item() == pytest.approx(np.linalg.norm(flat(x)), rel=tolerance)
    assert vectors.dot(x, y).item() == pytest.approx(flat(x) @ flat(y), rel=20 * tolerance)
    assert vectors.dot(x, y).dtype == torch.float64 and vectors.norm(x).shape == vectors.dot(x, y).shape == ()
    each = [np.linalg.norm(t.double().numpy()) for t in x]
    np.testing.assert_allclose([n.item() for n in vectors.tensor_norms(x)], each, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_inner_product_of_two_channels_last_vectors(dtype: torch.dtype, tolerance: float) -> None:
    x, y = sample(0, dtype, torch.channels_last), sample(1, dtype, torch.channels_last)
    assert vectors.dot(x, y).item() == pytest.approx(flat(x) @ flat(y), rel=20 * tolerance)


@pytest.mark.parametrize("layouts", [(torch.channels_last, torch.channels_last), (torch.channels_last, torch.contiguous_format)])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_inner_products_of_short_and_long_tensors(dtype: torch.dtype, tolerance: float, layouts: tuple[torch.memory_format, ...]) -> None:
    """Equal and different strides, gaps, views into the middle of a tensor; long tensors (over 65,536 entries) of 1 and 4 dimensions."""
    random = np.random.RandomState(2)

    def made(layout: torch.memory_format) -> list[torch.Tensor]:
        wide, long, filters = (torch.tensor(random.standard_normal(s), dtype=dtype) for s in ((7, 40), 90_000, (128, 70, 3, 3)))
        tail = [wide[:, 5:25], wide.t(), long, long[17:4200], filters.contiguous(memory_format=layout)]
        return [*sample(random.randint(99), dtype, layout), *tail]

    x, y = map(made, layouts)
    a, b = flat(x), flat(y)
    assert vectors.dot(x, y).item() == pytest.approx(a @ b, abs=tolerance * np.abs(a) @ np.abs(b))
    for got, expected in zip(vectors.gram(x, y), (a @ a, a @ b, b @ b), strict=True):
        assert got.item() == pytest.approx(expected, abs=tolerance * np.abs(a) @ np.abs(b))
        assert got.dtype == torch.float64 and got.shape == ()
    np.testing.assert_allclose([n.item() for n in vectors.tensor_norms(x)], [t.double().norm().item() for t in x], rtol=tolerance)
    assert vectors.norm(x).item() == pytest.approx(np.linalg.norm(a), rel=tolerance)


def test_short_tensors_take_few_operations() -> None:
    """So do all tensors on a GPU, where every operation is a launch."""
    random = np.random.RandomState(3)
    x, y = ([torch.tensor(random.standard_normal((3, 4))) for _ in range(30)] for _ in range(2))
    for taken, at_most in ((vectors.dot, 12), (vectors.gram, 24)):
        kernels = []
        for count in (2, 30):
            with Kernels() as seen:
                taken(x[:count], y[:count])
            kernels.append(seen.count)
        assert kernels[0] == kernels[1] < at_most


class Kernels(TorchDispatchMode):
    """Counts operations other than views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(a.alias_info is not None for a in func._schema.arguments)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_inner_products_on_a_gpu(dtype: torch.dtype, tolerance: float) -> None:
    x, y = ([t.cuda() for t in sample(seed, dtype, torch.channels_last)] for seed in (0, 1))
    there = [t.cpu() for t in x], [t.cpu() for t in y]
    assert vectors.dot(x, y).item() == pytest.approx(flat(there[0]) @ flat(there[1]), rel=20 * tolerance)
    assert vectors.dot(x, x).item() == pytest.approx(flat(there[0]) @ flat(there[0]), rel=tolerance)


def test_normal_draws_have_the_shapes_and_strides_and_are_those_of_the_flat_generator() -> None:
    """A contiguous tensor gets the draws that `normal_` gives it; a channels-last one the same, in its own order of memory."""
    x = sample(0, torch.float32, torch.channels_last)
    generator, twin = (torch.Generator().manual_seed(5) for _ in range(2))
    for like, z in zip(x, vectors.normal_like(x, generator), strict=True):
        assert (z.shape, z.stride(), z.dtype) == (like.shape, like.stride(), like.dtype)
        in_memory = z.permute(0, 2, 3, 1) if z.ndim == 4 else z
        assert torch.equal(in_memory.reshape(-1), torch.empty(like.numel()).normal_(generator=twin))


def test_a_known_length_is_not_taken_again() -> None:
    x = sample(0)
    assert vectors.normalize_(x, length=torch.tensor(2.0, dtype=torch.float64)).item() == 2
    assert [t.tolist() for t in x] == [(t / 2).tolist() for t in sample(0)]


def test_adding_with_a_factor_on_the_device() -> None:
    x, y = sample(0), sample(1, layout=torch.channels_last)
    expected = flat(y) + 0.3 * flat(x)
    vectors.add_(y, x, torch.tensor(0.3, dtype=torch.float64))
    np.testing.assert_allclose(flat(y), expected, rtol=1e-13)


@pytest.mark.parametrize("radii", [[0.5] * 5, [0.1, 0.2, 0.0, -1.0, 3.0]])
@pytest.mark.parametrize("factor", [None, -0.7])
def test_sums_in_new_tensors(factor: float | None, radii: list[float]) -> None:
    start, x = (sample(k, layout=torch.channels_last) for k in range(2))
    before = flat(start), flat(x)
    scalar = None if factor is None else torch.tensor(factor, dtype=torch.float64)
    each = np.repeat(radii, [t.numel() for t in x]) * (1 if factor is None else factor)
    new = vectors.moved(start, x, radii, scalar)
    np.testing.assert_allclose(flat(new), before[0] + each * before[1], rtol=1e-13, atol=1e-15)
    if scalar is not None:
        np.testing.assert_allclose(flat(vectors.plus(start, x, scalar)), before[0] + factor * before[1], rtol=1e-13, atol=1e-15)
    assert (flat(start) == before[0]).all() and (flat(x) == before[1]).all()
    assert [t.stride() for t in new] == [t.stride() for t in start]
    assert not {t.data_ptr() for t in new} & {t.data_ptr() for t in [*start, *x]}


def test_low_precision_sums_are_wide() -> None:
    """4096 ones: a bf16 sum stops at 256, a float16 one overflows when squared values are larger."""
    for dtype, value in ((torch.bfloat16, 1.0), (torch.float16, 100.0)):
        x = [torch.full((64, 64), value, dtype=dtype), torch.full((4096,), value, dtype=dtype)]
        assert vectors.norm(x).item() == pytest.approx(value * 8192**0.5, rel=1e-6)
        assert vectors.dot(x, x).item() == pytest.approx(value**2 * 8192, rel=1e-6)


def test_long_one_dimensional_vectors_are_cut() -> None:
    x = torch.rand(200_003, generator=torch.Generator().manual_seed(0))
    assert vectors.norm([x]).item() == pytest.approx(np.linalg.norm(x.double().numpy()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", [0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_in_place_arithmetic(factor: float | torch.Tensor, dtype: torch.dtype) -> None:
    """A float or a 0-d tensor of whatever precision; storage and dtype stay."""
    tolerance = 1e-15 if dtype == torch.float64 else 1e-6
    x, y = sample(0, dtype), sample(1, dtype)
    before_x, before_y, addresses = flat(x), flat(y), [t.data_ptr() for t in y]
    vectors.add_(y, x, factor)
    np.testing.assert_allclose(flat(y), before_y + 0.3 * before_x, rtol=tolerance, atol=tolerance)
    vectors.scale_(y, factor)
    np.testing.assert_allclose(flat(y), 0.3 * (before_y + 0.3 * before_x), rtol=tolerance, atol=tolerance)
    vectors.add_(y, x)
    np.testing.assert_array_equal(flat(x), before_x)
    vectors.copy_(y, x)
    np.testing.assert_array_equal(flat(y), before_x)
    assert [t.data_ptr() for t in y] == addresses and all(t.dtype == dtype for t in y)


def rows(x: np.ndarray) -> list[np.ndarray]:
    return list(x.reshape(len(x), -1)) if x.ndim > 1 else [x]


@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_normalize(scope: str, dtype: torch.dtype, tolerance: float) -> None:
    x = sample(2, dtype)[:4]
    arrays = [t.double().numpy().copy() for t in x]
    pieces = {
        "global": [np.concatenate([a.reshape(-1) for a in arrays])],
        "layer": [a.reshape(-1) for a in arrays],
        "filter": [row for a in arrays for row in rows(a)],
    }[scope]
    expected = np.concatenate([p / np.linalg.norm(p) / len(pieces) ** 0.5 for p in pieces])
    length = vectors.normalize_(x, scope)
    assert length.item() == pytest.approx(np.linalg.norm(np.concatenate([a.reshape(-1) for a in arrays])), rel=tolerance)
    np.testing.assert_allclose(flat(x), expected, rtol=10 * tolerance)
    assert np.linalg.norm(flat(x)) == pytest.approx(1, rel=10 * tolerance)


@pytest.mark.parametrize("scope", ["global", "layer", "filter"])
def test_zero_stays_zero(scope: str) -> None:
    x = [torch.zeros(3, 2), torch.zeros(4)]
    assert vectors.normalize_(x, scope).item() == 0
    assert not flat(x).any()


def test_empty_like_keeps_the_layout() -> None:
    x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    copy = vectors.empty_like([x])[0]
    assert copy.stride() == x.stride() and copy.data_ptr() != x.data_ptr()
