"""Texts of others in Markdown: they show as they are, and change nothing around them."""

import re
from collections.abc import Iterable
from typing import Any


def one_line(said: Any) -> str:
    """A text without line breaks and control characters."""
    clean = str(said).encode(errors="replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in clean).split())


def inline(said: Any) -> str:
    """A text that Markdown shows as it is, in a sentence, a heading or a cell."""
    return re.sub(r"([\\`*\[\]<|#])", r"\\\1", one_line(said))


def code(said: Any) -> str:
    """A text as code within a sentence."""
    return f"`{one_line(said).replace('`', '')}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are texts of others."""
    lines = [list(head), *([inline(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
