"""Does the gradient at the ascent point lead to the largest loss in the ball? XSAM's premise (Chen & Zhou 2026), batch by batch."""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch

from sam.core import vectors
from sam.core.vectors import Vector
from sam.sharpness.average import mean_and_stderr
from sam.sharpness.context import Context, Measures, Result, Sizes, named, random_like, said, suffix
from sam.sharpness.dataset_loss import Around, DatasetLoss, unit_
from sam.sharpness.landscape import xsam_plane
from sam.sharpness.projected_ascent import Ball, Search, ascents, highest
from sam.sharpness.settings import DirectionConfig, SharpnessConfig

VERSION = 1
HALF = 0.5  # of the best rise: a direction below it missed the maximum

Way = list[tuple[float, Vector]]  # the displacement from w that is the sum of these distances along orthonormal vectors
Found = tuple[float, Way]  # the rise at its end


def _radii(config: SharpnessConfig) -> list[float]:
    return sorted({reach * rho for rho in config.rho for reach in config.direction.reach})


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings, radii = config.direction, _radii(config)
    count, size = sizes.batches(settings, config.m)
    at_each = 1 + len(settings.alphas) + settings.rings * settings.angles + 5  # g_k, arc, disc, and all five on the next batch
    planes = sum(len(config.rho) * (3 * steps + len(settings.reach) * at_each) for steps in settings.ascent_steps)
    return count * size * (3 + len(radii) * (Search.of(settings).cost + 2) + planes)


class _Batch:
    """One training batch. tops: by radius, the largest rise of L that was met in the ball and the displacement there, None at w."""

    def __init__(self, w: Around, radii: Sequence[float]) -> None:
        self.w = w
        self.tops: dict[float, tuple[float, Vector | None]] = dict.fromkeys(radii, (0.0, None))

    def met(self, loss: float, distance: float) -> float:
        """Return the rise where the weights stand, at this distance from w; it counts in every ball that holds the point."""
        rise = loss - self.w.value.loss
        for radius, (top, _) in self.tops.items():
            if rise > top and distance <= radius * (1 + 1e-9):
                self.tops[radius] = rise, list(torch._foreach_sub(self.w.loss.points, self.w.start))
        return rise

    def climb(self, way: Way, distance: float) -> Found:
        return self.met(self.w.at(*way), distance), way

    def cosine(self, way: Way, radius: float) -> float | None:
        """Return the cosine between a way and the displacement to the best point of the ball; None if w itself is the best."""
        top = self.tops[radius][1]
        if top is None:
            return None
        along = sum(distance * vectors.dot(direction, top).item() for distance, direction in way)
        return along / (math.hypot(*(distance for distance, _ in way)) * vectors.norm(top).item())


