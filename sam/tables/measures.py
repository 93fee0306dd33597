"""The names of what a run can be measured by, so that a typo in a table is refused before hours of measuring."""

from __future__ import annotations

import difflib
import re

from sam.config import ConfigError
from sam.core.settings import STEP_RULES

# A line: names, then in brackets the keys that follow each of them, in this order. "?": it may be missing; "=": its values, where they are
# no numbers. The first lines hold what only the training saw.
_NAMES = f"""
last5_test_loss last5_test_accuracy last5_val_loss last5_val_accuracy gap_running gap_perturbed
eps_over_rho mean_eps_over_rho cos_g_eps mean_cos_g_eps
gap error_gap test_loss_channel ece weight_norm cos_random_level corruption_kinds
test_loss test_accuracy val_loss val_accuracy [bn?=train|recalibrated]
train_loss train_accuracy grad_norm [bn?=train|recalibrated,subset?]
sharpness ascent_loss sharpness_stderr [rho,bn=eval|train|recalibrated,batch=all|m,subset?]
first_order second_order limit_worst limit_ascent limit_average limit_average_stderr average average_stderr [rho,subset?]
maximum maximum_ascent maximum_spread psi alpha_star alpha_star_rise [rho,subset?]
n_step n_step_length n_step_cosine [rho,n,rule={"|".join(STEP_RULES)},subset?]
adaptive_worst adaptive_worst_ascent adaptive_worst_spread [rho,norm=l2|linf,logits=plain|normalized,subset?]
adaptive_average adaptive_average_stderr [rho,norm=l2|linf,logits=plain|normalized,subset?]
keskar keskar_lbfgsb keskar_sign keskar_spread [epsilon,subset?]
eigenvalue eigenvalue_residual landscape_eigenvalue landscape_eigenvalue_residual [k,subset?]
eigenvalue_min eigenvalue_min_residual lanczos_products trace trace_stderr [subset?]
cos_gradient_top gradient_top_share curvature_gradient [subset?]
spectrum_mean spectrum_mean_stderr spectrum_second_moment spectrum_second_moment_stderr [subset?]
spectrum_smallest spectrum_largest spectrum_probes spectrum_width spectrum_mass [subset?]
corruption_accuracy corruption_loss [kind?=\\w+]
"""
_VALUE = r"[\d.e+-]+|{\w+}"  # a number, or "{rho}" and "{subset}", which stand for some
_KEYS = {name: line.partition(" [")[2].rstrip("]") for line in _NAMES.split("\n") for name in line.partition(" [")[0].split()}


def check_measure(measure: str, where: str) -> None:
    """Refuse a name that nothing is ever measured under. Raises ConfigError, which begins with `where`."""
    name, _, inside = measure.removesuffix("]").partition("[")
    if name not in _KEYS:
        near = difflib.get_close_matches(name, _KEYS, 3) or ["gap", "test_accuracy"]
        raise ConfigError(f"{where}={measure}: nothing is measured under this name; there are, for example, {', '.join(near)}.")
    each = (key.partition("=") for key in _KEYS[name].split(",") if key)
    pattern = "".join(f"(,{key.rstrip('?')}=({values or _VALUE}))" + "?" * key.endswith("?") for key, _, values in each)
    if measure != name + (f"[{inside}]" if inside else "") or not re.fullmatch(pattern, f",{inside}" if inside else ""):
        keys = f"[{_KEYS[name]}], a key with ? may be left out" if _KEYS[name] else "nothing"
        raise ConfigError(f"{where}={measure}: {name} is followed by {keys}.")
