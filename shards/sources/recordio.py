"""RecordIO as InsightFace and MXNet's im2rec write it, read without mxnet.

    SRC/train.rec    records end to end, each at a multiple of 4 bytes; all numbers are little-endian
        u32 magic, u32 kind << 29 | length      then so many bytes, and zeros up to a multiple of 4
    SRC/train.idx    "key offset" a line, in any order, of all records; without it they are numbered as they lie

Kind 0 is a whole record. One whose bytes held the magic at a multiple of 4 was cut there: its parts are of kind 1,
2, ..., 2, 3, and the magic comes back between them. A record's bytes are

    u32 flag, f32 label, u64, u64           then `flag` more f32 labels, the first of which counts; then the image

The label is the identity, the same in all .rec of a folder. Records without an image are no faces: InsightFace's
first, and its one for each identity. The ranges of keys that those tell are not used, since float32 knows no odd
number above 2**24: WebFace42M's would take two identities for images.

Listing passes over a .rec once, from start to end, for the labels: identities are asked for in the random order of
packing, where each would cost a seek.
"""

import struct
import warnings
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shards.errors import ShardError
from shards.pixels import BadImage
from shards.sources.listing import Entry, Lazy, LeftOut, Listing

MAGIC = 0xCED7230A
_PART, _HEAD, _LABEL = struct.Struct("<II"), struct.Struct("<IfQQ"), struct.Struct("<f")
_WRONG = -1  # the kind of what has no magic


class _Records(Lazy):
    """The images of some .rec files as entries, made when asked for."""

    def __init__(self, recs: list[Path]) -> None:
        self._recs = recs
        self._rec, self._key, self._offset, self._size = array("i"), array("q"), array("q"), array("i")
        self._label = array("f")

    def append(self, rec: int, key: int, offset: int, size: int, label: float) -> None:
        self._rec.append(rec)
        self._key.append(key)
        self._offset.append(offset)
        self._size.append(size)
        self._label.append(label)

    def __len__(self) -> int:
        return len(self._key)

    def entry(self, i: int) -> Entry:
        rec, size, identity = self._recs[self._rec[i]], self._size[i], f"{self._label[i]:.9g}"
        read = partial(read_image, str(rec), self._offset[i])
        return Entry(f"{rec.name}#{self._key[i]}", size, read, identity=identity)


def entries(src: Path) -> Listing:
    """The images in the .rec files at `src`, a folder or one of them, as they lie."""
    recs = sorted(rec for rec in src.glob("*.rec") if rec.name[0] != ".") if src.is_dir() else [src]
    if not recs:
        raise ShardError(f"{src}: no .rec in it; SRC is the folder of train.rec and train.idx, or a .rec")
    found, left_out = _Records(recs), list[LeftOut]()
    for number, rec in enumerate(recs):
        without = _list(found, number, rec)
        if without:
            left_out.append(LeftOut(rec.name, f"{without} records without an image (header, identities)", False))
    if not len(found):
        raise ShardError(f"{src}: no images in its records")
    return Listing(found, left_out)


def read_image(rec: str, offset: int) -> bytes:
    """The image of the record at `offset`; BadImage where there is no whole one."""
    parts, kind = list[bytes](), 1
    with open(rec, "rb") as file:
        while kind in (1, 2):
            kind, length = _part(file, offset)
            if kind not in ((2, 3) if parts else (0, 1)):
                raise BadImage(f"no part of a record at byte {offset}")
            parts.append(file.read(length))
            if len(parts[-1]) < length:
                raise BadImage(f"{length} bytes should follow byte {offset}, but the file ends")
            offset += _PART.size + length + -length % 4
    data = MAGIC.to_bytes(4, "little").join(parts)
    if len(data) < _HEAD.size:
        raise BadImage(f"a record of {len(data)} bytes, without label and image")
    return data[_HEAD.size + _LABEL.size * _HEAD.unpack_from(data)[0] :]


def _part(file: BinaryIO, offset: int) -> tuple[int, int]:
    """Kind and length of the part at `offset`; its bytes come next."""
    file.seek(offset)
    magic, word = _PART.unpack(file.read(_PART.size).ljust(_PART.size, b"\0"))
    return (word >> 29, word & 0x1FFFFFFF) if magic == MAGIC else (_WRONG, 0)


def _list(found: _Records, number: int, rec: Path) -> int:
    """Add a file's images; returns how many of its records have none. ShardError where file or .idx is cut short.

    What is wrong with one record shows when it is read, and costs that image.
    """
    size, without, end, offset = rec.stat().st_size, 0, 0, 0
    with rec.open("rb", buffering=1 << 20) as file:
        for key, offset in _places(rec, file, size):
            _check_gap(rec, file, end, offset)
            kind, length = _part(file, offset)
            flag, label, _, _ = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size, b"\0"))
            image = length - _HEAD.size - _LABEL.size * flag
            if kind == 0 and image == 0:
                without += 1
            else:
                own = _LABEL.unpack(file.read(_LABEL.size).ljust(_LABEL.size, b"\0"))[0] if flag else label
                found.append(number, key, offset, max(image, 0), own)
            end = offset + _PART.size + length
        _check_gap(rec, file, end, size)
    if end > size:
        raise ShardError(f"{rec}: ends at byte {size}, within or before the record at byte {offset}; get it again")
    return without


def _check_gap(rec: Path, file: BinaryIO, place: int, stop: int) -> None:
    """ShardError where a record begins between these places: the .idx, which does not name it, was cut short."""
    place += -place % 4
    while place < stop:  # rarely: only behind the first part of a record of several
        kind, length = _part(file, place)
        if kind in (0, 1):
            idx = rec.with_suffix(".idx")
            raise ShardError(
                f"{idx}: does not name the record at byte {place} of {rec.name}; get it again, or remove it"
            )
        if kind == _WRONG:
            return
        place += _PART.size + length + -length % 4


def _places(rec: Path, file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Key and offset of each record, by offset: from the .idx, or as they lie."""
    idx, number, place = rec.with_suffix(".idx"), 0, 0
    if idx.exists():
        yield from _index(idx)
        return
    while place < size:
        kind, length = _part(file, place)
        if kind == _WRONG or place + _PART.size + length > size:
            fault = "wrong magic" if kind == _WRONG else "cut short in the record"
            raise ShardError(f"{rec}: {fault} at byte {place}, what follows cannot be found; get it again")
        if kind in (0, 1):
            yield number, place
            number += 1
        place += _PART.size + length + -length % 4


def _index(idx: Path) -> Iterator[tuple[int, int]]:
    """The lines of an .idx, by offset."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as numpy before 2.4 warns of what is no number
            lines = np.fromfile(idx, np.int64, sep=" ").reshape(-1, 2)
        if lines.min(initial=0) < 0:
            raise ValueError("negative numbers")
    except (ValueError, DeprecationWarning) as error:
        raise ShardError(f"{idx}: not a key and an offset a line ({error}); get it again, or remove it") from None
    lines = lines[np.argsort(lines[:, 1], kind="stable")]
    return zip(lines[:, 0].data, lines[:, 1].data, strict=True)
