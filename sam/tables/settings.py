"""What a table is: rows, columns, published values, and the one test that was named before the runs. A table is data (conf/table)."""

from dataclasses import dataclass, field
from typing import Any

from sam.config import Settings
from sam.config import key as setting  # a column has a key `key`

# These classes are not frozen: OmegaConf would make the entries of `tables` read-only while composing.


@dataclass
class ColumnConfig(Settings):
    """One column: `measure` times `scale`, printed with `digits` decimals. In both, "{rho}" stands for the radius; "subset={subset}" at the
    end of `measure` for any subset, or the whole set; in `header`, "{subset}" for its size or "all", "{m}" for the size of batches."""

    key: str = setting("", "what `published`, `primary` and `correlations` call it")
    header: str = setting("", "text above it")
    measure: str = setting("", "key of a row's measures")
    scale: float = setting(1.0, "factor")
    digits: int = setting(2, "decimals", low=0, high=20)
    each_rho: bool = setting(False, "repeat it for every measured radius")
    compare: bool = setting(False, "add the paired difference from the baseline row")
    margin: float | None = setting(None, "difference, in the column's unit, that a row's test of equivalence takes for none", above=0)
    optional: bool = setting(False, "leave it out where no run was measured that way")

    def __post_init__(self) -> None:
        self.check(f"columns: {self.key}.")


@dataclass
class RowConfig(Settings):
    """One row: runs whose settings equal `match`; where that holds other keys than the optimizer's (dotted where nested: epochs,
    dataset.train_size), runs that differ from the block's others in these alone."""

    label: str = setting("", "text before it")
    match: dict[str, Any] = field(default_factory=dict, metadata={"about": "keys of the optimizer, and others, and their values"})
    published: dict[str, list[str]] = field(default_factory=dict, metadata={"about": "a column's key -> ids of paper_values.csv"})
    equivalence: bool = setting(False, "the claim about it is: no difference from the baseline; test that in every column with a margin")


@dataclass
class CorrelationConfig(Settings):
    """Rank correlation of two columns, by their keys. A column with `each_rho` makes one for every measured radius."""

    x: str = setting("", "a column's key")
    y: str = setting("", "a column's key")


@dataclass
class TableConfig(Settings, prefix="tables: "):
    title: str = setting("", "above it")
    source: str = setting("", "where its layout is from")
    row_header: str = setting("", "above the rows' labels")
    rows: list[RowConfig] = setting([], "in their order")
    columns: list[ColumnConfig] = setting([], "in their order")
    baseline: str | None = setting(None, "label of the row that others are compared with")
    setup_columns: bool = setting(False, "add model, epochs and augmentation")
    notes: list[str] = setting([], "below it")
    primary: str | None = setting(None, "key of the column whose differences are the test named before the runs; null: all are exploratory")
    alpha: float = setting(0.05, "level of that test after Holm, and of tests of equivalence", above=0, high=0.5)
    power: float = setting(0.8, "of the minimum detectable difference", low=0.5, high=0.999)
    correlations: list[CorrelationConfig] = setting([], "of columns")
    optional: bool = setting(False, "leave the table out where none of its optional columns was measured")
    shows: str = setting("", "what a reader may conclude; goes on after 'Shows:'")
    shows_not: str = setting("", "what a reader may not conclude; goes on after 'Does not show:'")


@dataclass
class SweepConfig(Settings, prefix="sweep."):
    """The table of a sweep: a pivot of every measure over what varies among the runs, then what each method would pick. An axis is a key by
    its dotted name, as in runs.csv; null: chosen by what varies."""

    show: str = setting(
        "never", "auto: where no table shows the runs without splitting a row by settings", among=("never", "always", "auto")
    )
    columns: str | None = setting(None, "key whose values are columns; null: optimizer.rho, else the numeric one with most values")
    rows: str | None = setting(None, "key whose values stand in rows beside the method; null: all that are no other axis")
    blocks: str | None = setting(None, "key with a block for each value; null: one that every method was swept over, if any is left")
    measures: list[ColumnConfig] = setting([], "one pivot each, in their order; of each_rho the first radius")
    notes: list[str] = setting([], "below the first pivot")
