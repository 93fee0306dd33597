"""The table is one that a run's evaluation takes."""

import gradient_variance
import variance_table

from sam.registry import OPTIONS
from sam.schema import from_dict
from sam.sharpness.settings import NOTIONS
from sam.tables import table
from sam.tables.settings import TableConfig


def test_it_is_an_option_of_table_and_passes_the_checks() -> None:
    assert gradient_variance.__name__ in NOTIONS
    values, package = OPTIONS["table", "variance"]
    assert values is variance_table.TABLE and package == "tables.variance"
    table.check(from_dict(TableConfig, variance_table.TABLE))
