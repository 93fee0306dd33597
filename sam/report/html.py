"""HTML that is escaped by construction: all text is escaped, except what `el` made."""

import html

_VOID = ("br", "col", "link", "meta")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*parts: object) -> Html:
    """Concatenate parts as HTML: everything that is not `Html` is escaped; None is skipped."""
    return Html("".join([part if isinstance(part, Html) else html.escape(str(part)) for part in parts if part is not None]))


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """Make <name attributes>children</name>. `class_` is class, `data_sort` is data-sort; True: a bare attribute, None or False: none."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    rest = "" if name in _VOID else f"{join(*children)}</{name}>"
    return Html(f"<{' '.join(words)}>{rest}")
