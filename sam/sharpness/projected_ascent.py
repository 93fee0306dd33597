"""Search balls around w for the largest loss by Auto-PGD (Croce & Hein 2020, section 3), as Andriushchenko et al. 2023 do on weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.context import random_like
from sam.sharpness.dataset_loss import DatasetLoss


@dataclass(frozen=True)
class Ball:
    """All delta = radius * scale * u with ||u|| <= 1, in the norm l2 or linf; scale None: ones. All methods write into their argument."""

    norm: str
    radius: float
    scale: Vector | None = None

    def move(self, points: Vector, start: Vector, u: Vector) -> None:
        """points <- start + delta."""
        vectors.copy_(points, start)
        if self.scale is None:
            vectors.add_(points, u, self.radius)
        else:
            torch._foreach_addcmul_(points, self.scale, u, value=self.radius)

    def steepest_(self, gradient: Vector) -> bool:
        """Turn a gradient of L into the u of norm 1 along which a linear loss rises most; False if it is zero or not finite."""
        if self.scale is not None:
            torch._foreach_mul_(gradient, self.scale)
        length = vectors.normalize_(gradient).item()
        if self.norm == "linf":
            torch._foreach_sign_(gradient)
        return math.isfinite(length) and length > vectors.TINY

    def project_(self, u: Vector) -> None:
        """Project u on the unit ball."""
        if self.norm == "linf":
            torch._foreach_clamp_min_(u, -1.0)
            torch._foreach_clamp_max_(u, 1.0)
        else:
            vectors.scale_(u, 1 / vectors.norm(u).clamp(min=1))

    def random(self, points: Vector, generator: torch.Generator) -> Vector:
        """Draw u uniformly on the sphere (l2, of the weights that can move) or in the box (linf)."""
        if self.norm == "linf":
            return random_like(points, generator, "uniform")
        u = random_like(points, generator)
        if self.scale is not None:
            torch._foreach_mul_(u, [(s != 0).to(s.dtype) for s in self.scale])
        vectors.normalize_(u)
        return u


def checkpoints(steps: int) -> list[int]:
    """Return Auto-PGD's checkpoints, in steps: ceil(p_j steps), p = 0.22, then ever closer, at least 0.06 apart."""
    marks, before, share = [], 0.0, 0.22
    while share < 1:
        marks.append(math.ceil(round(share * steps, 9)))
        before, share = share, share + max(share - before - 0.03, 0.06)
    return sorted(set(marks))


def ascend(
    loss: DatasetLoss, ball: Ball, start: Vector, u: Vector, here: tuple[float, Vector], steps: int, momentum: float
) -> tuple[list[float], Vector]:
    """Return L at the point u of the ball and at each point of the ascent from there, and the u where it was largest; here: (L, gradient;
    used up) at u.

    The first step is 2 radii long. At each checkpoint the step is halved if L rose in fewer than 3 of 4 steps since the last one, or if
    neither step nor best point changed; the ascent then goes on from its best point, with the gradient found there and no momentum.
    momentum: the share of the last move in the next one (0.25 in Auto-PGD). The ascent ends early where a gradient is zero or not finite.
    Memory: 6 vectors of D beside start and gradient.
    """
    value, direction = here
    climbs = ball.steepest_(direction)
    best, best_u, best_direction = value, _copy(u), _copy(direction)
    reached = [value]
    size, rises, last_mark, last_best, halved, previous, marks = 2.0, 0, 0, value, False, u, checkpoints(steps)
    for k in range(1, steps + 1):
        if not climbs:
            break
        _step_(ball, direction, u, previous, size, momentum)
        previous, u, before = u, direction, value
        ball.move(loss.points, start, u)
        if k == steps:
            value = loss.value().loss
        else:
            found, direction = loss.value_and_gradient()
            value = found.loss
            climbs = ball.steepest_(direction)
        reached.append(value)
        rises += value > before
        if value > best and climbs:
            best = value
            vectors.copy_(best_u, u)
            vectors.copy_(best_direction, direction)
        if k in marks and k < steps:
            stuck = not halved and best == last_best
            halved = stuck or rises < 0.75 * (k - last_mark)
            if halved:
                size, value, u, direction = size / 2, best, _copy(best_u), _copy(best_direction)
                previous = u
            rises, last_mark, last_best = 0, k, best
    return reached, u if value > best else best_u  # the former where the gradient vanished at the best point


