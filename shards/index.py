"""A shard set on disk: what its files say, and how one sample is read.

    index.json                what the set holds: shards with counts and sha256, sizes, colours, classes
    NAME-000000.tar           the samples, as plain WebDataset (sample.py)
    NAME-000000.idx           12 bytes a sample, little-endian: offset / 512, length, crc32 of all its members
    NAME-000000.hashes        48 bytes a sample: pixel hash and perceptual hash (pixels.py), to find copies;
                              missing where index.json says "hashes": false, packed without the decode check
    NAME-000000.origin.gz     a line a sample: where it came from
    left_out.jsonl            a line a file that did not become a sample: path and reason
    duplicates.jsonl          with --duplicates report: a line a group of exact copies (copies.py)

A sample is read by one positional read and checked by its crc32. Offsets in blocks of 512 bytes reach 2 TiB.
"""

import functools
import gzip
import hashlib
import itertools
import json
import os
import re
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import ShardError, UserError, unread
from shards.index_form import faults, whole
from shards.sample import Sample
from shards.tar import BLOCK, member_kinds, parse

FORMAT = 2
INDEX = "index.json"
INDEX_MB = 64  # one that comes from elsewhere has no more: a shard's row is 0.4 to 0.7 kB, of 17,000 shards 12 MB
UNFINISHED = ".unfinished"  # a set that is being packed lies at its path with this behind it
ENTRY = struct.Struct("<III")  # offset / BLOCK, length, crc32
HASH_BYTES = 16, 32  # of the pixels; perceptual
KINDS = {"tar": "sha256", "idx": "idx_sha256", "hashes": "hashes_sha256", "origin.gz": "origin_sha256"}
BESIDE = ("left_out.jsonl", "duplicates.jsonl")  # lists beside the shards; those there have their sha256 in "files"
_NAME, _SUM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), re.compile(r"[0-9a-f]{64}")
_OTHER_BYTES = "other bytes than were packed; copy the shard again"
_OPEN_SHARDS = 256  # kept open at once: with their entries, under usual limits of files and memory


class _Shard:
    """A shard's tar, open until this is forgotten, and its index entries."""

    def __init__(self, fd: int, entries: bytes) -> None:
        self.fd, self.entries = fd, entries

    def __del__(self) -> None:
        os.close(self.fd)


def read_index(path: Path) -> dict[str, Any]:
    """What index.json of the set at `path` says; ShardError where there is none that we understand."""
    file = path / INDEX
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        way_out = "`fer-scale pack` makes one"
        if path.with_name(path.name + UNFINISHED).exists():
            way_out = "its packing is unfinished, run that `fer-scale pack` again"
        raise ShardError(f"{path}: no shard set ({INDEX} is missing); {way_out}") from None
    except NotADirectoryError:
        raise ShardError(f"{path}: is a file; give the folder of a shard set, in which {INDEX} lies") from None
    except OSError as error:
        raise unread(error)(f"{file}: cannot be read ({error}); look after the disk, or pack the set again") from None
    check_rows(index := index_from(data, str(file)), str(file), "copy the set again, or pack it again from its source")
    return index


def index_from(data: bytes, file: str) -> dict[str, Any]:
    """What the index.json says whose bytes these are; ShardError where it is none that we understand."""
    try:
        index = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{file}: cannot be read ({error}); pack the set again") from None
    found = index.get("format") if isinstance(index, dict) else None
    if found != FORMAT:
        raise ShardError(
            f"{file}: format version {found!r}, this program reads {FORMAT}; "
            "pack the set again, or use the release that made it"
        )
    if wrong := faults(index):
        raise ShardError(f"{file}: {', '.join(wrong)}; pack the set again")
    return index


def check_rows(index: dict[str, Any], place: str, way_out: str) -> None:
    """ShardError where a shard's row lacks a name, numbers or sums as ours have them: whoever reads goes by these."""
    for row in index["shards"]:
        gaps = said if isinstance(said := row.get("gaps", []), list) else [None]
        numbers = [row.get("samples"), row.get("bytes"), row.get("first", 0), *gaps]
        named = _is(_NAME, row.get("name")) and all(_is(_SUM, row.get(one)) for one in kinds(row).values())
        if not (named and all(map(whole, numbers))):
            raise ShardError(f"{place}: {str(row)[:200]} is no shard; {way_out}")


