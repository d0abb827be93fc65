"""Images into one shard: a tar, and the files beside it. Runs in many processes.

The same samples give the same bytes, any day, anywhere. (What an image that is encoded anew becomes may depend on
the version of Pillow: prepare.py.)
"""

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase, TextIOBase
from pathlib import Path
from typing import Any

import numpy as np

from shards.boxing import Boxing, boxed
from shards.index import ENTRY, HASH_BYTES, kinds
from shards.pixels import BadImage, grey_cells, perceptual_hashes, pixel_hash
from shards.prepare import Prepared, Rules, load
from shards.sample import Face, Sample, to_json
from shards.sources.listing import Entry
from shards.tally import Tally
from shards.tar import BLOCK


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to be made."""

    set_name: str
    name: str  # of the shard: NAME-000000
    first: int  # the planned place of its first image in the set; places are keys
    entries: Sequence[Entry]
    place: Path  # the folder of finished shards
    row_file: Path  # written last: the shard is done
    parts: Path  # where what is not finished lies
    boxing: Boxing
    rules: Rules


def write_shard(task: Task, step: Callable[[], None]) -> dict[str, Any]:
    """Make a shard; returns its row: its entry in index.json, its tally, what was left out.

    `step` is called after each image. The files appear in their place when all are written; an OSError of
    writing passes through.
    """
    parts = task.parts / f"{task.name}-{os.getpid()}"
    parts.mkdir(parents=True)
    row = _write_files(task, parts / task.name, step)
    for kind in kinds(row["shard"]):
        (parts / f"{task.name}.{kind}").replace(task.place / f"{task.name}.{kind}")
    write_through(parts / "row", json.dumps(row).encode())
    (parts / "row").replace(task.row_file)
    shutil.rmtree(parts)
    return row


def _write_files(task: Task, base: Path, step: Callable[[], None]) -> dict[str, Any]:
    tally, origins, left_out = Tally(), list[str](), list[list[Any]]()
    hashes, cells = list[bytes](), list[bytes]()

    def samples() -> Iterator[Sample]:
        for place, entry in enumerate(task.entries, task.first):
            try:
                image = load(entry, task.rules)
            except BadImage as error:
                left_out.append([place, entry.origin, str(error)])
            else:
                sample = _sample(f"{place:09d}", entry, image, task)
                tally.add(image, sample.face)
                origins.append(f"{task.set_name}:{entry.origin}".replace("\n", "\\n") + "\n")
                if image.pixels is not None:
                    hashes.append(pixel_hash(image.pixels))
                    cells.append(grey_cells(image.pixels))
                yield sample
            step()

    tar = base.with_suffix(".tar")
    entries, sha256, size = _measure(tar, write_tar(tar, samples()))
    lines = "".join(origins).encode("utf-8", "surrogateescape")
    hashed = {}
    if task.rules.decode_check:
        exact = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES[0])
        both = np.concatenate([exact, perceptual_hashes(b"".join(cells))], axis=1)
        hashed["hashes_sha256"] = write_through(base.with_suffix(".hashes"), both.tobytes())
    shard = {
        "name": task.name,
        "samples": len(origins),
        "first": task.first,
        **({"gaps": [place for place, _, _ in left_out]} if left_out else {}),
        "bytes": size,
        "sha256": sha256,
        "idx_sha256": write_through(base.with_suffix(".idx"), entries),
        **hashed,
        "origin_sha256": write_through(base.with_suffix(".origin.gz"), gzip.compress(lines, mtime=0)),
    }
    return {"shard": shard, "tally": tally.as_dict(), "left_out": left_out}


def write_tar(path: Path, samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """Write the samples into a new tar at `path`; returns where each one lies: offset and length in bytes.

    To the byte what webdataset's TarWriter writes, members sorted by extension. That one would bring torch into
    every packing process, half a GB, and costs as much as a JPEG takes to decode.
    """
    spans, place = list[tuple[int, int]](), 0
    with path.open("wb") as file:
        for sample in samples:
            members = [(sample.extension, sample.image)]
            if sample.face is not None:
                members.append(("json", to_json(sample.face)))
            span = b"".join(member(f"{sample.key}.{extension}", data) for extension, data in sorted(members))
            file.write(span)
            spans.append((place, len(span)))
            place += len(span)
        end = 2 * BLOCK  # and then up to a whole record of tar
        file.write(bytes(end + -(place + end) % tarfile.RECORDSIZE))
        to_disk(file)
    return spans


def member(name: str, data: bytes) -> bytes:
    """A file in a tar: a ustar header of nobody and no time, and the content."""
    header, called, size = bytearray(_HEADER), name.encode(), b"%011o" % len(data)
    header[: len(called)] = called
    header[124:135] = size
    header[148:155] = b"%06o\0" % (_HEADER_SUM + sum(called) + sum(size))  # as if its own eight bytes were spaces
    return b"".join((header, data, bytes(-len(data) % BLOCK)))


def _empty_header() -> bytes:
    """The header of a member without name and size, and with spaces for its checksum."""
    nobody = tarfile.TarInfo()
    nobody.mode = 0o444
    header = nobody.tobuf(tarfile.USTAR_FORMAT)
    return header[:148] + b" " * 8 + header[156:]


_HEADER = _empty_header()
_HEADER_SUM = sum(_HEADER) - sum(_HEADER[124:135])


def _sample(key: str, entry: Entry, image: Prepared, task: Task) -> Sample:
    """The sample that an entry and its image become."""
    face = boxed(entry.face, image.pixels, task.boxing)
    if image.made:  # also what a source says that was packed before
        said = f"{face.made}; {image.made}" if face and face.made else image.made
        face = replace(face or Face(), made=said)
    return Sample(key, image.data, image.extension, face)


def _measure(tar: Path, spans: list[tuple[int, int]]) -> tuple[bytes, str, int]:
    """A tar's .idx, sha256 and size: of what the disk gives back, not of what was sent to it."""
    sha256, entries, size = hashlib.sha256(), list[bytes](), 0
    with tar.open("rb") as file:
        for offset, length in spans:
            span = file.read(length)
            assert size == offset and len(span) == length, f"{tar}: samples do not lie end to end"
            entries.append(ENTRY.pack(offset // BLOCK, length, zlib.crc32(span)))
            sha256.update(span)
            size += length
        end = file.read()
    sha256.update(end)
    return b"".join(entries), sha256.hexdigest(), size + len(end)


def write_through(path: Path, data: bytes) -> str:
    """Write a file through to the disk; returns its sha256."""
    with path.open("wb") as file:
        file.write(data)
        to_disk(file)
    return hashlib.sha256(data).hexdigest()


def to_disk(file: BufferedIOBase | TextIOBase) -> None:
    """Have what was written to a file on its disk."""
    file.flush()
    os.fsync(file.fileno())
