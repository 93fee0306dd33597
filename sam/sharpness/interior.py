"""Does the largest loss in the ball lie inside it? Batch by batch, on the ray that SAM ascends, and by search. Tiwary & Aananth 2024
(Sections 3 and 4.2) suppose that SAM helps because its perturbation stays on the boundary."""

import math
from functools import partial

from sam.core.vectors import Vector
from sam.sharpness.average import mean_and_stderr
from sam.sharpness.context import Context, Result, Sizes, named, said, suffix
from sam.sharpness.dataset_loss import Around, DatasetLoss, unit_
from sam.sharpness.projected_ascent import Ball, Search, ascents
from sam.sharpness.settings import SharpnessConfig

VERSION = 1
INSIDE = 0.99  # of the radius; nearer to it is on the boundary


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    count, size = sizes.batches(config.interior, config.m)
    return count * size * (3 + len(config.rho) * (2 * (2 * config.interior.points - 1) + Search.of(config.interior).cost))


def along_ray(w: Around, direction: Vector, rho: float, points: int) -> float | None:
    """Return t / rho of the largest L(w + t d / ||d||), 0 <= t <= rho, on `points` even steps and then as many between the best one's
    neighbours; d: normalised in place. None where d is zero, or a number not finite. Cost: 2 points - 1 forwards."""
    if unit_(direction) is None:
        return None
    at = lambda share: w.at((rho * share, direction))
    met = {0.0: w.value.loss} | {k / points: at(k / points) for k in range(1, points + 1)}
    best = round(points * max(met, key=lambda share: met[share]))
    low, high = max(best - 1, 0) / points, min(best + 1, points) / points
    for k in range(1, points):
        share = low + (high - low) * k / points
        met[share] = at(share)
    return max(met, key=lambda share: met[share]) if all(map(math.isfinite, met.values())) else None


def _places(context: Context, loss: DatasetLoss, number: int) -> list[tuple[float | None, float | None]]:
    """Of one batch, for every radius: `along_ray` of its gradient, and of the best point that ascents in the ball found (0: w itself; a
    step with momentum ends inside the ball, so that the point alone would not tell)."""
    settings, stream, found = context.config.interior, partial(context.generator, "interior", number), []
    with loss.around() as w:
        for rho in context.config.rho:
            path, best = max(ascents(w, Ball("l2", rho), Search.of(settings), stream), key=lambda one: max(one[0]))
            in_ball = along_ray(w, best, rho, settings.points)
            at_w = len(path) > 1 and max(path) == w.value.loss
            on_ray = along_ray(w, [g.clone() for g in w.gradient], rho, settings.points)
            found.append((on_ray, 0.0 if at_w and in_ball is None else in_ball))
    return found


def measure(context: Context) -> Result:
    """The share of training batches whose largest loss lies at ||eps|| < 0.99 rho, and the mean of ||eps|| / rho: on the ray from w along
    the batch's gradient, and on the ray through the best point of restarted projected ascent in the ball. Peak: 11 vectors of D."""
    config, bn = context.config, said(context.config.interior.batchnorm)
    losses = context.training_batches(config.interior, "interior")
    places, count = [_places(context, loss, number) for number, loss in enumerate(losses)], len(losses)
    values = named(suffix(**bn), interior_batches=count, interior_batch_size=len(losses[0].labels))
    for rho, of_rho in zip(config.rho, zip(*places, strict=True), strict=True):
        for kind, found in zip(("ray", "ball"), zip(*of_rho, strict=True), strict=True):
            lengths = [x for x in found if x is not None]
            share = error = length = spread = None
            if len(lengths) == count:  # else a batch has no gradient, or a loss that is not finite
                share, (length, spread) = sum(x < INSIDE for x in lengths) / count, mean_and_stderr(lengths)
                error = math.sqrt(share * (1 - share) / count) if count > 1 else None
            names = {"": share, "_stderr": error, "_length": length, "_length_stderr": spread}
            values |= named(suffix(rho=rho, **bn), **{f"interior_{kind}{name}": value for name, value in names.items()})
    return Result(values)
