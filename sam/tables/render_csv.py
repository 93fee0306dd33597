"""Blocks as CSV, at full precision."""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Sequence

from sam.tables.blocks import Block, Cell, Comparison
from sam.tables.layout import coefficients

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_STATISTICS = ("n", "mean", "std", "ci_low", "ci_high", "excluded")
_EQUIVALENCE = ("margin", "p", "shown", "ci_low", "ci_high")
CSV_HEADER = (
    *("table", "block", "row", "column", *_STATISTICS, "diverged"),
    *(f"difference_{name}" for name in (*_STATISTICS, "p")),
    *("p_holm", "primary", "tests", "welch_p", "welch_df", "detectable", "detectable_level"),
    *(f"equivalence_{name}" for name in _EQUIVALENCE),
    *("rank_correlation", "baseline", "published", "seeds", "difference_seeds", "diverged_seeds", "folders", "text", "difference_text"),
)


def csv(blocks: Sequence[Block]) -> str:
    """Long form: a line for every row and value column, numbers at full precision in the column's unit; then the rest, a line each.

    Lists are separated by ";". A line whose column is "note" or "verdict" holds that in `text`. A rank correlation has three lines, whose
    row is "all runs", "within methods" or "between methods".
    """
    out = io.StringIO()
    writer = csv_module.DictWriter(out, CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for block in blocks:
        place = {"table": inert(block.table), "block": inert(block.title)}
        for row in block.rows:
            label = inert(row[block.labels - 1].text)
            for cell in (c for c in row if c.kind == "value"):
                family = {c.kind: c for c in row if c.column == cell.column and c.kind != "label"}
                writer.writerow(place | {"row": label, "column": inert(cell.column)} | _csv_values(family))
        for c in block.correlations:
            for (name, parts), r in zip(coefficients(c).items(), (c.across, c.within, c.between), strict=True):
                numbers = _csv_numbers(r, ("n", "ci_low", "ci_high"), "") | _csv_field("rank_correlation", r.rho)
                writer.writerow(place | numbers | {"row": name, "column": inert(f"{c.x} with {c.y}"), "text": " ".join(parts)})
        if block.verdict:
            writer.writerow(place | {"column": "verdict", "text": inert(block.verdict)})
        for note in block.notes:
            writer.writerow(place | {"column": "note", "text": inert(note)})
    return out.getvalue()


def inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula; a number stays a number."""
    return f"'{text}" if re.match(r"\s*[=+\-@＝＋－＠]", text) and not _NUMBER.fullmatch(text) else text


def _csv_values(family: dict[str, Cell]) -> dict[str, str]:
    value, difference, published = family["value"], family.get("difference"), family.get("published")
    line = _csv_numbers(value.summary, _STATISTICS, "")
    line |= {"seeds": _join(value.seeds), "diverged_seeds": _join(value.diverged), "diverged": str(len(value.diverged))}
    line |= {"folders": inert(_join(value.folders)), "text": value.text}
    if difference is not None:
        line |= _csv_numbers(difference.paired, (*_STATISTICS, "p"), "difference_") | _csv_tests(difference.comparison)
        line |= {"baseline": inert(difference.baseline), "difference_seeds": _join(difference.seeds), "difference_text": difference.text}
    return line | ({"published": published.text} if published is not None else {})


def _csv_tests(c: Comparison | None) -> dict[str, str]:
    if c is None:
        return {}
    line = _csv_numbers(c, ("p_holm", "primary", "detectable"), "") | _csv_field("tests", c.tests if c.primary else None)
    line |= _csv_field("detectable_level", c.level if c.detectable is not None else None)
    return line | _csv_numbers(c.welch, ("p", "df"), "welch_") | _csv_numbers(c.equivalence, _EQUIVALENCE, "equivalence_")


def _csv_numbers(source: object, names: Sequence[str], prefix: str) -> dict[str, str]:
    values = ((f"{prefix}{name}", getattr(source, name, None)) for name in names)
    return {name: repr(value) for name, value in values if value is not None}


def _csv_field(name: str, value: float | None) -> dict[str, str]:
    return {} if value is None else {name: repr(value)}


def _join(values: Sequence[object]) -> str:
    return ";".join(map(str, values))
