"""What a table is made of once it is built: cells and blocks. Numbers for programs, and the pieces of text that are printed."""

from __future__ import annotations

from dataclasses import dataclass

from sam.tables.correlation import RankCorrelation
from sam.tables.statistics import Equivalence, Paired, Summary, Welch
from sam.text import printable

EMPTY = ("–",)


class _Shown:
    """Where text of files (labels, titles, notes, names of runs) enters a table: from here on it is one line without control characters."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, str):
                object.__setattr__(self, name, printable(value))
            elif isinstance(value, tuple):
                object.__setattr__(self, name, tuple(printable(part) if isinstance(part, str) else part for part in value))


@dataclass(frozen=True)
class Comparison:
    """What stands beside the paired t test of a difference; everything is in the unit of its column.

    primary      whether this is the table's own test, named in advance; p_holm is p after Holm.
    tests        how many of them stand in the block; None if this is none.
    detectable   minimum detectable difference: the true one that n pairs show with probability `power` at `level`: alpha / tests (Holm's
                 strictest level) if primary, else alpha; both None where there is none.
    equivalence  None where the row does not claim "no difference", or its column has no margin.
    """

    primary: bool
    tests: int | None
    p_holm: float | None
    alpha: float
    level: float | None
    power: float
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
    """`parts` is what is printed, in pieces that may go on lines of their own; the rest is what a program reads.

    kind       label | value | difference | published.
    column     header of the value column that the cell belongs to. Numbers are in that column's unit.
    diverged   seeds of diverged runs: in none of the numbers.
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

    @property
    def lost(self) -> int:
        return len(self.diverged)

    @property
    def text(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Block(_Shown):
    """One printed table; the first `labels` columns name the row.

    verdict  one line: what was found, and what the table does and does not show.
    """

    table: str
    title: str
    labels: int
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    verdict: str = ""
    correlations: tuple[Correlation, ...] = ()
