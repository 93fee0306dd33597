"""Arithmetic on parameter-sized vectors held as lists of tensors. Scalars stay on the device: no host synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

Vector = list[Tensor]
Scalar = float | Tensor

TINY = 1e-12  # a norm below this is treated as this, so that a zero gradient gives a zero perturbation and never NaN
_CHUNK = 65_536
_ROW = 4096


def tensor_norms(x: Vector) -> list[Tensor]:
    """Return the Euclidean norm of each tensor, 0-d tensors in float32 or wider. Long tensors are reduced by rows: on a CPU, float32
    `vector_norm` over one flat vector of 36.5 M entries is 0.2% low, over 65,536 it is good to 5e-7; combined norms of rows to 1e-7."""
    dtype = torch.promote_types(x[0].dtype, torch.float32)
    short = [t for t in x if not _is_long(t)]
    norms = iter(torch._foreach_norm(short, 2, dtype) if short else ())  # few launches
    return [_long_norm(t, dtype) if _is_long(t) else next(norms) for t in x]


def _is_long(t: Tensor) -> bool:
    return t.numel() > _CHUNK and not t.is_cuda


def _is_channels_last(t: Tensor) -> bool:
    return t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)


def _long_norm(t: Tensor, dtype: torch.dtype) -> Tensor:
    if t.ndim > 1:
        parts = torch.linalg.vector_norm(t, dim=tuple(range(1, t.ndim)), dtype=dtype)
    else:
        parts = torch.stack([torch.linalg.vector_norm(piece, dtype=dtype) for piece in t.split(_CHUNK)])
    return torch.linalg.vector_norm(parts)


def norm(x: Vector) -> Tensor:
    """Return the Euclidean norm over all tensors, a 0-d tensor on their device."""
    return torch.linalg.vector_norm(torch.stack(tensor_norms(x)))


def dot(x: Vector, y: Vector) -> Tensor:
    """Return the inner product over all tensors, 0-d float64: products are summed by rows, the rows in float64."""
    return torch.stack([torch.linalg.vecdot(a, b).sum(dtype=torch.float64) for a, b in _matrices(x, y)]).sum()


def gram(x: Vector, y: Vector) -> tuple[Tensor, Tensor, Tensor]:
    """(<x, x>, <x, y>, <y, y>) of two lists of the same shapes, summed as in `dot`: 0-d float64 tensors."""
    square = lambda rows: torch.linalg.vector_norm(rows, dim=1).double().square().sum()
    sums = [(square(a), torch.linalg.vecdot(a, b).sum(dtype=torch.float64), square(b)) for a, b in _matrices(x, y)]
    xx, xy, yy = (torch.stack(each).sum() for each in zip(*sums, strict=True))
    return xx, xy, yy


def _matrices(x: Vector, y: Vector) -> list[tuple[Tensor, Tensor]]:
    """Pair up both as matrices. Short tensors (on a GPU all) are copied into one pair, to launch few kernels; long ones are viewed."""
    joined: list[tuple[Tensor, Tensor]] = []
    alone: list[tuple[Tensor, Tensor]] = []
    for pair in zip(x, y, strict=True):
        (alone if _is_long(pair[0]) and pair[0].ndim > 1 else joined).append(pair)
    return [*([_joined(joined)] if joined else []), *(_rows(*pair) for pair in alone)]


def _joined(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    same = [a.stride() == b.stride() and (a.is_contiguous() or _is_channels_last(a)) for a, b in pairs]
    rest = -sum(a.numel() for a, _ in pairs) % _ROW

    def join(side: tuple[Tensor, ...]) -> Tensor:
        pieces = [t.as_strided((t.numel(),), (1,)) if dense else t.reshape(-1) for t, dense in zip(side, same, strict=True)]
        return _wide(torch.cat([*pieces, side[0].new_zeros(rest)])).view(-1, _ROW)

    left, right = map(join, zip(*pairs, strict=True))
    return left, right


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten two tensors of one shape to matrices of their rows. Channels-last tensors are flattened in memory order, without a copy."""
    if _is_channels_last(a) and _is_channels_last(b):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return _wide(a).flatten(1), _wide(b).flatten(1)


