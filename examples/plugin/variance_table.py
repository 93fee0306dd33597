"""A table: gradient variance against rho, one row for each method that is registered, and for each radius that it was run with.

python ../../evaluate_sharpness.py plugins=all_of_them table=variance 'sharpness.notions=[gap,gradient_variance]' runs_dir=runs
"""

from sam.optimizers.settings import METHODS
from sam.registry import add_option

TABLE = {
    "title": "Gradient variance",
    "row_header": "Method",
    "baseline": "SGD",
    "rows": [{"label": row.label, "match": {"method": name}} for name, row in METHODS.items()],
    "columns": [
        {"key": "variance", "header": "Gradient variance ({subset})", "measure": "gradient_variance[subset={subset}]", "digits": 4},
        {"key": "train_loss", "header": "L(w)", "measure": "train_loss", "digits": 4},
        {"key": "gap", "header": "Gap ×10³", "measure": "gap", "scale": 1000, "digits": 1, "compare": True},
    ],
    "correlations": [{"x": "variance", "y": "gap"}],
    "notes": ["Gradient variance: trace of the covariance of the training samples' gradients at w, eval mode, without augmentation."],
    "shows": "how the variance of the gradient at the end of training differs between methods and radii",
    "shows_not": "that the variance causes the gap",
}

add_option("table", "variance", TABLE, package="tables.variance")
