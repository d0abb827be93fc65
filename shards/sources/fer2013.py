"""FER2013: 35,887 grey faces of 48x48 px (Goodfellow et al. 2013).

    SRC/fer2013.csv         columns emotion, pixels (2304 numbers with spaces between), Usage

or a copy as images, whose folders are names or numbers:

    SRC/train/angry/Training_3908.jpg ...  SRC/test/angry/PublicTest_88305.jpg, PrivateTest_1054527.jpg ...

0 anger 1 disgust 2 fear 3 happiness 4 sadness 5 surprise 6 neutral. The splits are train (Usage Training,
28,709 images), valid (PublicTest, 3,589) and test (PrivateTest, 3,589). The best-known copy has the last two
in one folder, test; their names tell them apart.
"""

import struct
import zlib
from functools import partial
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import FER2013, expression_called, expression_numbered
from shards.pixels import BadImage
from shards.sample import Face
from shards.sources.labeled import Found, listing, split_folders
from shards.sources.listing import Entry, Listing, read_span

CSV = "fer2013.csv"
_USAGES = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
_PX = 48


def entries(src: Path, *, split: str | None = None) -> Listing:
    """The images of a split of FER2013; without a split, of all three."""
    splits = _rows(src / CSV) if (src / CSV).is_file() else split_folders(src, _USAGES, _expression)
    if not splits:
        raise ShardError(f"{src}: neither {CSV} nor folders train/angry ... test/surprise in it")
    return listing(src, split, splits)


def _expression(folder: str) -> str:
    return expression_numbered(folder, FER2013) if folder.isdecimal() else expression_called(folder)


def _rows(file: Path) -> dict[str, list[Found]]:
    """By split, the rows as images; the pixels are made of the text when it is read again."""
    splits: dict[str, list[Found]] = {split: [] for split in _USAGES.values()}
    with file.open("rb") as lines:
        header = lines.readline()
        try:
            emotion, pixels, usage = (_fields(header).index(name) for name in ("emotion", "pixels", "Usage"))
        except ValueError:
            raise ShardError(f"{file}:1: not the columns emotion, pixels, Usage of FER2013") from None
        start = len(header)
        for number, line in enumerate(lines, 2):
            if line.strip():
                try:
                    fields = _fields(line)
                    found = splits[_USAGES[fields[usage]]]
                    face = Face(expression_numbered(fields[emotion], FER2013))
                except (KeyError, IndexError):
                    raise ShardError(f"{file}:{number}: none of the Usages {', '.join(_USAGES)} at its place") from None
                except ValueError as error:
                    raise ShardError(f"{file}:{number}: {error}") from None
                read = partial(_read, str(file), start, len(line), pixels)
                found.append(Entry(f"{CSV}#{number}", _PNG_BYTES, read, face))
            start += len(line)
    return {split: found for split, found in splits.items() if found}


def _fields(line: bytes) -> list[str]:
    return [field.strip(' "\r\n') for field in line.decode().split(",")]


def _read(file: str, start: int, length: int, column: int) -> bytes:
    """The PNG of a row's pixels."""
    try:
        grey = bytes(map(int, _fields(read_span(file, start, length))[column].split()))
    except ValueError:
        raise BadImage("its pixels are not numbers from 0 to 255") from None
    if len(grey) != _PX * _PX:
        raise BadImage(f"{len(grey)} pixels instead of {_PX}x{_PX}")
    return _png(grey)


def _png(grey: bytes) -> bytes:
    """The image as PNG, not compressed: the same bytes whatever zlib is there, and as many for each image."""
    rows = b"".join(b"\0" + grey[start : start + _PX] for start in range(0, len(grey), _PX))
    block = struct.pack("<BHH", 1, len(rows), len(rows) ^ 0xFFFF) + rows  # the last one, stored
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", _PX, _PX, 8, 0, 0, 0, 0),
        b"IDAT": b"\x78\x01" + block + struct.pack(">I", zlib.adler32(rows)),
        b"IEND": b"",
    }
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_PNG_BYTES = len(_png(bytes(_PX * _PX)))