def shaped(flat: Tensor, x: Sequence[Tensor]) -> Vector:
    """Views of a vector (D,), in the shapes of `x`."""
    return [piece.view_as(t) for piece, t in zip(flat.split([t.numel() for t in x]), x, strict=True)]


def empty_like(x: Vector) -> Vector:
    return [torch.empty_like(t, memory_format=torch.preserve_format) for t in x]


def copy_(target: Vector, source: Vector) -> None:
    """target <- source, in place: same storage, bitwise the same values."""
    if target:
        torch._foreach_copy_(target, source)


def normal_like(x: Vector, generator: torch.Generator) -> Vector:
    """Standard normal entries in the shapes of `x`, drawn in memory order: eight times faster on channels-last tensors on a CPU."""
    drawn = empty_like(x)
    for t in drawn:
        t.as_strided((t.numel(),), (1,)).normal_(generator=generator)
    return drawn


def scale_(x: Vector, factor: Scalar) -> None:
    """x <- factor * x."""
    torch._foreach_mul_(x, factor.to(x[0].dtype) if isinstance(factor, Tensor) else factor)


def add_(y: Vector, x: Vector, factor: Scalar = 1.0) -> None:
    """y <- y + factor * x."""
    if not isinstance(factor, Tensor):
        torch._foreach_add_(y, x, alpha=factor)
    elif y[0].is_cuda:  # few launches
        torch._foreach_add_(y, torch._foreach_mul(x, factor.to(x[0].dtype)))
    else:  # no temporaries
        factor = factor.to(x[0].dtype)
        for target, source in zip(y, x, strict=True):
            target.addcmul_(source, factor)


def plus(x: Vector, y: Vector, factor: Tensor) -> Vector:
    """x + factor * y in new tensors, with the strides of x."""
    factor = factor.to(y[0].dtype)
    if x[0].is_cuda:  # few launches
        return list(torch._foreach_add(x, torch._foreach_mul(y, factor)))
    return [torch.addcmul(a, b, factor) for a, b in zip(x, y, strict=True)]  # one pass over memory


def moved(start: Vector, x: Vector, radii: Sequence[float], factor: Tensor | None = None) -> Vector:
    """start_i + radii_i * factor * x_i in new tensors, with the strides of `start`; factor: a 0-d tensor, or None for 1."""
    if len(set(radii)) > 1:
        x, radius = list(torch._foreach_mul(x, list(radii))), 1.0
    else:
        radius = radii[0]
    if factor is None:
        return list(torch._foreach_add(start, x, alpha=radius))
    return plus(start, x, radius * factor)


def normalize_(x: Vector, scope: str = "global", length: Tensor | None = None) -> Tensor:
    """Scale x in place to norm 1 and return the norm it had (0-d; `length` if known). A zero vector stays zero. scope: global: one norm for
    all; layer: every tensor gets norm 1/sqrt(tensors); filter: every row of a tensor (one of one dimension is a row) norm 1/sqrt(rows)."""
    total = norm(x) if length is None else length
    if scope == "global":
        torch._foreach_div_(x, total.clamp(min=TINY).to(x[0].dtype))
    elif scope == "layer":
        torch._foreach_div_(x, [n.clamp(min=TINY).to(x[0].dtype) * len(x) ** 0.5 for n in tensor_norms(x)])
    else:
        rows = sum(t.shape[0] if t.ndim > 1 else 1 for t in x)
        for t in x:
            dims = tuple(range(1, t.ndim)) if t.ndim > 1 else (0,)
            t.div_(torch.linalg.vector_norm(t, dim=dims, keepdim=True).clamp(min=TINY) * rows**0.5)
    return total
