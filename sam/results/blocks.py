"""What a table is made of once it is built: cells and blocks. Numbers for programs, and the pieces of text that are printed."""

from __future__ import annotations

from dataclasses import dataclass

from sam.results.statistics import Paired, Summary

EMPTY = ("–",)


@dataclass(frozen=True)
class Cell:
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
    baseline: str = ""
    seeds: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Block:
    """One printed table; the first `labels` columns name the row."""

    table: str
    title: str
    labels: int
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
