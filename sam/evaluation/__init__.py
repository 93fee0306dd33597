"""Measure runs, and read what was measured. Importing it is cheap: torch and pandas come with the call."""

import warnings
from collections.abc import Mapping
from typing import Any


def load(runs_dir: str, select: Mapping[str, Any] | None = None) -> Any:
    """The finished runs below a folder as a pandas DataFrame, as in tables/runs.csv: one row a run, with every measure stored of its final
    checkpoint. Measures nothing; a run that cannot be read is a warning. select: as on the command line, for example
    {"optimizer.method": "sam", "seed": [0, 1]}. ConfigError if there is no such run, ImportError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("sam.evaluation.load makes a pandas DataFrame, and pandas is not installed: pip install pandas.") from error
    from sam.evaluation.evaluate import stored_runs
    from sam.evaluation.flat_files import run_lines
    from sam.evaluation.settings import EvaluateConfig

    problems: list[str] = []
    runs = stored_runs(EvaluateConfig(runs_dir=str(runs_dir), select=dict(select or {})), problems)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return pandas.DataFrame(run_lines(runs))
