"""What training and measuring share: names of step rules, and XSAM's candidates."""

STEP_RULES = ("split", "project", "accumulate", "boundary")  # `sam.core.ascent.Ascent` has their definitions
DEFAULT_ALPHAS = tuple(k / 10 for k in range(21))
LOSSES = ("cross_entropy", "mse")  # `sam.core.criteria` has their definitions
