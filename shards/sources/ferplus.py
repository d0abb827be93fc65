"""FERPlus: FER2013's faces with the votes of ten people each (Barsoum et al. 2016, microsoft/FERPlus).

    SRC/FER2013Train/fer0000000.png ...   SRC/FER2013Valid/...   SRC/FER2013Test/...
    SRC/fer2013new.csv                    Usage,Image name,neutral,...,unknown,NF

Images and votes are joined by name: the numbers in the names are not the rows' (173 rows have no name; there
is no image for them). Four names have two rows; the last counts (three pairs are equal; fer0033120.png, a test
image, is a face in its first row and "no face" for all ten in its second: so SSFER's count is met).

A protocol makes an expression of the votes:
    argmax      the most votes, the first column among equals; "unknown" and "NF" leave the image out.
                28,386 training and 7,098 other images: what SSFER (arXiv 2410.17622) counts.
    majority    single votes are dropped, then it takes more than half of the rest: as FERPlus's own reader.
"""

import csv
from functools import partial
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import EXPRESSIONS, FERPLUS_COLUMNS
from shards.sample import Face
from shards.sources.listing import Entry, LeftOut, Listing, read_span

VOTES = "fer2013new.csv"
FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
_USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}


def entries(src: Path, *, split: str | None = None, protocol: str = "argmax") -> Listing:
    """The images that have an expression under `protocol`; without a split, of every split that is there."""
    splits = [split] if split else [name for name, folder in FOLDERS.items() if (src / folder).is_dir()]
    if not splits or not all((src / FOLDERS[name]).is_dir() for name in splits):
        wanted = FOLDERS[split] if split else ", ".join(FOLDERS.values())
        raise ShardError(f"{src}: no folder {wanted} in it; microsoft/FERPlus tells how to make the images")
    votes = _votes(src / VOTES)
    images, left_out = list[Entry](), list[LeftOut]()
    for name in splits:
        _list(src / FOLDERS[name], votes.get(_USAGES[name], {}), protocol, images, left_out)
    if not images:
        raise ShardError(f"{src}: no image of its {', '.join(splits)} has an expression in {VOTES}")
    return Listing(images, left_out, protocol)


def _list(
    folder: Path, votes: dict[str, list[int]], protocol: str, images: list[Entry], left_out: list[LeftOut]
) -> None:
    """Add a split's images to the list, and what is left out of them."""
    files = (path for path in sorted(folder.iterdir()) if path.name[0] != ".")
    there = {path.name: path for path in files if path.suffix.lower() == ".png"}
    for name in sorted(votes.keys() - there.keys()):
        left_out.append(LeftOut(f"{folder.name}/{name}", f"{VOTES} has votes for it, but there is no such image", True))
    for name, path in there.items():
        origin = f"{folder.name}/{name}"
        expression = expression_of(votes[name], protocol) if name in votes else None
        if name not in votes:
            left_out.append(LeftOut(origin, f"no row for it in {VOTES}", True))
        elif expression is None:
            left_out.append(LeftOut(origin, f"no expression under the protocol {protocol}", False))
        else:
            counted = {column: float(n) for column, n in zip(FERPLUS_COLUMNS, votes[name], strict=True) if n}
            size = path.stat().st_size
            images.append(Entry(origin, size, partial(read_span, str(path), 0, size), Face(expression, counted)))


def expression_of(votes: list[int], protocol: str) -> str | None:
    """The expression of ten votes, one a column of FERPLUS_COLUMNS; None where the protocol drops the image."""
    if protocol == "majority":
        votes = [n if n > 1 else 0 for n in votes]
        if max(votes) * 2 <= sum(votes):
            return None
    if not any(votes):
        return None
    winner = votes.index(max(votes))
    return EXPRESSIONS[winner] if winner < len(EXPRESSIONS) else None


def _votes(file: Path) -> dict[str, dict[str, list[int]]]:
    """The ten votes by usage and name; the last row of a name counts."""
    votes: dict[str, dict[str, list[int]]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row["Image name"]:
                    numbers = [int(row[column]) for column in FERPLUS_COLUMNS]
                    votes.setdefault(row["Usage"], {})[row["Image name"]] = numbers
    except FileNotFoundError:
        raise ShardError(f"{file}: missing; take it from microsoft/FERPlus") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{file}: not FERPlus's {VOTES} ({error!r})") from None
    return votes
