"""`replica_cases` and `optimizer_oracles` importable by these names."""

import sys
from pathlib import Path

for folder in ("replicas", "optimizers"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
