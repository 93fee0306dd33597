"""Which test images are right: what a bootstrap over images needs, and no accuracy tells."""

from torch import Tensor

from sam.sharpness.context import Context, Result, Series, Sizes, said, suffix
from sam.sharpness.settings import SharpnessConfig

VERSION = 1
WORD = 48  # outcomes in one number: a float64 holds them exactly


def work(sizes: Sizes, config: SharpnessConfig) -> float:
    modes = config.outcomes.batchnorm
    return sizes.test * len(modes) + sizes.train * ("recalibrated" in modes)


def measure(context: Context) -> Result:
    """A series for each BatchNorm mode, in the order of the test set; nothing without one, or where outputs are no class scores."""
    found = Result()
    for mode in context.config.outcomes.batchnorm if context.test else ():
        loss = context.loss("test", batchnorm=mode)
        with loss.measuring():
            outputs = loss.outputs()
        if outputs.ndim == 2:
            found.series[f"outcomes{suffix(**said(mode))}"] = packed(outputs.argmax(1) == loss.labels)
    return found


def packed(right: Tensor) -> Series:
    """Words of WORD outcomes, the first in the lowest bit, and how many images each holds; right: (n,) bool."""
    words = [word.tolist() for word in right.cpu().split(WORD)]
    return {"images": [len(word) for word in words], "right": [sum(bit << k for k, bit in enumerate(word)) for word in words]}
