"""N-step sharpness: the loss at the end of N gradient ascent steps (Tiwary & Aananth 2024, Eqs. 5-6; Kim et al. 2023)."""

import itertools

from sam.sharpness.context import Context, Measures, Result, Sizes, named
from sam.sharpness.settings import SharpnessConfig

VERSION = 1


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    settings = config.n_step
    climbs = len(config.rho) * len(settings.rules) * sum(3 * (steps - 1) + 1 for steps in settings.steps)
    return sizes.images(settings.subset) * (3 + climbs)


def measure(context: Context) -> Result:
    """Eq. 6 with gradients and losses of the whole training set, or a subset. Peak: 8 vectors of D."""
    settings, values = context.config.n_step, Measures()
    with context.loss(subset=settings.subset).around() as w:
        for rho, steps, rule in itertools.product(context.config.rho, settings.steps, settings.rules):
            rise = length = cosine = None
            if (ascent := w.climb(rho, steps, rule)) is not None:
                length = ascent.relative_length().item()
                cosine = ascent.cosine(w.gradient).item() if length > 0 else None
                rise = w.loss.value().loss - w.value.loss
            where = context.suffix(settings.subset, rho=rho, n=steps, rule=rule)
            values |= named(where, n_step=rise, n_step_length=length, n_step_cosine=cosine)
    return Result(values)
