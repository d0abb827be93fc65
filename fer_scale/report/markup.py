"""HTML made of elements: whatever is not an element already is text, and is escaped. Nothing here knows of runs."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


NOTHING = Html("")
_EMPTY = ("meta", "img", "br", "line", "rect", "path", "polygon")


def el(tag: str, /, *inside: Any, **attributes: Any) -> Html:
    """An element. In attributes `class_` stands for class and `_` for `-`; those that are None are left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{said}/>" if tag in _EMPTY and not inside else f"<{tag}{said}>{join(inside)}</{tag}>")


def join(parts: Iterable[Any]) -> Html:
    """Elements and texts after one another."""
    return Html("".join(part if isinstance(part, Html) else html.escape(clean(part)) for part in parts))


def clean(text: Any) -> str:
    """A text that can be written as UTF-8, and in which nothing is hidden or turned round.

    Control characters, halves of surrogate pairs (names of files that are not UTF-8) and marks of direction are
    replaced: they come from files that others may have written.
    """
    said = text if type(text) is str else str(text)
    return said if said.isprintable() else "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in said)


def table(
    caption: str,
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    marked: Iterable[int] = (),
    class_: str | None = None,
) -> Html:
    """A table that scrolls in a box of its own where it is too wide; `marked` rows stand out.

    The first cell of a row is its heading. The box can be reached by the keyboard.
    """
    stand_out = set(marked)
    lines = [
        el("tr", el("th", row[0], scope="row"), *(cell if _is_cell(cell) else el("td", cell) for cell in row[1:]),
           class_="marked" if number in stand_out else None)
        for number, row in enumerate(rows)
    ]  # fmt: skip
    top = [cell if _is_cell(cell) else el("th", cell, scope="col") for cell in head]
    if top and not head[0]:
        top[0] = el("td")
    whole = el("table", el("caption", caption), el("thead", el("tr", *top)), el("tbody", *lines), class_=class_)
    return el("div", whole, class_="scroll", role="group", aria_label=caption, tabindex=0)


def _is_cell(cell: Any) -> bool:
    return isinstance(cell, Html) and cell.startswith(("<td", "<th"))


def listed(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """Names and what is said of them."""
    return el("dl", *(el("div", el("dt", name), el("dd", said)) for name, said in pairs))
