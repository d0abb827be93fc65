"""Samples out of a tar: the bytes of one sample, headers included, are all that is needed to read it.

Writing is in writer.py.
"""

import os
from collections.abc import Iterator

from shards.sample import EXTENSIONS, Sample, from_json

BLOCK = 512


def padded(size: int) -> int:
    """`size` rounded up to whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK


def _size(header: bytes) -> int:
    """The bytes of a member, as its header says; ValueError where that is no number of bytes."""
    size = int(header[124:135], 8)
    if size < 0:
        raise ValueError(f"a member of {size} bytes")
    return size


def member_kinds(fd: int, place: int, end: int) -> Iterator[str]:
    """The endings of the names of the members that lie in a tar from `place` to `end`, as "jpg"; reads headers only."""
    while place < end:
        header = os.pread(fd, BLOCK, place)
        yield header[:100].rstrip(b"\0").decode().partition(".")[2]
        place += BLOCK + padded(_size(header))


def parse(span: bytes) -> Sample:
    """The sample that lies in `span`, all its members with their headers; ValueError where there is none.

    The headers' checksums are passed over: whoever reads a span has checked its crc32.
    """
    key, image, extension, face, place = "", b"", "", None, 0
    while place < len(span):
        name, size = span[place : place + 100].rstrip(b"\0").decode(), _size(span[place : place + BLOCK])
        place += BLOCK
        if place + size > len(span):
            raise ValueError(f"a member of {size} bytes ends outside the sample's {len(span)}")
        key, _, kind = name.partition(".")
        if kind in EXTENSIONS:
            image, extension = span[place : place + size], kind
        elif kind == "json":
            face = from_json(span[place : place + size])
        place += padded(size)
    if not extension:
        raise ValueError(f"sample {key!r} has no image ({', '.join(EXTENSIONS)})")
    return Sample(key, image, extension, face)
