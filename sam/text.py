"""Text for people: one printable line, an error in one sentence, a number with its noun."""


def printable(text: object) -> str:
    """The text as it may enter a table, a page or a terminal: one line, "?" for each character that is not printable (escapes, marks of
    direction, ...)."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)


def sentence(error: object, longest: int = 2000) -> str:
    """An error as one line of at most `longest` characters, whatever file or argument it quotes."""
    line = " ".join(printable(error).split())
    return line if len(line) <= longest else f"{line[:longest]} ..."


def counted(number: float, what: str) -> str:
    """ "1 epoch", "0.5 epochs", "45,900 forwards"."""
    return f"{number:,.12g} {what}{'' if number == 1 else 's'}"
