"""Exact copies among the images of a source: those whose pixels are the same. Found, and left out, before packing.

    drop         one of each group of copies stays, the first that has a label, or else the first that the source
                 lists; of a group whose labels contradict each other none does
    conflicts    only these groups go
    report       all stay; duplicates.jsonl in the set lists the groups

Near copies are duplicates.py's, and stay: which of two pictures of one moment is the better one is no matter of bytes.
The pixels are those that would lie in the set: turned, reduced and encoded as the rules say.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.boxes import faces_apart
from shards.errors import ShardError
from shards.index import HASH_BYTES
from shards.order import Ints
from shards.pixels import BadImage, pixel_hash
from shards.plan import Chosen
from shards.prepare import UNREADABLE, Rules, is_readable, load
from shards.sources.listing import Entry, LeftOut
from shards.unfinished import Unfinished
from shards.workers import Step, spread
from shards.writer import write_through

MODES = ("keep", "drop", "conflicts", "report")
SAME = "the same pixels as"  # how their reasons begin
REPORT = "duplicates.jsonl"

Bytes = npt.NDArray[np.uint8]
_NONE = bytes(HASH_BYTES[0])  # in place of the hash of an image that cannot be packed
_UNREAD = b"\xff" * HASH_BYTES[0]  # in a file of hashes: not yet, for it could not be read
_AT_ONCE = 4096  # images a piece of work: a killed packer loses no more of each process


@dataclass(frozen=True, slots=True)
class Piece:
    """Some images to be hashed."""

    entries: Sequence[Entry]
    file: Path  # of their hashes; it is there when they are done
    parts: Path  # where what is not finished lies
    rules: Rules


def hash_all(
    entries: Sequence[Entry], rules: Rules, at: Unfinished, workers: int, progress: Callable[[int], None]
) -> Bytes:
    """The pixel hashes [N, 16] of all entries; zeros for an image that cannot be packed.

    Finished files are kept, but for those with an image that could not be read then and can be now.
    """
    cuts = [*range(0, len(entries), _AT_ONCE), len(entries)]
    ranges = [(at.hashes / f"{start:012d}", np.arange(start, stop)) for start, stop in pairwise(cuts)]
    todo = [(file, places) for file, places in ranges if not _is_done(file, Chosen(entries, places))]
    before = len(entries) - sum(len(places) for _, places in todo)
    pieces = (Piece(Chosen(entries, places), file, at.parts, rules) for file, places in todo)
    for _ in spread(hash_piece, pieces, min(workers, len(todo)), lambda done: progress(before + done)):
        pass
    found = np.concatenate([_hashes_in(file) for file, _ in ranges])
    found[_unread(found)] = 0
    return found


def _is_done(file: Path, entries: Sequence[Entry]) -> bool:
    """Whether the hashes of these images are there, as far as the images can be read."""
    return file.exists() and not any(is_readable(entries[i]) for i in _unread(_hashes_in(file)).tolist())


def _hashes_in(file: Path) -> Bytes:
    return np.fromfile(file, np.uint8).reshape(-1, HASH_BYTES[0])


def _unread(hashes: Bytes) -> Ints:
    return np.flatnonzero((hashes == np.frombuffer(_UNREAD, np.uint8)).all(axis=1))


def hash_piece(piece: Piece, step: Step) -> None:
    """Write the hashes of some images, whole or not at all."""
    hashes = list[bytes]()
    for entry in piece.entries:
        try:
            image = load(entry, piece.rules)
        except BadImage as error:  # it is named when it is packed
            hashes.append(_UNREAD if str(error).startswith(UNREADABLE) else _NONE)
        else:
            assert image.pixels is not None, "copies are found among decoded images"
            hashes.append(pixel_hash(image.pixels))
        step()
    part = piece.parts / f"{piece.file.name}-{os.getpid()}"
    write_through(part, b"".join(hashes))
    part.replace(piece.file)


def choose(entries: Sequence[Entry], hashes: Bytes, mode: str) -> tuple[Ints, list[LeftOut]]:
    """The places of the entries that stay under "drop" or "conflicts", and why others do not; ShardError: none does."""
    stays, left_out = np.ones(len(entries), bool), list[LeftOut]()
    for group in (some for alike in groups(hashes) for some in _by_face(alike, entries)):
        said = {i: face.expression for i in group if (face := entries[i].face) and face.expression}
        contradict = len(set(said.values())) > 1
        first = next(iter(said), group[0])
        gone = group if contradict else [i for i in group if i != first] if mode == "drop" else []
        for i in gone:
            other = entries[first if i != first else next(j for j in group if j != first)].origin
            but = f", and of them the labels {', '.join(sorted(set(said.values())))}" if contradict else ""
            left_out.append(LeftOut(entries[i].origin, f"{SAME} {other}{but}", False))
        stays[gone] = False
    if not stays.any():
        raise ShardError(f"no image is left without copies that contradict it; the first: {left_out[0].reason}")
    return np.flatnonzero(stays), left_out


def _by_face(group: list[int], entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Images with the same pixels by the face that they are of: a picture may have several, each with its own box."""
    faces = faces_apart([face.box if (face := entries[i].face) else None for i in group])
    for number in range(max(faces) + 1):
        yield [i for i, own in zip(group, faces, strict=True) if own == number]


def report(entries: Sequence[Entry], hashes: Bytes) -> Iterator[str]:
    """The lines of duplicates.jsonl."""
    for group in groups(hashes):
        members = [entries[i] for i in group]
        expressions = [entry.face.expression if entry.face else None for entry in members]
        yield json.dumps({"paths": [entry.origin for entry in members], "expressions": expressions}) + "\n"


def groups(hashes: Bytes) -> Iterator[list[int]]:
    """Groups of two images or more with the same pixels: ascending, and the group of the smallest first."""
    words = np.ascontiguousarray(hashes).view(np.uint64)  # [N, 2]
    order = np.lexsort((words[:, 1], words[:, 0]))  # stable: ascending in each group
    sorted_ = words[order]
    starts = np.flatnonzero(np.r_[True, (sorted_[1:] != sorted_[:-1]).any(axis=1)])
    lengths = np.diff(np.r_[starts, len(order)])
    several = (lengths > 1) & sorted_[starts].any(axis=1)
    starts, lengths = starts[several], lengths[several]
    by_first = np.argsort(order[starts])
    for start, length in zip(starts[by_first].tolist(), lengths[by_first].tolist(), strict=True):
        yield order[start : start + length].tolist()
