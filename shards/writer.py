"""Images into one shard: a tar by webdataset's TarWriter, and the files beside it. Runs in many processes.

The same samples give the same bytes, any day, anywhere. (What an image that is encoded anew becomes may depend on
the version of Pillow: prepare.py.)
"""

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from shards.boxes import Box
from shards.index import ENTRY, kinds
from shards.pixels import BadImage, perceptual_hash, pixel_hash
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
    template: Box  # of faces that have no box of their own
    rules: Rules


def write_shard(task: Task, step: Callable[[], None]) -> dict[str, Any]:
    """Make a shard; returns its row: its entry in index.json, its tally, what was left out.

    `step` is called after each image. The files appear in their place when all are written; an OSError of
    writing passes through.
    """
    parts = task.parts / f"{task.name}-{os.getpid()}"  # a packer that was killed may have left others
    parts.mkdir(parents=True)
    row = _write_files(task, parts / task.name, step)
    for kind in kinds(row["shard"]):
        (parts / f"{task.name}.{kind}").replace(task.place / f"{task.name}.{kind}")
    write_through(parts / "row", json.dumps(row).encode())
    (parts / "row").replace(task.row_file)
    shutil.rmtree(parts)
    return row


def _write_files(task: Task, base: Path, step: Callable[[], None]) -> dict[str, Any]:
    tally, origins, hashes, left_out = Tally(), list[str](), list[bytes](), list[list[Any]]()

    def samples() -> Iterator[Sample]:
        for place, entry in enumerate(task.entries, task.first):
            try:
                image = load(entry, task.rules)
            except BadImage as error:
                left_out.append([place, entry.origin, str(error)])
            else:
                sample = _sample(f"{place:09d}", entry, image, task)
                tally.add(image, entry.face.expression if entry.face else None)
                origins.append(f"{task.set_name}:{entry.origin}".replace("\n", "\\n") + "\n")
                if image.pixels is not None:
                    hashes.append(pixel_hash(image.pixels) + perceptual_hash(image.pixels))
                yield sample
            step()

    tar = base.with_suffix(".tar")
    entries, sha256, size = _measure(tar, write_tar(tar, samples()))
    lines = "".join(origins).encode("utf-8", "surrogateescape")
    hashed = {}
    if task.rules.decode_check:
        hashed["hashes_sha256"] = write_through(base.with_suffix(".hashes"), b"".join(hashes))
    shard = {
        "name": task.name,
        "samples": len(origins),
        "bytes": size,
        "sha256": sha256,
        "idx_sha256": write_through(base.with_suffix(".idx"), entries),
        **hashed,
        "origin_sha256": write_through(base.with_suffix(".origin.gz"), gzip.compress(lines, mtime=0)),
    }
    return {"shard": shard, "tally": tally.as_dict(), "left_out": left_out}


def write_tar(path: Path, samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """Write the samples into a new tar at `path`; returns where each one lies: offset and length in bytes."""
    spans: list[tuple[int, int]] = []
    with path.open("wb") as file:
        # The time is an int: TarWriter's default, a float, costs 1 KiB of extended header a member.
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


def _sample(key: str, entry: Entry, image: Prepared, task: Task) -> Sample:
    """The sample that an entry and its image become."""
    face = boxed(entry.face, task.template)
    if image.made:  # also what a source says that was packed before
        said = f"{face.made}; {image.made}" if face and face.made else image.made
        face = replace(face or Face(), made=said)
    return Sample(key, image.data, image.extension, face)


def boxed(face: Face | None, template: Box) -> Face | None:
    """A known face with a box: its own, or else the template. A face of which nothing is known stays so."""
    if face is None or face.box or face == Face(made=face.made):
        return face
    return replace(face, box=template, box_source="template")


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
        _to_disk(file)
    return hashlib.sha256(data).hexdigest()


def _to_disk(file: BufferedIOBase) -> None:
    file.flush()
    os.fsync(file.fileno())
