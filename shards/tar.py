"""Samples out of a tar: the bytes of one sample, headers included, are all that is needed to read it.

Writing is in writer.py.
"""

from collections.abc import Iterator

from shards.sample import EXTENSIONS, Sample, from_json

BLOCK = 512


def padded(size: int) -> int:
    """`size` rounded up to whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK


def members(span: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of a piece of a tar; ValueError where it is no such piece.

    The headers' checksums are passed over: whoever reads a span has checked its crc32.
    """
    place = 0
    while place < len(span):
        name, size = span[place : place + 100], int(span[place + 124 : place + 135], 8)
        place += BLOCK
        if place + size > len(span):
            raise ValueError(f"a member of {size} bytes ends outside the sample's {len(span)}")
        yield name.rstrip(b"\0").decode(), span[place : place + size]
        place += padded(size)


def parse(span: bytes, *, origin: str = "") -> Sample:
    """The sample that lies in `span`, all its members with their headers; ValueError where there is none."""
    key, image, extension, face = "", b"", "", None
    for name, content in members(span):
        key, _, kind = name.partition(".")
        if kind in EXTENSIONS:
            image, extension = content, kind
        elif kind == "json":
            face = from_json(content)
    if not extension:
        raise ValueError(f"sample {key!r} has no image ({', '.join(EXTENSIONS)})")
    return Sample(key, image, extension, face, origin)