def check_names(index: dict[str, Any], place: str) -> None:
    """ShardError where the index, which came from elsewhere, names files as no index of ours does."""
    if not _is(_NAME, index["name"]):
        raise ShardError(f"{place}: {str(index['name'])[:200]!r} is no name of a set; copy the set there again")
    names = [str(shard.get("name")) for shard in index["shards"]]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ShardError(f"{place}: two shards are called {twice[0][:200]}; copy the set there again")
    check_rows(index, place, "copy the set there again")
    files = index.get("files", {})
    if not (isinstance(files, dict) and set(files) <= set(BESIDE) and all(_is(_SUM, one) for one in files.values())):
        raise ShardError(f"{place}: {str(files)[:200]} are no lists of a set; copy the set there again")


def sha256(file: Path) -> str:
    """The sha256 of a file in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is(form: re.Pattern[str], said: Any) -> bool:
    return isinstance(said, str) and form.fullmatch(said) is not None


def fingerprint_of(index: dict[str, Any]) -> str:
    """The sha256 that two sets share exactly when their tars are the same, in the same order."""
    lines = [f"{shard['sha256']} {shard['samples']}\n" for shard in index["shards"]]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class ShardSet:
    """A packed set, open for reading; cheap to open, to pickle, and safe to use after a fork."""

    address: str | None = None  # where it lies far away (remote.py), of the Hub with the commit

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self.path, self.index = path, index
        self.name: str = index["name"]
        self.counts: list[int] = [shard["samples"] for shard in index["shards"]]
        self.samples = sum(self.counts)
        self._bytes: list[int] = [shard["bytes"] for shard in index["shards"]]
        self.fingerprint = fingerprint_of(index)
        self._opened: OrderedDict[int, _Shard] = OrderedDict()

    @classmethod
    def open(cls, path: Path | str) -> "ShardSet":
        """The set at `path`; ShardError if there is none, or a shard is missing or was cut short."""
        index = read_index(path := Path(path))
        for shard in index["shards"]:
            if fault := size_fault(path, shard):
                raise ShardError(f"{path}/{fault}; copy the set again, or pack it again from its source")
        return cls(path, index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": OrderedDict()}

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {self.samples} samples in {len(self.counts)} shards)"

    def file(self, shard: int, kind: str) -> Path:
        """The file of a shard: kind "tar", "idx", "hashes" or "origin.gz"."""
        return self.path / f"{self.index['shards'][shard]['name']}.{kind}"

    def open_file(self, shard: int, kind: str) -> int:
        """A descriptor of a shard's file, open for reading."""
        return os.open(self.file(shard, kind), os.O_RDONLY | os.O_CLOEXEC)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Be told what is read next, the first first: of use where shards lie far away (remote.py)."""

    def read(self, shard: int, row: int) -> Sample:
        """Sample `row` of shard `shard`; ShardError, which names it, if its bytes are not those packed."""
        try:
            span, crc = self.span(shard, row)
            if zlib.crc32(span) != crc:
                raise ValueError(_OTHER_BYTES)
            return parse(span)
        except UserError:  # of the whole shard: it is said as it is, and if it lies far away no sample stands in for it
            raise
        except (OSError, ValueError) as error:
            raise unread(error)(f"{self.where(shard, row)}: {error}") from None

    def span(self, shard: int, row: int) -> tuple[bytes, int]:
        """All bytes of a sample, to be checked, and the crc32 they were packed with; ValueError if some are missing."""
        offset, length, crc = ENTRY.unpack_from(self._shard(shard).entries, row * ENTRY.size)
        inside = offset * BLOCK + length <= self._bytes[shard]  # a damaged entry may say 4 GB
        try:
            span = os.pread(self._shard(shard).fd, length, offset * BLOCK) if inside else b""
        except OSError:  # what was open while its server was away may be stale for good
            self._opened.pop(shard, None)
            span = os.pread(self._shard(shard).fd, length, offset * BLOCK)
        if len(span) != length:
            raise ValueError(_OTHER_BYTES)
        return span, crc

    def where(self, shard: int, row: int) -> str:
        """How messages name a sample: set/shard.tar[row] and where it came from."""
        try:
            origin = self.origins(shard)[row]
        except (OSError, EOFError, ValueError, IndexError, zlib.error):
            origin = "(origin unknown)"
        return f"{self.name}/{self.index['shards'][shard]['name']}.tar[{row:06d}] {origin}"

    def origins(self, shard: int) -> list[str]:
        """Where the samples of a shard came from: "set:path/in/the/dataset.jpg"."""
        file = self.file(shard, "origin.gz")
        return _lines(file, file.stat().st_mtime_ns)

    def keys(self, shard: int) -> list[str]:
        """The keys of a shard's samples in order, as the index has them."""
        row = self.index["shards"][shard]
        if "first" not in row:  # packed before it was kept
            return self.keys_in_tar(shard)
        gaps = frozenset(row.get("gaps", ()))
        places = (place for place in itertools.count(row["first"]) if place not in gaps)
        return [f"{place:09d}" for place in itertools.islice(places, row["samples"])]

    def keys_in_tar(self, shard: int) -> list[str]:
        """The same out of the tar; reads the samples' first headers only."""
        opened = self._shard(shard)
        offsets = (entry[0] for entry in ENTRY.iter_unpack(opened.entries))
        names = (os.pread(opened.fd, 100, offset * BLOCK).rstrip(b"\0").decode() for offset in offsets)
        return [name.partition(".")[0] for name in names]

    def member_kinds(self, shard: int) -> set[str]:
        """The endings of the names in a shard's tar, as "jpg" and "json"; reads its headers only."""
        opened = self._shard(shard)
        spans = [(offset * BLOCK, length) for offset, length, _ in ENTRY.iter_unpack(opened.entries)]
        return {kind for place, length in spans for kind in member_kinds(opened.fd, place, place + length)}

    def checked(self, shard: int, kind: str) -> bytes:
        """A whole file of a shard; ShardError where it has other bytes than were packed."""
        data, row = self.file(shard, kind).read_bytes(), self.index["shards"][shard]
        if hashlib.sha256(data).hexdigest() != row[KINDS[kind]]:
            raise ShardError(f"{self.name}/{row['name']}.{kind}: {_OTHER_BYTES}")
        return data

    def samples_in_order(self) -> Iterator[Sample]:
        """All samples as they lie on disk."""
        for shard, count in enumerate(self.counts):
            yield from (self.read(shard, row) for row in range(count))

    def hashes(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Of all samples as they lie on disk: pixel hashes [N, 16] and perceptual hashes [N, 32].

        ShardError where the set has none.
        """
        if not self.index.get("hashes", True):
            raise ShardError(
                f"{self.path}: packed without the decode check, so nothing tells copies apart; pack it again with it "
                "(without --no-decode-check)"
            )
        data = b"".join(self.checked(shard, "hashes") for shard in range(len(self.counts)))
        both = np.frombuffer(data, np.uint8).reshape(self.samples, sum(HASH_BYTES))
        return both[:, : HASH_BYTES[0]], both[:, HASH_BYTES[0] :]

    def _shard(self, shard: int) -> _Shard:
        """A shard's open file and index entries."""
        if shard in self._opened:
            self._opened.move_to_end(shard)
            return self._opened[shard]
        return self._open(shard)

    def _open(self, shard: int) -> _Shard:
        """Open a shard; the least recently used is closed when there are too many."""
        if len(self._opened) >= _OPEN_SHARDS:
            self._opened.popitem(last=False)
        try:
            with open(self.open_file(shard, "idx"), "rb") as idx:
                entries = idx.read()
            self._opened[shard] = _Shard(self.open_file(shard, "tar"), entries)
        except OSError as error:
            raise unread(error)(f"{error.filename or self.name}: {error.strerror}; is the set still there?") from None
        return self._opened[shard]


@functools.lru_cache(maxsize=1)
def _lines(file: Path, changed_ns: int) -> list[str]:
    """The lines of a gzip file; the latest is kept, for a damaged shard asks once for each sample."""
    return gzip.decompress(file.read_bytes()).decode("utf-8", "surrogateescape").split("\n")[:-1]


def kinds(shard: dict[str, Any]) -> dict[str, str]:
    """The kinds of files that a shard has, and under which name its row of the index has their sha256."""
    return {kind: entry for kind, entry in KINDS.items() if kind != "hashes" or entry in shard}


def sizes(shard: dict[str, Any]) -> dict[str, int]:
    """The kinds of files of a shard whose size its row of the index tells, and that size."""
    rows: int = shard["samples"]
    known = {"tar": shard["bytes"], "idx": rows * ENTRY.size, "hashes": rows * sum(HASH_BYTES)}
    return {kind: known[kind] for kind in kinds(shard) if kind in known}


def size_fault(path: Path, shard: dict[str, Any]) -> str | None:
    """Which of a shard's files is missing or has another size than the index says; None: none."""
    for kind, size in sizes(shard).items():
        file = f"{shard['name']}.{kind}"
        try:
            found = os.stat(f"{path}/{file}").st_size  # no Path: a large set has 50,000 of them
        except FileNotFoundError:
            return f"{file}: missing"
        if found != size:
            return f"{file}: {found} bytes, the index says {size}"
    return None