class _Plane:
    """The plane of the displacement by k ascent steps and the gradient g_k at their end. psi: the angle of g_k in it, so that v(alpha) of
    XSAM lies at alpha psi; None where a gradient vanishes. basis: orthonormal, or one vector where both directions are parallel."""

    def __init__(self, batch: _Batch, rho: float, steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.psi: float | None = None
        self.basis: list[Vector] = []
        self._rings: dict[float, Found] = {}
        ascent = batch.w.climb(rho, steps, "split")
        if ascent is not None:
            displacement = [x.clone() for x in ascent.direction()]
            self.psi, basis = xsam_plane(displacement, batch.w.loss.value_and_gradient()[1])
            self.basis = [displacement] if basis is None else basis

    def best(self, radius: float, angles: Iterable[float]) -> tuple[int, Found]:
        """Return the number of the best of these angles at a radius, the first of equals, and what is there; a rise of NaN if any is."""
        ways = [list(zip((radius * math.cos(a), radius * math.sin(a)), self.basis, strict=False)) for a in angles]
        rises = [self.batch.climb(way, radius)[0] for way in ways]
        number = rises.index(max(rises)) if all(map(math.isfinite, rises)) else 0
        return number, (highest(rises), ways[number])

    def _ring(self, radius: float, angles: int) -> Found:
        if radius not in self._rings:
            self._rings[radius] = self.best(radius, (2 * math.pi * i / angles for i in range(angles)))[1]
        return self._rings[radius]

    def directions(self, radius: float, settings: DirectionConfig) -> tuple[dict[str, Found], float | None]:
        """({g_k, the best of XSAM's arc, the best point of the disc, by name}, XSAM's alpha)."""
        if self.psi is None:
            return {}, None
        found = {f"g{self.steps}": self.best(radius, [self.psi])[1]}
        if len(self.basis) < 2:  # XSAM then acts as SAM
            return found | dict.fromkeys(("arc", "plane"), found[f"g{self.steps}"]), None
        number, found["arc"] = self.best(radius, [alpha * self.psi for alpha in settings.alphas])
        rings = (self._ring(radius * (k / settings.rings), settings.angles) for k in range(1, settings.rings + 1))
        found["plane"] = max([*found.values(), *rings], key=lambda one: one[0])
        return found, settings.alphas[number] if math.isfinite(found["arc"][0]) else None


def _measured(context: Context, loss: DatasetLoss, following: DatasetLoss, number: int) -> tuple[Measures, dict[str, tuple[str, float]]]:
    """Return the numbers of one batch by name, and for each direction its ball's name and the loss at its end on the following batch."""
    config, settings, passed = context.config, context.config.direction, dict[str, tuple[str, float]]()
    bn, stream = said(settings.batchnorm), partial(context.generator, "direction", number)
    with loss.around() as w:
        batch = _Batch(w, _radii(config))
        values, found = named(suffix(**bn), direction_loss=w.value.loss), dict[str, tuple[float, str, Found | None]]()
        for radius in batch.tops:
            for path, u in ascents(w, Ball("l2", radius), Search.of(settings), stream):
                w.move((radius, u))
                batch.met(highest(path), radius)
        fixed = {"g0": [g.clone() for g in w.gradient], "random": random_like(w.start, stream("random"))}
        fixed = {v: direction for v, direction in fixed.items() if unit_(direction) is not None}
        rigid = {radius: {v: batch.climb([(radius, one)], radius) for v, one in fixed.items()} for radius in batch.tops}
        for rho, steps in itertools.product(config.rho, settings.ascent_steps):
            plane = _Plane(batch, rho, steps)
            values |= named(suffix(rho=rho, k=steps, **bn), direction_psi=plane.psi)
            for reach in settings.reach:
                radius, where = reach * rho, {"rho": rho, "reach": reach, "k": steps, **bn}
                own, alpha = plane.directions(radius, settings)
                every = rigid[radius] | own
                edge = None if alpha is None else float(alpha == max(settings.alphas))
                wins = float(every[f"g{steps}"][0] > every["g0"][0]) if own else None
                values |= named(suffix(**where), direction_alpha=alpha, direction_edge=edge, direction_wins=wins)
                ball, names = suffix(rho=rho, reach=reach, **bn), ("g0", f"g{steps}", "arc", "plane", "random")
                found |= {suffix(v=v, **where): (radius, ball, every.get(v)) for v in names}
        for name, (radius, ball, one) in found.items():
            values |= named(ball, direction_best=batch.tops[radius][0])
            rise = share = low = cosine = None
            if one is not None:
                rise, top, cosine = one[0], batch.tops[radius][0], batch.cosine(one[1], radius)
                share = rise / top if top > 0 and math.isfinite(rise) else None
                low = None if share is None else float(share < HALF)
                w.move(*one[1])
                passed[name] = ball, following.value().loss
            values |= named(name, direction_rise=rise, direction_share=share, direction_cosine=cosine, direction_low=low)
    return values, passed


def measure(context: Context) -> Result:
    """Along directions that one batch gives, at R = reach rho: the rise of L on that batch, its share of the best rise met in the ball, the
    cosine to the point where that was met, and the share on the following batch of its own best. Means over batches. Peak: 12 vectors of D,
    one more for every radius R, and two for every rho and number of ascent steps."""
    losses = context.training_batches(context.config.direction, "direction")
    count, where = len(losses), suffix(**said(context.config.direction.batchnorm))
    batches = [_measured(context, loss, losses[(i + 1) % count], i) for i, loss in enumerate(losses)]
    for i, (own, passed) in enumerate(batches):
        following = batches[(i + 1) % count][0]
        base = following[f"direction_loss{where}"]
        for name, (ball, loss) in passed.items():
            top = following[f"direction_best{ball}"]
            own[f"direction_transfer{name}"] = (loss - base) / top if base is not None and top and count > 1 else None
    values = named(where, direction_batches=count, direction_batch_size=len(losses[0].labels))
    for name in dict.fromkeys(name for own, _ in batches for name in own):
        kind = name.partition("[")[0]
        sample = [value for own, _ in batches if (value := own.get(name)) is not None]
        mean, error = mean_and_stderr(sample) if len(sample) == count else (None, None)  # else it is not defined on a batch
        values |= {name: mean, name.replace(kind, f"{kind}_stderr", 1): error}
        if kind == "direction_alpha":
            values |= {name.replace(kind, f"{kind}_std", 1): None if error is None else error * count**0.5}
    return Result(values)
