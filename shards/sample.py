"""One face, and how it lies in a shard: the contract between all who write shards and all who read them.

A shard is a plain tar that any WebDataset reader opens. A sample is the run of members that share its key:

    000000017.jpg     the image (jpg, png or webp): the bytes that its source had, or else "made" says what was done
    000000017.json    {"box":[0.0,0.0,1.0,1.0],"box_source":"template","expression":"happiness"}

The key is the place that the sample was planned to have in the whole set, so a file that was left out leaves
a gap. The JSON holds what is known of the face, and nothing else: an unlabeled face without a box of its own
is the image alone, since a JSON costs 1 KiB of tar. A sample's members are sorted by extension, so a png
comes behind its json: go by the names. Where a sample came from does not lie in the tar but beside it (see
index.py), for it is read only when something is wrong.
"""

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from shards.boxes import Box, box_from
from shards.expressions import expression_from

EXTENSIONS = ("jpg", "png", "webp")
_NUMBER = int | float | str  # others write them as texts, too


@dataclass(frozen=True, slots=True)
class Face:
    """What is known of a face; None: not known."""

    expression: str | None = None  # one of expressions.EXPRESSIONS
    votes: dict[str, float] | None = None  # by expression, also "unknown" and "NF"; without the zeros
    box: Box | None = None
    box_source: str | None = None  # "annotation", "detector" or "template"
    made: str | None = None  # what was done to the image when it was packed: "rotated, jpg" (prepare.py)
    faces: int | None = None  # how many a detector saw in the picture, where it was not one


class Sample(NamedTuple):  # not a frozen dataclass: twice as quick to make, and one is made for every face that is read
    """A face as it comes out of a shard."""

    key: str
    image: bytes
    extension: str  # one of EXTENSIONS
    face: Face | None = None


def to_json(face: Face) -> bytes:
    """The JSON member that says `face`."""
    known = {name: value for name, value in asdict(face).items() if value is not None}
    return json.dumps(known, sort_keys=True, separators=(",", ":")).encode()


def from_json(data: bytes) -> Face:
    """The face that a JSON member says; fields of other people's are passed over. ValueError: what is wrong."""
    try:
        fields = json.loads(data)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError(f"a face is a JSON object, not {type(fields).__name__}")
    expression, votes, box = (fields.get(name) for name in ("expression", "votes", "box"))
    made, faces = fields.get("made"), fields.get("faces")
    if votes is not None and not (isinstance(votes, dict) and all(isinstance(n, _NUMBER) for n in votes.values())):
        raise ValueError(f"votes are a JSON object of name: number, not {votes!r}")
    return Face(
        expression=None if expression is None else expression_from(expression),
        votes=None if votes is None else {str(name): _number(n) for name, n in votes.items()},
        box=None if box is None else box_from(box),
        box_source=None if box is None else str(fields.get("box_source", "annotation")),
        made=None if made is None else str(made),
        faces=faces if isinstance(faces, int) else None,  # others list them under this name
    )


def _number(said: int | float | str) -> float:
    try:
        return float(said)
    except OverflowError:
        raise ValueError("a number of hundreds of digits") from None
