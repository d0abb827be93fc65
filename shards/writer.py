"""Images into shards: one tar by webdataset's TarWriter, and the files beside it. Runs in many processes.

The same samples give the same bytes, any day, anywhere.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from shards.index import ENTRY
from shards.pixels import MAX_FILE_BYTES, BadImage, Pixels, inspect, perceptual_hash, pixel_hash
from shards.sample import Sample, to_json
from shards.sources.listing import Entry
from shards.tar import BLOCK


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to be made."""

    set_name: str
    name: str  # of the shard: NAME-000000
    folder: Path  # where its files go
    row_file: Path  # written last: the shard is done
    first: int  # the planned place of its first sample in the set: its key
    entries: Sequence[Entry]


@dataclass(slots=True)
class Tally:
    """What is counted over the images of a shard; all of it adds up over shards, exactly."""

    min_px: list[int] = field(default_factory=lambda: [0, 0])  # width, height
    max_px: list[int] = field(default_factory=lambda: [0, 0])
    sum_px: list[int] = field(default_factory=lambda: [0, 0])
    pixels: int = 0
    values: list[int] = field(default_factory=lambda: [0, 0, 0])  # sums of R, G, B in 0..255
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])
    expressions: dict[str, int] = field(default_factory=dict)

    def add(self, pixels: Pixels, expression: str | None) -> None:
        height, width, _ = pixels.shape
        size = [width, height]
        self.min_px = [min(pair) for pair in zip(self.min_px, size, strict=True)] if self.pixels else size
        self.max_px = [max(pair) for pair in zip(self.max_px, size, strict=True)]
        self.sum_px = [sum(pair) for pair in zip(self.sum_px, size, strict=True)]
        self.pixels += width * height
        for channel in range(3):
            often = np.bincount(pixels[:, :, channel].ravel(), minlength=256)
            self.values[channel] += int(often @ _LEVELS)
            self.squares[channel] += int(often @ _LEVELS**2)
        if expression is not None:
            self.expressions[expression] = self.expressions.get(expression, 0) + 1


_LEVELS = np.arange(256)


def write_tar(path: Path, samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """Write the samples into a new tar at `path`; returns where each one lies: offset and length in bytes.

    The modification time is an int: TarWriter's default, a float, costs 1 KiB of extended header a member.
    """
    spans: list[tuple[int, int]] = []
    with path.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
            for sample in samples:
                start = writer.tarstream.offset
                parts: dict[str, Any] = {"__key__": sample.key, sample.extension: sample.image}
                if sample.face is not None:
                    parts["json"] = to_json(sample.face)
                writer.write(parts)
                spans.append((start, writer.tarstream.offset - start))
        _to_disk(file)
    return spans


def write_shard(task: Task, step: Callable[[], None]) -> dict[str, Any]:
    """Make a shard with the files beside it; returns its row: index entry, tally, what was left out.

    `step` is called after each image. An OSError of writing passes through.
    """
    tally, origins, hashes, left_out = Tally(), list[str](), list[bytes](), list[list[Any]]()

    def samples() -> Iterator[Sample]:
        for place, entry in enumerate(task.entries, task.first):
            try:
                data, (extension, pixels) = _look(entry)
            except BadImage as error:
                left_out.append([place, entry.origin, str(error)])
            else:
                tally.add(pixels, entry.face.expression if entry.face else None)
                origins.append(f"{task.set_name}:{entry.origin}".replace("\n", "\\n"))
                hashes.append(pixel_hash(pixels) + perceptual_hash(pixels))
                yield Sample(f"{place:09d}", data, extension, entry.face)
            step()

    base = task.folder / task.name
    spans = write_tar(base.with_suffix(".tar"), samples())
    entries, tar_sha256, size = _measure(base.with_suffix(".tar"), spans)
    lines = "".join(f"{origin}\n" for origin in origins).encode("utf-8", "surrogateescape")
    shard = {
        "name": task.name,
        "samples": len(spans),
        "bytes": size,
        "sha256": tar_sha256,
        "idx_sha256": _write(base.with_suffix(".idx"), entries),
        "hashes_sha256": _write(base.with_suffix(".hashes"), b"".join(hashes)),
        "origin_sha256": _write(base.with_suffix(".origin.gz"), gzip.compress(lines, mtime=0)),
    }
    row = {"shard": shard, "tally": asdict(tally), "left_out": left_out}
    part = task.row_file.with_suffix(".part")
    _write(part, json.dumps(row).encode())
    part.rename(task.row_file)
    return row


def _look(entry: Entry) -> tuple[bytes, tuple[str, Pixels]]:
    """The bytes of an entry and what they hold; BadImage if that is no image for us."""
    if entry.size_bytes > MAX_FILE_BYTES:
        raise BadImage(f"{entry.size_bytes:,} bytes: too large for an image of a face")
    try:
        data = entry.read()
    except (OSError, EOFError) as error:
        raise BadImage(f"cannot read: {error}") from None
    return data, inspect(data)


def _measure(path: Path, spans: list[tuple[int, int]]) -> tuple[bytes, str, int]:
    """The .idx entries, the sha256 and the size of a tar: of what the disk gives back, not of what was sent."""
    sha256, entries, size = hashlib.sha256(), list[bytes](), 0
    with path.open("rb") as file:
        for offset, length in spans:
            span = file.read(length)
            assert size == offset and len(span) == length, f"{path}: samples do not lie end to end"
            entries.append(ENTRY.pack(offset // BLOCK, length, zlib.crc32(span)))
            sha256.update(span)
            size += length
        rest = file.read()
        sha256.update(rest)
    return b"".join(entries), sha256.hexdigest(), size + len(rest)


def _write(path: Path, data: bytes) -> str:
    """Write a file through to the disk; returns its sha256."""
    with path.open("wb") as file:
        file.write(data)
        _to_disk(file)
    return hashlib.sha256(data).hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
