"""What a source hands to the packer: its images, unread, and what it leaves out itself."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shards.boxes import TEMPLATES
from shards.sample import Face


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a dataset. A source of very many makes them when asked, from something more compact."""

    origin: str  # its path inside the dataset
    size_bytes: int
    read: Callable[[], bytes]  # picklable: it runs in another process
    face: Face | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that does not become a sample."""

    path: str
    reason: str
    counts: (
        bool  # against the budget of --max-left-out; what the protocol or the kind of file excludes does not
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """All images of a dataset in an order of their own that is always the same."""

    entries: Sequence[Entry]
    left_out: list[LeftOut] = field(default_factory=list)
    protocol: str | None = None  # where labels follow from votes: by which rule


def read_span(path: str, offset: int, length: int) -> bytes:
    """`length` bytes of a file from `offset`; EOFError if it ends before."""
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), length, offset)
    if len(data) != length:
        raise EOFError(f"{len(data)} bytes instead of {length}: it was changed or cut short")
    return data


def with_template(face: Face, source: str) -> Face:
    """The face with the source's template box, unless it has a box of its own."""
    if face.box is not None:
        return face
    return Face(face.expression, face.votes, TEMPLATES[source], "template")
