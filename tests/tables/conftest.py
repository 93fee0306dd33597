"""Runs made up for the tests of tables and of the report, importable by name: `import made_up`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
