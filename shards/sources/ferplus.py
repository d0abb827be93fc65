"""FERPlus: FER2013's faces with the votes of ten people each (Barsoum et al. 2016, microsoft/FERPlus).

    SRC/FER2013Train/fer0000000.png ...   SRC/FER2013Valid/...   SRC/FER2013Test/...
    SRC/fer2013new.csv                    Usage,Image name,neutral,...,unknown,NF

Images and votes are joined by name: the numbers in the names are not the rows' (173 rows have no name, their
image does not exist). Four names have two rows; the first counts (three pairs are equal; fer0033120.png, a
test image, is a face once and no face by all ten votes the second time).

A protocol makes an expression of the votes:
    argmax      the most votes, the first column among equals; "unknown" and "NF" leave the image out.
                28,386 training images, 7,098 others: what SSFER (arXiv 2410.17622) counts.
    majority    single votes dropped first, then more than half of the rest: FERPlus's own reader.
"""

import csv
from functools import partial
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import EXPRESSIONS, FERPLUS_COLUMNS
from shards.sample import Face
from shards.sources.listing import Entry, LeftOut, Listing, read_span, with_template

VOTES = "fer2013new.csv"
SPLITS = {
    "train": ("Training", "FER2013Train"),
    "valid": ("PublicTest", "FER2013Valid"),
    "test": ("PrivateTest", "FER2013Test"),
}


def entries(src: Path, *, split: str | None = None, protocol: str = "argmax") -> Listing:
    """The images that carry an expression under `protocol`; without a split, of every split that is there."""
    splits = [split] if split else [name for name, (_, folder) in SPLITS.items() if (src / folder).is_dir()]
    if not splits or not all((src / SPLITS[name][1]).is_dir() for name in splits):
        wanted = SPLITS[split][1] if split else "FER2013Train, FER2013Valid or FER2013Test"
        raise ShardError(
            f"{src}: no folder {wanted} in it; make FERPlus's images with its generate_training_data.py"
        )
    votes = _votes(src / VOTES)
    listing = Listing([], [], protocol)
    for name in splits:
        _list(src, name, votes, protocol, listing)
    return listing


def _list(src: Path, split: str, votes: dict[tuple[str, str], list[int]], protocol: str, to: Listing) -> None:
    """Add the images of a split to a listing, and what is left out of them."""
    usage, folder = SPLITS[split]
    rows = {name: row for (used, name), row in votes.items() if used == usage}
    images = {path.name: path for path in sorted((src / folder).iterdir()) if path.suffix.lower() == ".png"}
    missing = [
        LeftOut(f"{folder}/{name}", "it has votes, but there is no such image", True)
        for name in rows.keys() - images
    ]
    to.left_out.extend(missing)
    assert isinstance(to.entries, list)
    for name, path in images.items():
        origin = f"{folder}/{name}"
        if name not in rows:
            to.left_out.append(LeftOut(origin, f"no row for it in {VOTES}", True))
            continue
        expression = expression_of(rows[name], protocol)
        if expression is None:
            to.left_out.append(LeftOut(origin, f"no expression under the protocol {protocol}", False))
            continue
        counted = {column: float(n) for column, n in zip(FERPLUS_COLUMNS, rows[name], strict=True) if n}
        size = path.stat().st_size
        face = with_template(Face(expression, counted), "ferplus")
        to.entries.append(Entry(origin, size, partial(read_span, str(path), 0, size), face))


def expression_of(votes: list[int], protocol: str) -> str | None:
    """The expression of ten votes (FERPLUS_COLUMNS); None where the protocol drops the image."""
    if protocol == "majority":
        votes = [n if n > 1 else 0 for n in votes]
        if max(votes) * 2 <= sum(votes):
            return None
    winner = votes.index(max(votes))
    return EXPRESSIONS[winner] if winner < len(EXPRESSIONS) else None


def _votes(file: Path) -> dict[tuple[str, str], list[int]]:
    """The votes by usage and name; the first row of a name counts."""
    votes: dict[tuple[str, str], list[int]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row["Image name"]:
                    votes.setdefault(
                        (row["Usage"], row["Image name"]), [int(row[c]) for c in FERPLUS_COLUMNS]
                    )
    except FileNotFoundError:
        raise ShardError(f"{file}: missing; take it from the repository microsoft/FERPlus") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{file}: not FERPlus's {VOTES} ({error!r})") from None
    return votes
