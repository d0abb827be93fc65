"""A set far away becomes one here: every file checked, and the set whole or absent.

    DIR.part/             the set until all of it is there; becomes DIR in one rename
    DIR.part/NAME.part    a file that is being fetched

A pull that was killed is started again: what is there is hashed and kept, what was cut goes on where it stopped. The
same pull into a set that is there mends what is damaged in it.
"""

import errno
import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.cache import Item, fetch_checked
from shards.errors import ShardError
from shards.index import BESIDE, INDEX, INDEX_MB, KINDS, check_names, index_from, kinds, sha256, sizes
from shards.place import alone, check_place
from shards.transfer import NoRight, NotThere, Source, content, source_of
from shards.writer import write_through

CARD = "README.md"  # may be corrected by hand, so no sum of it is kept
_THREADS = 4  # that fetch: small files wait for answers, large ones for their line
_REPEAT_S = 10.0  # so often what stands in the way is said
_LOCK = ".lock"
_SHARD_FILE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9]{{6,}}\.({'|'.join(map(re.escape, KINDS))})")

Progress = Callable[[int, int], None]  # bytes there, of how many


class _Stopped(Exception):
    """Another file has failed, or the person said so."""


@dataclass(frozen=True, slots=True)
class Pulled:
    folder: Path
    address: str  # of the Hub with the commit


def pull(address: str, folder: Path, *, progress: Progress | None = None) -> Pulled:
    """Copy the set at `address` to `folder`, every byte checked against its index.

    RemoteError where it cannot be had, ShardError where the folder holds something else or its disk is full.
    """
    folder, source = Path(os.path.abspath(folder)), source_of(address)
    data = content(source, INDEX, INDEX_MB)
    index = index_from(data, f"{source.address}/{INDEX}")
    check_names(index, f"{source.address}/{INDEX}")
    items = [
        Item(source, f"{shard['name']}.{kind}", shard[KINDS[kind]], kind, sizes(shard).get(kind))
        for shard in index["shards"]
        for kind in kinds(shard)
    ]
    items += [Item(source, name, total, "list", None) for name, total in index.get("files", {}).items()]
    at = folder if _holds(folder, data) else folder.with_name(f"{folder.name}.part")
    if at != folder:
        check_place(folder)
        _check_ours(at, {item.name for item in items})
    with _claimed(at):
        _check_room(at, items)
        _Fetching(at, items, progress or (lambda done, total: None)).run()
        if at != folder or not (at / CARD).exists():
            _fetch_card(at, source)
        if at != folder:
            _put_in_place(at, folder, data, items)
    return Pulled(folder, source.address)


def _holds(folder: Path, index: bytes) -> bool:
    """Whether the folder holds this set already; ShardError where it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    file = folder / INDEX
    if file.is_file() and file.read_bytes() == index:
        return True
    what = "holds another set, or another version of this one" if file.is_file() else "is there and holds no such set"
    raise ShardError(f"{folder}: {what}; nothing was written: give another folder, or remove this one first")


def _check_ours(part: Path, wanted: set[str]) -> None:
    """ShardError where the .part folder holds what no pull leaves: it would be removed, or become part of the set."""
    with suppress(OSError):  # nothing is there, or it cannot be read, which is said when it is claimed
        for name in os.listdir(part):
            whole = name.removesuffix(".part")
            if whole not in {INDEX, CARD, _LOCK, *BESIDE, *wanted} and not _SHARD_FILE.fullmatch(whole):
                raise ShardError(
                    f"{part}: holds {name}, which no pull left there; nothing was written: give another folder, or "
                    "move this one away"
                )


@contextmanager
def _claimed(at: Path) -> Iterator[None]:
    """The folder for us alone."""
    try:
        at.mkdir(parents=True, exist_ok=True)
        with alone(at / _LOCK, "another process pulls there"):
            yield
            (at / _LOCK).unlink(missing_ok=True)  # where it was not renamed with its folder
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; make room" if full else f"{error.strerror}; give a folder that can be written"
        raise ShardError(f"{at}: {what}, and run the same command again: what is there is kept") from None


def _check_room(at: Path, items: list[Item]) -> None:
    there = sum(file.stat().st_size for file in at.iterdir())
    needed, free = sum(item.bytes or 0 for item in items) - there, shutil.disk_usage(at).free
    if needed > free:
        raise ShardError(f"{at}: {needed / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free there; make room")


class _Fetching:
    """Files that some threads fetch; the first failure ends it."""

    def __init__(self, at: Path, items: list[Item], progress: Progress) -> None:
        self._at, self._todo, self._files, self._progress = at, items[::-1], len(items), progress
        self._total = sum(item.bytes or 0 for item in items)
        self._have, self._there = dict[str, int](), 0  # of each file; of all
        self._said = time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        for _ in range(_THREADS):  # no daemon is waited for: Ctrl-C ends at once
            threading.Thread(target=self._work, daemon=True).start()
        try:
            for _ in range(self._files):
                if error := self._ended.get():
                    raise error
        finally:
            self._stop.set()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._todo.pop()
            except IndexError:
                return
            try:
                self._fetch(item)
                self._ended.put(None)
            except BaseException as error:
                self._ended.put(error)
                return

    def _fetch(self, item: Item) -> None:
        file, part = self._at / item.name, self._at / f"{item.name}.part"
        if file.is_file() and sha256(file) == item.sha256:
            return self._tell(item, file.stat().st_size, "")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fetch_checked(fd, item, partial(self._tell, item))
        finally:
            os.close(fd)
        part.replace(file)

    def _tell(self, item: Item, there: int, trouble: str) -> None:
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            if item.bytes is not None:  # the others are small
                self._there += there - self._have.get(item.name, 0)
                self._have[item.name] = there
                self._progress(self._there, self._total)
            if trouble and time.monotonic() - self._said > _REPEAT_S:
                self._said = time.monotonic()
                print(f"waiting for {item.source.address}/{item.name}{trouble}", file=sys.stderr)


def _fetch_card(at: Path, source: Source) -> None:
    with suppress(NotThere, NoRight):  # a bucket that may not be listed says so of what is not there
        write_through(at / f"{CARD}.part", content(source, CARD))
        (at / f"{CARD}.part").replace(at / CARD)


def _put_in_place(at: Path, folder: Path, index: bytes, items: list[Item]) -> None:
    """Let the set appear, without what a pull of another version left."""
    wanted = {CARD, *(item.name for item in items)}
    for name in {file.name for file in at.iterdir()} - wanted:
        (at / name).unlink()
    write_through(at / INDEX, index)
    at.replace(folder)