def _step_(ball: Ball, direction: Vector, u: Vector, previous: Vector, size: float, momentum: float) -> None:
    """Turn `direction` into the next point: z = P(u + size direction), then P(u + (1 - momentum) (z - u) + momentum (u - previous)); z
    itself where previous is u (in the first step, and in the first after going back)."""
    vectors.scale_(direction, size)
    vectors.add_(direction, u)
    ball.project_(direction)
    if previous is not u:
        vectors.scale_(direction, 1 - momentum)
        vectors.add_(direction, u, 2 * momentum)
        vectors.add_(direction, previous, -momentum)
        ball.project_(direction)


def _copy(x: Vector) -> Vector:
    return [t.clone() for t in x]


@dataclass(frozen=True)
class Search:
    """steps, momentum: of an ascent; restarts: ascents from random points beside the one from w; draws: random directions, both ways."""

    steps: int
    momentum: float
    restarts: int
    draws: int

    @property
    def cost(self) -> int:
        """The largest work of one ball, in units an image."""
        from_w = 3 * (self.steps - 1) + 1  # the gradient at w is known
        return from_w + self.restarts * (3 + from_w) + 2 * self.draws


@dataclass(frozen=True)
class Found:
    """rise: the largest L found, less L(w): a lower bound of the maximum, never negative. ascent: the same of the ascents alone, None if
    none could begin. spread: the best ascent's rise less the worst one's; None unless two began."""

    rise: float
    ascent: float | None
    spread: float | None


def highest(values: Sequence[float]) -> float:
    """Maximum; propagates NaN."""
    return math.nan if any(math.isnan(v) for v in values) else max(values)


def ascents(
    loss: DatasetLoss, ball: Ball, start: Vector, origin: tuple[float, Vector], search: Search, stream: Callable[[str], torch.Generator]
) -> Iterator[tuple[list[float], Vector]]:
    """Ascend from w and from random points, as `search_balls` does; of each what `ascend` returns."""
    zero = [torch.zeros_like(p) for p in start]
    yield ascend(loss, ball, start, zero, (origin[0], _copy(origin[1])), search.steps, search.momentum)
    for k in range(search.restarts):
        u = ball.random(start, stream(f"start {k}"))
        ball.move(loss.points, start, u)
        there, gradient = loss.value_and_gradient()
        yield ascend(loss, ball, start, u, (there.loss, gradient), search.steps, search.momentum)


def search_balls(
    loss: DatasetLoss,
    balls: Sequence[Ball],
    start: Vector,
    origin: tuple[float, Vector],
    search: Search,
    stream: Callable[[str], torch.Generator],
    others: Callable[[Ball], list[float]] = lambda ball: [],
) -> list[Found]:
    """Search nested balls; a point found in a smaller ball also counts for the larger ones. One `Found` per ball, in input order. origin:
    (L(w), gradient at w), not modified; others: L at further points of a ball. Inside `measuring()` and `no_grad()`; the weights move."""
    seen, results = [origin[0]], [Found(math.nan, None, None)] * len(balls)
    for i in sorted(range(len(balls)), key=lambda i: balls[i].radius):
        ball = balls[i]
        paths = [path for path, _ in ascents(loss, ball, start, origin, search, stream)]
        met = [value for path in paths for value in path]
        for k in range(search.draws):
            u = ball.random(start, stream(f"draw {k}"))
            for _ in range(2):
                ball.move(loss.points, start, u)
                met.append(loss.value().loss)
                vectors.scale_(u, -1.0)
        ends = [highest(path[1:]) for path in paths if len(path) > 1]
        seen = [highest([*seen, *met, *others(ball)])]
        ascent = highest(ends) - origin[0] if ends else None
        results[i] = Found(seen[0] - origin[0], ascent, highest(ends) - min(ends) if len(ends) > 1 else None)
    return results
