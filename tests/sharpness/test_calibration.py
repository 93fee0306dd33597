"""The expected calibration error against plain loops, and against nets whose calibration is known."""

import math

import numpy as np
import pytest
import torch

from sam.sharpness.gap import calibration_error


def by_loops(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """In percent; bin by bin, sample by sample."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(p)) if b / bins < p[i].max() <= (b + 1) / bins]
        if inside:
            right = np.mean([float(p[i].argmax() == labels[i]) for i in inside])
            total += len(inside) / len(p) * abs(right - np.mean([p[i].max() for i in inside]))
    return 100 * total


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_it_is_the_weighted_mean_over_the_bins(bins: int, scale: float) -> None:
    draw = np.random.RandomState(0)
    logits, labels = scale * draw.randn(200, 5), draw.randint(5, size=200)
    ours = calibration_error(torch.from_numpy(logits), torch.from_numpy(labels), bins)
    assert ours == pytest.approx(by_loops(logits, labels, bins), rel=1e-10)
    assert ours > 1


def test_known_calibrations() -> None:
    """Two classes at confidence 3/4, of which 3 in 4 are right; surely wrong; surely right."""
    three_quarters = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64).expand(8, 2)
    sure = torch.tensor([[1000.0, 0.0]]).expand(8, 2)
    labels = torch.tensor([0, 0, 0, 1] * 2)
    assert calibration_error(three_quarters, labels, 10) == pytest.approx(0, abs=1e-12)
    assert calibration_error(three_quarters, torch.zeros(8, dtype=torch.int64), 10) == pytest.approx(25)
    assert calibration_error(sure, torch.ones(8, dtype=torch.int64), 10) == pytest.approx(100)
    assert calibration_error(sure, torch.zeros(8, dtype=torch.int64), 10) == pytest.approx(0, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """Confidences 1/2 (exactly) and 3/5 with two bins, (0, 1/2] and (1/2, 1]. In one bin, errors of opposite sign cancel."""
    logits = torch.tensor([[0.0, 0.0], [math.log(1.5), 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])  # the first right, the second wrong
    assert calibration_error(logits, labels, 2) == pytest.approx(100 * (0.5 + 0.6) / 2)
    assert calibration_error(logits, labels, 1) == pytest.approx(100 * (0.6 - 0.5) / 2)


def test_it_is_not_a_number_if_a_logit_is_not() -> None:
    logits = torch.zeros(4, 3)
    logits[2, 1] = float("nan")
    assert math.isnan(calibration_error(logits, torch.zeros(4, dtype=torch.int64), 15))
