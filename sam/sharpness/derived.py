"""Numbers that follow from measured ones, of one checkpoint and the same images. They are not stored: whoever reads rows adds them."""

import re

from sam.sharpness.context import Measures

_N_STEP = re.compile(r"n_step(\[rho=[^,]+),n=(\d+)(,rule=\w+)((?:,subset=\d+)?\])")


def derived(values: Measures) -> Measures:
    """All that follows from these measures, by name.

    n_step_share, n_step_gain: how much of the ball's maximum do N steps find? Each N-step rise over the largest rise that `maximum` met at
    this radius on the same images; and what it has more than one step's, over the same, where N = 1 was measured too. Nothing where a part
    is missing. lambda1_over_loss: lambda_1 / L(w), since raw sharpness shrinks with the training loss.
    """
    found = Measures()
    for name, rise in values.items():
        if parts := _N_STEP.fullmatch(name):
            radius, steps, rule, images = parts.groups()
            most, one = values.get(f"maximum{radius}{images}"), values.get(f"n_step{radius},n=1{rule}{images}")
            if most:
                found[name.replace("n_step", "n_step_share")] = None if rise is None else rise / most
                if steps != "1" and one is not None:
                    found[name.replace("n_step", "n_step_gain")] = None if rise is None else (rise - one) / most
    for name, top in values.items():
        if name.startswith(("eigenvalue[k=1]", "eigenvalue[k=1,")):
            where = "" if name.endswith("[k=1]") else name.replace("eigenvalue[k=1,", "[")
            loss = values.get(f"train_loss{where}")
            found[f"lambda1_over_loss{where}"] = top / loss if top is not None and loss else None
    return found
