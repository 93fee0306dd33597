"""Warmup-stable-decay (Hu et al. 2024, arXiv 2404.06395): constant after the warm-up, then linear to zero over the last fifth.

python ../../train.py plugins=wsd schedule=wsd warmup_epochs=1 epochs=10 dataset=digits model=wrn_10_1
"""

from sam.settings import SCHEDULES

VERSION = 1
DECAY = 0.2  # share of the epochs after the warm-up


def wsd(epoch: float, epochs: float) -> float:
    """Factor of the base rate at `epoch` (with its fraction) of `epochs`, both counted after the warm-up."""
    return min(1.0, (epochs - epoch) / (DECAY * epochs))


SCHEDULES.add("wsd", f"{__name__}:wsd")
