"""The rounded perturbation against float64 arithmetic by hand, and the readable rho against a scan of the whole grid."""

import math

import numpy as np
import pytest
import torch
from sharpness_toys import fails_cleanly, hold_the_rules
from torch import nn

import sam.sharpness
from sam.config import ConfigError
from sam.core import seeds
from sam.sharpness.context import random_like
from sam.sharpness.rounding import ROUND, readable, realized, to_tf32
from sam.sharpness.settings import RoundingConfig


def nearest(x: np.ndarray, bits: int, smallest: int) -> np.ndarray:
    """Round to `bits` of mantissa after the leading one, ties to even; below 2^smallest to its multiples (subnormal numbers)."""
    exponent = np.maximum(np.frexp(x)[1] - 1, smallest)
    spacing = np.exp2(exponent - bits)
    return np.round(x / spacing) * spacing  # numpy rounds ties to even


FORMATS = {"bf16": (7, -126), "fp16": (10, -14), "tf32": (10, -126)}


@pytest.mark.parametrize("to", FORMATS)
def test_formats_round_as_their_bits_say(to: str) -> None:
    draw = np.random.RandomState(0)
    x = np.concatenate([draw.randn(2000), draw.randn(2000) * 1e-6, [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 0, -0.1, 2**-25]])
    x = x.astype(np.float32).astype(np.float64)
    assert np.array_equal(ROUND[to](torch.from_numpy(x)).double().numpy(), nearest(x, *FORMATS[to]))


def test_fp16_has_subnormal_numbers_and_tf32_has_no_need_of_them() -> None:
    tiny = torch.tensor([2.6e-7])
    assert abs(ROUND["fp16"](tiny).item() - 2.6e-7) > 5e-9  # a multiple of 2^-24
    assert abs(to_tf32(tiny).item() - 2.6e-7) < 2e-10


def test_length_and_cosine_are_those_of_the_difference_of_rounded_weights() -> None:
    torch.manual_seed(0)
    start, u = [torch.randn(50, 20), torch.ones(30)], [torch.randn(50, 20), torch.randn(30)]
    norm = math.sqrt(sum(float(x.double().square().sum()) for x in u))
    u = [x / norm for x in u]
    for rho in (1e-3, 0.1, 10.0):
        length, cosine = realized(start, u, rho, rounded=[True, False], to="bf16")
        before, after = (nearest(x.double().numpy(), *FORMATS["bf16"]) for x in (start[0], start[0] + rho * u[0]))
        left = np.concatenate(
            [(after - before).ravel(), rho * u[1].double().numpy()]
        )  # a normalisation layer keeps its weights as they are
        way = np.concatenate([x.double().numpy().ravel() for x in u])
        assert length == pytest.approx(np.linalg.norm(left) / rho, rel=1e-4)
        assert cosine == pytest.approx(left @ way / np.linalg.norm(left), abs=1e-4)


def test_a_step_below_the_spacing_is_gone() -> None:
    """1 + 1e-4 is 1 in bf16."""
    u = [torch.full((4,), 0.5)]
    assert realized([torch.ones(4)], u, 2e-4, rounded=[True], to="bf16") == (0.0, 0.0)
    assert realized([torch.ones(4)], u, 1.0, rounded=[True], to="bf16")[1] == pytest.approx(1)


def test_readable_is_the_first_of_the_grid() -> None:
    for edge in (1e-5, 3.3e-3, 0.77, 999.0):
        found = readable(lambda rho, edge=edge: (1.0, float(rho >= edge)), 0.9)
        assert found is not None and edge * (1 - 1e-9) <= found < edge * 10 ** (1 / 20) * (1 + 1e-9)
    assert readable(lambda rho: (1.0, 0.0), 0.9) is None and readable(lambda rho: (1.0, math.nan), 0.9) is None


def test_it_is_where_the_cosine_passes_the_bound_in_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 200), nn.BatchNorm1d(200), nn.Tanh(), nn.Linear(200, 3))
    pair = torch.randn(40, 20), torch.arange(40) % 3
    for along, where in (("random", ""), ("gradient", ",subset=20")):
        edge = sam.sharpness.evaluate(net, pair, "rounding", rounding={"subset": 20})[f"rounding_readable[to=bf16,along={along}{where}]"]
        near = [edge / 1.13, edge]  # type: ignore[operator]
        found = sam.sharpness.evaluate(net, pair, "rounding", near, rounding={"subset": 20})
        cosines = [found[f"rounding_cosine[to=bf16,along={along},rho={rho:g}{where}]"] for rho in near]
        assert cosines[0] < 0.9 <= cosines[1]  # type: ignore[operator]
    finer = sam.sharpness.evaluate(net, pair, "rounding")
    assert finer["rounding_readable[to=fp16,along=random]"] < finer["rounding_readable[to=bf16,along=random]"] / 4  # type: ignore[operator]


def test_of_a_network_whose_normalisation_keeps_float32_along_both_ways() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 50), nn.BatchNorm1d(50), nn.Tanh(), nn.Linear(50, 3)).eval()
    nn.init.constant_(net[1].weight, 4.0)  # in bf16 a step of 0.03
    x, y, weights = torch.randn(40, 2), torch.arange(40) % 3, [p.detach() for p in net.parameters()]
    found = sam.sharpness.evaluate(net, (x, y), "rounding", 0.05)
    gradient = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), list(net.parameters()))
    for along, way in (("gradient", gradient), ("random", random_like(weights, seeds.generator("cpu", 0, "rounding")))):
        unit = [u / torch.cat([v.flatten() for v in way]).norm() for u in way]
        expected = realized(weights, unit, 0.05, rounded=[True, True, False, False, True, True], to="bf16")
        measured = (found[f"rounding_{name}[to=bf16,along={along},rho=0.05]"] for name in ("length", "cosine"))
        assert tuple(measured) == pytest.approx(expected, rel=1e-3)


def test_at_small_rho_the_cosine_goes_with_its_root() -> None:
    """E|left|² is the sum of spacing_i |eps_i|, and E<left, eps> = |eps|²: the cosine is |eps| / |left|, and falls as sqrt(rho)."""
    torch.manual_seed(0)
    start, u = [torch.rand(400_000) + 1], [torch.randn(400_000)]
    u = [u[0] / u[0].norm()]
    rho = 0.05
    predicted = rho / math.sqrt(2**-7 * rho * float(u[0].abs().sum()))  # the spacing between 1 and 2
    assert realized(start, u, rho, rounded=[True], to="bf16") == (
        pytest.approx(1 / predicted, rel=0.02),
        pytest.approx(predicted, rel=0.15),
    )


def test_the_rules_of_measuring() -> None:
    options = {"rho": [0.5, 0.05], "rounding": RoundingConfig(subset=7)}
    hold_the_rules("rounding", **options)
    fails_cleanly("rounding", **options)


def test_settings_that_cannot_be_used_are_refused_by_name() -> None:
    for settings in ({"formats": ["fp8"]}, {"cosine": 0.0}, {"subset": 0}):
        (key,) = settings
        with pytest.raises(ConfigError, match=rf"^sharpness\.rounding\.{key}="):
            RoundingConfig(**settings)  # type: ignore[arg-type]
