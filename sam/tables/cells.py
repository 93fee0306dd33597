"""The data that a table is made of: blocks of cells, with numbers for programs and pieces of text to print."""

from dataclasses import dataclass

from sam.tables.statistics import Equivalence, Paired, RankCorrelation, Summary, Welch
from sam.text import printable

EMPTY = ("–",)


class _Shown:
    """Make all text (labels, titles, notes, names of runs) printable: one line without control characters."""

    def __post_init__(self) -> None:
        clean = lambda part: printable(part) if isinstance(part, str) else part
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, tuple(map(clean, value)) if isinstance(value, tuple) else clean(value))


@dataclass(frozen=True)
class Comparison:
    """Tests of a difference besides the paired t test, in the unit of its column.

    primary      True for the test named in advance; `tests` of them are in the block, and p_holm is corrected for them.
    detectable   minimum detectable difference at `level`; None if it does not exist.
    equivalence  None unless the row claims "no difference" and the column has a margin.
    """

    primary: bool
    tests: int | None
    p_holm: float | None
    alpha: float
    level: float | None
    detectable: float | None
    welch: Welch | None
    equivalence: Equivalence | None

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm <= self.alpha


@dataclass(frozen=True)
class Correlation(_Shown):
    """Rank correlation of the columns with headers `x` and `y`."""

    x: str
    y: str
    across: RankCorrelation
    within: RankCorrelation
    between: RankCorrelation


@dataclass(frozen=True)
class Cell(_Shown):
    """One cell: `parts` are pieces of text to print, which may go on separate lines; the other fields are for programs.

    kind       label | value | difference | published.
    column     header of the value column whose unit its numbers are in.
    numbers    value of the run in each of `folders`, None if it has none.
    best       the best of its column, or not told apart from it; printed in bold.
    """

    kind: str
    parts: tuple[str, ...]
    column: str = ""
    summary: Summary | None = None
    paired: Paired | None = None
    comparison: Comparison | None = None
    baseline: str = ""
    seeds: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    folders: tuple[str, ...] = ()
    numbers: tuple[float | None, ...] = ()
    best: bool = False

    @property
    def text(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Block(_Shown):
    """One printed table; the first `labels` columns name the row. verdict: what was found, and what it does and does not show; finding:
    what was found, in one sentence for a reader in a hurry; about: the condition of its runs; brief: the columns of its compact form, if
    that is the first part of each cell."""

    table: str
    title: str
    labels: int
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    verdict: str = ""
    finding: str = ""
    about: str = ""
    correlations: tuple[Correlation, ...] = ()
    brief: tuple[int, ...] = ()
