"""Gradient variance: the trace of the covariance of the training samples' gradients, a notion beside those of sam/sharpness.

python ../../evaluate_sharpness.py plugins=gradient_variance 'sharpness.notions=[gap,gradient_variance]' runs_dir=runs
"""

from dataclasses import dataclass

import torch

from sam.config import Settings, key
from sam.core import vectors
from sam.sharpness.average import mean_and_stderr
from sam.sharpness.context import Context, Result, Sizes, named
from sam.sharpness.settings import NOTIONS, SharpnessConfig

VERSION = 1  # raise it when the definition or the arithmetic changes: no old row is reused then


@dataclass(frozen=True)
class GradientVarianceConfig(Settings, prefix="sharpness.gradient_variance."):
    """Trace of the covariance of per-sample gradients."""

    subset: int | None = key(1024, "images; null: all", low=2)


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    """Units of progress: a forward and backward of one image is 3."""
    return 6 * sizes.images(config.gradient_variance.subset)


def measure(context: Context) -> Result:
    """Tr Cov[grad l_i(w)] over the training set (or a subset), unaugmented, BatchNorm in eval mode.

    gradient_variance         K/(K-1) times the mean over K disjoint batches of n_b ||g_b - g||², where g_b is the gradient of a batch of
                              n_b samples (sharpness.m; the last may be smaller) and g that of the whole set: unbiased where batches are
                              random. None for fewer than 2 batches.
    gradient_variance_stderr  its standard error over the batches.
    """
    subset = context.config.gradient_variance.subset
    loss, found = context.loss(subset=subset, batch_size=context.config.m), list[float]()
    with loss.measuring(), torch.no_grad():
        _, mean = loss.value_and_gradient()
        for inputs, labels in loss.batches():
            _, deviation = loss.batch_gradient(inputs, labels, samples=len(labels))
            vectors.add_(deviation, mean, -1.0)
            found.append(len(labels) * vectors.norm(deviation).item() ** 2)
    count = len(found)
    variance, error = mean_and_stderr([count / (count - 1) * value for value in found]) if count > 1 else (None, None)
    return Result(named(context.suffix(subset), gradient_variance=variance, gradient_variance_stderr=error))


NOTIONS.add("gradient_variance", __name__, GradientVarianceConfig, reads=("m",))
