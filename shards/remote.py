"""A shard set far away, read as if it lay here: whole shards are fetched into a cache, ahead of need.

    hf://datasets/ORG/NAME[@REVISION][/FOLDER]    a dataset of the Hub, at the commit that the revision was when opened
    https://HOST/FOLDER    s3://BUCKET/FOLDER     what `fer-scale pack` made, copied there

Where the bytes come from is in transfer.py, where they lie in cache.py. A set far away may be opened, pickled and
forked like one on disk: its threads belong to the process that asks for them.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shards.cache import Busy, Cache, Item, NoRoom
from shards.errors import ShardError
from shards.index import INDEX, INDEX_MB, KINDS, ShardSet, check_names, index_from, kinds, sizes
from shards.sample import Sample
from shards.transfer import DiskTrouble, NoAnswer, RemoteError, Source, content, source_of

CACHE_DIR, CACHE_GB = os.environ.get("FER_SCALE_CACHE_DIR") or "~/.cache/fer_scale", 100.0  # if nothing else is said
_THREADS = 4  # of a process that fetch ahead
_AHEAD_SHARDS = 128  # held for what comes next at most: each is two open files
_IDLE_S = 60.0  # a shard that was not read for so long is closed when another one is opened: it may be removed then


def is_far(address: Path | str) -> bool:
    """Whether an address is none of a folder."""
    return re.match(r"[\w-]+://", str(address)) is not None


def open_set(address: Path | str, cache_dir: Path | str = CACHE_DIR, cache_gb: float = CACHE_GB) -> ShardSet:
    """The set at an address, or in a folder; ShardError or RemoteError if there is none that can be read."""
    if not is_far(address):
        return ShardSet.open(address)
    source = source_of(str(address))
    place = f"{source.address}/{INDEX}"
    index = index_from(content(source, INDEX, INDEX_MB), place)
    check_names(index, place)
    return RemoteSet(source, index, Cache(Path(cache_dir).expanduser().absolute(), cache_gb))


class RemoteSet(ShardSet):
    """A packed set whose shards lie elsewhere, open for reading."""

    def __init__(self, source: Source, index: dict[str, Any], cache: Cache) -> None:
        super().__init__(Path(source.address), index)  # the path is for messages alone
        self.source, self.cache, self.address = source, cache, source.address
        self._read_at: dict[int, float] = {}  # when each open shard was read last
        self._looked_at: set[int] = set()  # shards whose files here were hashed again
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_read_at": {}, "_ahead": None}

    def __repr__(self) -> str:
        return f"RemoteSet({self.source.address!r}, {self.samples} samples in {len(self.counts)} shards)"

    def file(self, shard: int, kind: str) -> Path:
        """The file of a shard in the cache, fetched if need be; it may be removed again to make room."""
        os.close(self.open_file(shard, kind))
        return self.cache.path(self._item(shard, kind))

    def read(self, shard: int, row: int) -> Sample:
        """As of any set; a file that was damaged since it was fetched is fetched anew, once."""
        try:
            return super().read(shard, row)
        except ShardError:
            if shard in self._looked_at:
                raise
            self._looked_at.add(shard)
            self._opened.pop(shard, None)
            for kind in ("tar", "idx"):
                self.mend(shard, kind)
            return super().read(shard, row)

    def checked(self, shard: int, kind: str) -> bytes:
        """As of any set, with the same care."""
        try:
            return super().checked(shard, kind)
        except ShardError:
            self.mend(shard, kind)
            return super().checked(shard, kind)

    def mend(self, shard: int, kind: str) -> None:
        """Remove a file from the cache that was damaged since it was fetched: the next to ask for it fetches it."""
        fd = self.open_file(shard, kind)
        try:
            self.cache.check(self._item(shard, kind), fd)
        finally:
            os.close(fd)

    def drop(self, shard: int) -> None:
        """Close a shard, and remove its files from the cache."""
        self._opened.pop(shard, None)
        for kind in kinds(self.index["shards"][shard]):
            self.cache.path(self._item(shard, kind)).unlink(missing_ok=True)

    def open_file(self, shard: int, kind: str) -> int:
        """A descriptor of a shard's file, fetched if need be; RemoteError says why it cannot be had."""
        item = self._item(shard, kind)
        try:
            return self.cache.open(item)
        except NoRoom:  # what this process has open, and may not need any more, is in the way
            self._opened.clear()
            return self.cache.open(item, exceed=True)

    def prefetch(self, shards: Sequence[int]) -> None:
        """Fetch these shards in the background, the first first, as far as there is room; the former ones are past."""
        if self._ahead is None or self._ahead.pid != os.getpid():  # threads do not survive a fork
            self._ahead = _Ahead(self._hold)
        self._ahead.want(shards)

    def _item(self, shard: int, kind: str) -> Item:
        row = self.index["shards"][shard]
        return Item(self.source, f"{row['name']}.{kind}", row[KINDS[kind]], kind, sizes(row).get(kind))

    def _shard(self, shard: int) -> Any:
        self._read_at[shard] = time.monotonic()
        return super()._shard(shard)

    def _open(self, shard: int) -> Any:
        now = time.monotonic()
        for other in [one for one in list(self._opened) if now - self._read_at[one] > _IDLE_S]:
            self._opened.pop(other, None)
        return super()._open(shard)

    def _hold(self, shard: int) -> list[int]:
        """What reading a shard needs, fetched and open; Busy or NoRoom if that has to wait."""
        held: list[int] = []
        try:
            for kind in ("tar", "idx"):
                held.append(self.cache.open(self._item(shard, kind), wait=False))
        except BaseException:
            _close(held)
            raise
        return held


class _Ahead:
    """Fetches what comes next in a few threads, and holds it, so that nobody removes it before it was read."""

    def __init__(self, hold: Callable[[int], list[int]]) -> None:
        self.pid = os.getpid()
        self._hold = hold
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._held: dict[int, list[int]] = {}
        self._todo: list[int] = []
        self._failed: set[int] = set()  # for good, by what does not pass: whoever reads them is told why
        self._threads = 0

    def want(self, shards: Sequence[int]) -> None:
        """These come next, the first first; what was held and is not among them is let go."""
        with self._lock:
            self._wanted = list(dict.fromkeys(shards))[:_AHEAD_SHARDS]
            for shard in self._held.keys() - set(self._wanted):
                _close(self._held.pop(shard))
            self._todo = [shard for shard in self._wanted if shard not in self._held and shard not in self._failed]
            new = min(len(self._todo), _THREADS - self._threads)
            self._threads += new
        for _ in range(new):  # each ends when nothing is left to do, or nothing more can be had now
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (shard := self._next()) is not None:
            try:
                files = self._hold(shard)
            except Busy:
                continue  # another process fetches it; it is held from the next call on
            except (NoRoom, NoAnswer, DiskTrouble):  # may be over by the next call, and is not before
                with self._lock:
                    self._todo = []
            except RemoteError:
                self._failed.add(shard)
            else:
                self._keep(shard, files)

    def _next(self) -> int | None:
        with self._lock:
            if self._todo:
                return self._todo.pop(0)
            self._threads -= 1
            return None

    def _keep(self, shard: int, files: list[int]) -> None:
        with self._lock:
            if shard not in self._wanted or shard in self._held:
                _close(files)
            else:
                self._held[shard] = files


def _close(files: list[int]) -> None:
    for fd in files:
        os.close(fd)
