"""Search balls around w for the largest loss by Auto-PGD (Croce & Hein 2020, section 3), as Andriushchenko et al. 2023 do on weights."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.context import random_like
from sam.sharpness.dataset_loss import Around, unit_

Stream = Callable[[str], torch.Generator]


class Ball(NamedTuple):
    """All delta = radius * scale * u with ||u|| <= 1, in the norm l2 or linf; scale None: ones. All methods write into their argument."""

    norm: str
    radius: float
    scale: Vector | None = None

    def move(self, w: Around, u: Vector) -> None:
        """Move the weights to w + delta."""
        if self.scale is None:
            w.move((self.radius, u))
        else:
            w.move()
            torch._foreach_addcmul_(w.loss.points, self.scale, u, value=self.radius)

    def steepest_(self, gradient: Vector) -> bool:
        """Turn a gradient of L into the u of norm 1 along which a linear loss rises most; False if it is zero or not finite."""
        if self.scale is not None:
            torch._foreach_mul_(gradient, self.scale)
        length = unit_(gradient)
        if self.norm == "linf":
            torch._foreach_sign_(gradient)
        return length is not None

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
            return random_like(points, generator, uniform=True)
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


def ascend(w: Around, ball: Ball, u: Vector, here: tuple[float, Vector], steps: int, momentum: float) -> tuple[list[float], Vector]:
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
        ball.move(w, u)
        if k == steps:
            value = w.loss.value().loss
        else:
            found, direction = w.loss.value_and_gradient()
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


class Search(NamedTuple):
    """steps, momentum: of an ascent; restarts: ascents from random points beside the one from w; draws: random directions, both ways."""

    steps: int
    momentum: float
    restarts: int
    draws: int = 0

    @classmethod
    def of(cls, settings: Any, draws: int = 0) -> Self:
        """As the keys of a notion's section say."""
        return cls(settings.steps, settings.momentum, settings.restarts, draws)

    @property
    def cost(self) -> int:
        """The largest work of one ball, in units an image."""
        from_w = 3 * (self.steps - 1) + 1  # the gradient at w is known
        return from_w + self.restarts * (3 + from_w) + 2 * self.draws


class Found(NamedTuple):
    """rise: the largest L found, less L(w): a lower bound of the maximum, never negative. ascent: the same of the ascents alone, None if
    none could begin. spread: the best ascent's rise less the worst one's; None unless two began."""

    rise: float
    ascent: float | None
    spread: float | None


def highest(values: Sequence[float]) -> float:
    """Maximum; propagates NaN."""
    return math.nan if any(math.isnan(v) for v in values) else max(values)


def ascents(w: Around, ball: Ball, search: Search, stream: Stream) -> Iterator[tuple[list[float], Vector]]:
    """Ascend from w and from random points, as `search_balls` does; of each what `ascend` returns."""
    zero = [torch.zeros_like(p) for p in w.start]
    yield ascend(w, ball, zero, (w.value.loss, _copy(w.gradient)), search.steps, search.momentum)
    for k in range(search.restarts):
        u = ball.random(w.start, stream(f"start {k}"))
        ball.move(w, u)
        there, gradient = w.loss.value_and_gradient()
        yield ascend(w, ball, u, (there.loss, gradient), search.steps, search.momentum)


def search_balls(
    w: Around, balls: Sequence[Ball], search: Search, stream: Stream, others: Callable[[Ball], list[float]] = lambda ball: []
) -> list[Found]:
    """Search nested balls; a point found in a smaller ball also counts for the larger ones. One `Found` per ball, in input order. stream:
    the random stream of a name; others: L at further points of a ball."""
    base, results = w.value.loss, [Found(math.nan, None, None)] * len(balls)
    most = base
    for i, ball in sorted(enumerate(balls), key=lambda one: one[1].radius):
        paths = [path for path, _ in ascents(w, ball, search, stream)]
        met = list(itertools.chain(*paths))
        for k in range(search.draws):
            u = ball.random(w.start, stream(f"draw {k}"))
            for _ in range(2):
                ball.move(w, u)
                met.append(w.loss.value().loss)
                vectors.scale_(u, -1.0)
        ends = [highest(path[1:]) for path in paths if len(path) > 1]
        most = highest([most, *met, *others(ball)])
        results[i] = Found(most - base, highest(ends) - base if ends else None, highest(ends) - min(ends) if len(ends) > 1 else None)
    return results
