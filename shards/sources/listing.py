"""What a source hands to the packer: its images, not yet read, and what it leaves out itself."""

import json
import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

from shards.sample import Face

# Files that are tried as images, by their name. What they are is seen when they are decoded.
IMAGE_ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".mpo", ".gif", ".bmp", ".tif", ".tiff"}
IMAGE_ENDINGS |= {".avif", ".heic", ".heif", ".pgm", ".ppm", ".pnm", ".jp2"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a dataset."""

    origin: str  # its path inside the dataset
    size_bytes: int
    read: Callable[[], bytes]  # picklable: it runs in another process
    face: Face | None = None
    identity: str | None = None


class Lazy(Sequence[Entry]):
    """Entries that are made when asked for: a source gives their number, and entry `i`."""

    def entry(self, i: int) -> Entry:
        raise NotImplementedError

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> list[Entry]: ...
    def __getitem__(self, i: int | slice) -> Entry | list[Entry]:
        return [self.entry(j) for j in range(*i.indices(len(self)))] if isinstance(i, slice) else self.entry(i)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that does not become a sample."""

    path: str
    reason: str
    counts: bool  # against the budget; what the protocol or the kind of file excludes does not

    def line(self) -> str:
        """Its line of left_out.jsonl."""
        return json.dumps({"path": self.path, "reason": self.reason}) + "\n"


@dataclass(frozen=True, slots=True)
class Listing:
    """All images of a dataset, in an order that is the same every time.

    A source of very many images gives a sequence that makes its entries when asked (see folder.py).
    """

    entries: Sequence[Entry]
    left_out: list[LeftOut] = field(default_factory=list)
    protocol: str | None = None  # where labels follow from votes: by which rule


class Names:
    """Very many strings at the memory of their bytes and 8 more each: one block, and where each one ends."""

    def __init__(self) -> None:
        self._block, self._ends = bytearray(), array("q", [0])

    def append(self, name: bytes) -> None:
        self._block += name
        self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(bytes(self._block[self._ends[i] : self._ends[i + 1]]))


def read_span(path: str, offset: int, length: int) -> bytes:
    """`length` bytes of a file from `offset`; EOFError if it ends before."""
    file = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(file, length, offset)
    finally:
        os.close(file)
    if len(data) != length:
        raise EOFError(f"{len(data)} bytes instead of {length}: changed or cut short since it was listed")
    return data
