"""What a model's card says, read for people: its title and sections. The card may be a stranger's, or be missing."""

import re
from dataclasses import dataclass
from pathlib import Path

from fer_scale import artifact, card_words

INTENDED, CONTACT = "Intended use and limits", "Contact and take-down"
_MOST_BYTES = 256 << 10  # ours have some 10 kB


@dataclass(frozen=True, slots=True)
class CardSaid:
    """What the card says."""

    title: str  # plain text; "" where it has none
    sections: dict[str, str]  # heading -> Markdown below it, without pictures and HTML; empty where there is no card

    def limits(self) -> str:
        """What the model is for and must not be used for; what all our cards say, where this one says nothing."""
        return self.sections.get(INTENDED) or card_words.LIMITS


def read(folder: Path) -> CardSaid:
    """The card of the model in `folder`."""
    file = folder / artifact.CARD
    if not file.is_file():
        return CardSaid("", {})
    text = artifact.small(file, _MOST_BYTES, cut=True).decode(errors="replace").replace("\r\n", "\n")
    title, sections, heading, fenced = "", dict[str, list[str]](), "", False
    for line in re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).split("\n"):
        fenced ^= line.lstrip().startswith("```")
        head = None if fenced else re.match(r"(#{1,2}) +(.+)", line)
        if head and head[1] == "#":
            title = title or head[2].strip()
        elif head:
            heading = head[2].strip()
        else:
            sections.setdefault(heading, []).append(_text_only(line))
    title = re.sub(r"\\([^\w\s])", r"\1", title)  # Markdown's escapes
    return CardSaid(title, {name: "\n".join(lines).strip() for name, lines in sections.items()})


def _text_only(line: str) -> str:
    """The line with links in place of pictures, and with HTML, comments too, as text."""
    line = re.sub(r"(?<!!)!+\[", "[", line)
    return re.sub(r"\\?<(?=[A-Za-z/!?])", "&lt;", line)
