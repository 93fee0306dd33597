"""Text: for people one printable line, an error in one sentence, a number with its noun; for programs lines of CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence


def printable(text: object) -> str:
    """One line, with "?" for each character that is not printable (escapes, marks of direction, ...)."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)


def sentence(error: object) -> str:
    """An error as one line of at most 2,000 characters, whatever file or argument it quotes."""
    line = " ".join(printable(error).split())
    return line if len(line) <= 2000 else f"{line[:2000]} ..."


def csv_text(lines: Sequence[Mapping[str, object]], header: Iterable[str] = ()) -> str:
    """Lines as CSV; the columns are those of `header`, else as they first appear. What a line lacks, and None, is an empty cell."""
    out, columns = io.StringIO(), list(header) or list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def counted(number: float, what: str) -> str:
    """ "1 epoch", "0.5 epochs", "45,900 forwards"."""
    return f"{number:,.12g} {what}{'' if number == 1 else 's'}"
