"""What a measure's name says: on which scale its interval is made, and whether more or less of it is better."""

import re

# Cannot be negative by what they are. Gaps, cosines, the smallest eigenvalue and what a plug-in measures keep their own scale.
_POSITIVE = re.compile(
    r"sharpness|ascent_loss|\w*_loss$|(first|second)_order|limit_|average|maximum|n_step(?!_cosine)|adaptive_|keskar|lambda1_over_loss$|"
    r"(landscape_)?eigenvalue(?!_min)|trace|(grad|weight)_norm$|(mean_)?eps_over_rho$|spectrum_|ece$"
)
_UP = re.compile(r"(last5_)?(test|val|corruption)_accuracy")
_DOWN = re.compile(r"(last5_)?(test|val|corruption)_loss|(error_)?gap(_\w+)?$|ece$")


def interval_scale(measure: str) -> str:
    """Scale of the measure's interval (a key of `statistics.SCALES`): logit for accuracies in percent, log for positive measures."""
    name = measure.partition("[")[0]
    return "logit" if name.endswith("accuracy") else "log" if _POSITIVE.match(name) else ""


def direction(measure: str) -> int:
    """1: more is better, -1: less; 0: neither is known. Of what was seen in training alone, and of sharpness, nobody knows."""
    name = measure.partition("[")[0]
    return 1 if _UP.fullmatch(name) else -1 if _DOWN.fullmatch(name) else 0
