"""The notions that move the weights about give on a GPU what they give on a CPU: the draws are the same, and float64 is float64."""

import pytest
import torch
from sharpness_toys import measure, net_context, same, state

from sam.sharpness.settings import AdaptiveConfig, KeskarConfig, MaximumConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# Two steps only: a sign ascent may part ways over a rounding error.
SETTINGS = {"maximum": MaximumConfig(steps=2), "adaptive": AdaptiveConfig(steps=2, draws=2), "keskar": KeskarConfig(iterations=2)}


@pytest.mark.parametrize("name", ["n_step", "average", "maximum", "adaptive", "keskar"])
def test_a_gpu_gives_what_a_cpu_gives(name: str) -> None:
    options = {"rho": [0.05, 0.5], **SETTINGS}
    on_cpu, context = measure(name, net_context(**options)), net_context(device="cuda", **options)
    before = state(context.model)
    on_gpu = measure(name, context)
    assert same(before, state(context.model))
    assert on_gpu.keys() == on_cpu.keys()
    for key, value in on_cpu.items():
        assert on_gpu[key] == (value if value is None else pytest.approx(value, rel=1e-6, abs=1e-10)), key
