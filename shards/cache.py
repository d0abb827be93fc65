"""Files from far away on a local disk: each fetched once for all processes of a node, up to a size.

    SHA256.KIND               a file, named by its content: two sets never mix, and a set that was moved is found again
    SHA256.KIND.BYTES.part    one that is being fetched, or was when its process ended; the next one goes on from there
    lock, said                the one is held while room is made, the other's time is that of the last line of progress
    empty-*/                  a cache of its own, of somebody who wants what the server has now (`fer-scale verify`)

The locks are flock's: they end with the process that holds them, whatever ends it. Who fetches holds the .part
exclusively; others wait, and find the file. Who reads, or will next, holds the file shared; only what nobody holds is
removed to make room, the least recently used first. That time is the atime, which is set and not left to the disk.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shards.patience import Tell
from shards.transfer import OtherBytes, Source, disk_trouble, fetch

_SPEAK_S = 2.0  # a wait that is longer shows how far it is
_REPEAT_S = 10.0  # so often, over all processes of the node
_POLL_S = 0.05
_AHEAD_SHARE = 0.75  # of the size, for what is held: beyond it nothing more is fetched for later
_EMPTY = "empty-"
_OURS = re.compile(r"[0-9a-f]{64}\.")


@dataclass(frozen=True, slots=True)
class Item:
    """A file that is wanted."""

    source: Source
    name: str  # there
    sha256: str
    kind: str
    bytes: int | None  # None: the index does not say


class Busy(Exception):
    """Another process is fetching it."""


class NoRoom(Exception):
    """All that lies in the cache is held by somebody."""


class Cache:
    """A folder of such files; holds nothing open, so it may be pickled and forked."""

    def __init__(self, folder: Path, gb: float) -> None:
        self.folder, self.gb = folder, gb

    def path(self, item: Item) -> Path:
        """Where the file lies, once it is there."""
        return self.folder / f"{item.sha256}.{item.kind}"

    def open(self, item: Item, *, wait: bool = True, exceed: bool = False) -> int:
        """A descriptor of the file, fetched if need be, and checked; while it is open nobody removes the file.

        NoRoom where all that lies there is held, unless the size may be exceeded. Without `wait` it is for later: Busy
        where somebody else is fetching it, and NoRoom also where what is held leaves little for what is read now.
        """
        tell = _Teller(self.folder, item) if wait else _silent
        part = self.folder / f"{item.sha256}.{item.kind}.{item.bytes or 0}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                if (there := _shared(self.path(item), item.bytes)) is not None:
                    return there
                if (claimed := _claimed(part, self.path(item))) is not None:
                    return self._fill(claimed, part, item, tell, wait, exceed)
                if not wait:
                    raise Busy
                with suppress(FileNotFoundError):  # it is there, this moment
                    tell(part.stat().st_size, " by another process")
                time.sleep(_POLL_S)
        except OSError as error:
            raise disk_trouble(error, self.folder) from None

    def check(self, item: Item, fd: int) -> None:
        """Remove the file of this descriptor if it was damaged after it was fetched; open() fetches it again then."""
        with open(fd, "rb", closefd=False) as file:
            damaged = hashlib.file_digest(file, "sha256").hexdigest() != item.sha256
        with _locked(self.folder / "lock"), suppress(FileNotFoundError):
            if damaged and os.fstat(fd).st_ino == self.path(item).stat().st_ino:  # nobody else was faster
                self.path(item).unlink()

    def _fill(self, fd: int, part: Path, item: Item, tell: Tell, now: bool, exceed: bool) -> int:
        """Make the file of the claimed .part, and keep it open."""
        done = False
        try:
            if not self._make_room(now):
                if not exceed:
                    raise NoRoom
                _say_full(self.folder, self.gb)
            fetch_checked(fd, item, tell)
            part.rename(self.path(item))
            fcntl.flock(fd, fcntl.LOCK_SH)
            os.lseek(fd, 0, os.SEEK_SET)
            done = True
            return fd
        finally:
            if not done:
                if not os.fstat(fd).st_size:
                    part.unlink()
                os.close(fd)

    def _make_room(self, now: bool) -> bool:
        """Remove what nobody holds, the least recently used first, until all is within the size; whether it is."""
        with _locked(self.folder / "lock"):
            files, most = _files(self.folder), self.gb * 1e9
            if not now and sum(size for _, size, path in files if not _unheld(path)) > _AHEAD_SHARE * most:
                return False
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total <= most:
                    break
                if _unheld(path, remove=True):
                    total -= size
            return total <= most


@contextmanager
def empty(folder: Path) -> Iterator[Path]:
    """The folder of a new cache within that of another, on its disk, gone with who made it; holds none of its files.

    What processes that were killed have left of theirs goes first.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_EMPTY}*"):
                with suppress(OSError):  # somebody else's
                    if _unheld(f"{left}/held"):
                        shutil.rmtree(left, ignore_errors=True)
            made = tempfile.TemporaryDirectory(prefix=_EMPTY, dir=folder, ignore_cleanup_errors=True)
            place = Path(stack.enter_context(made))
            stack.enter_context(_locked(place / "held.part"))
            (place / "held.part").rename(place / "held")  # when it appears it is held
        except OSError as error:
            raise disk_trouble(error, folder) from None
        yield place


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """When each file was used last, the bytes that it takes, or will when it is all there, and its path; by time."""
    found = []
    for name in filter(_OURS.match, os.listdir(folder)):
        with suppress(FileNotFoundError):  # others come and go meanwhile
            there = os.stat(path := f"{folder}/{name}")
            promised = int(name.split(".")[-2]) if name.endswith(".part") else 0
            found.append((there.st_atime_ns, max(there.st_size, promised), path))
    return sorted(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _unheld(path: str, remove: bool = False) -> bool:
    """Whether nobody holds a file; then it may be removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # fetched meanwhile: under its other name it counts the next time
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            os.unlink(path)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(fd)


def _shared(path: Path, size: int | None) -> int | None:
    """The file, held against removal; None: it is not there, or was being removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)
    there = os.fstat(fd)
    whole = size in (None, there.st_size)
    if there.st_nlink and not whole:  # the machine crashed
        path.unlink(missing_ok=True)
    if not there.st_nlink or not whole:
        os.close(fd)
        return None
    with suppress(PermissionError):  # somebody else's file
        os.utime(fd, ns=(time.time_ns(), there.st_mtime_ns))
    return fd


def _claimed(part: Path, file: Path) -> int | None:
    """The .part, held for us alone; None: somebody else holds it, or has just finished."""
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not file.exists() and os.fstat(fd).st_ino == part.stat().st_ino:
            return fd
        if os.fstat(fd).st_ino == part.stat().st_ino:  # ours, and not needed any more
            part.unlink()
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def fetch_checked(fd: int, item: Item, tell: Tell) -> None:
    """Fill a file, and read it back from the disk; other bytes than the index says are fetched once more."""
    with open(fd, "r+b", buffering=0, closefd=False) as file:
        for _ in range(2):
            fetch(item.source, item.name, file, item.bytes, tell)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == item.sha256:
                os.fsync(fd)
                os.utime(fd)
                return
            file.truncate(0)
    raise OtherBytes(
        f"{item.source.address}/{item.name}: arrives with other bytes than index.json says, twice, and was thrown "
        "away; a proxy changes it, or the set was packed anew while it was copied there: run `fer-scale verify` on it"
    )


def _silent(have: int, trouble: str) -> None:
    pass


@functools.cache
def _say_full(folder: Path, gb: float) -> None:
    """Once in a process: the size is exceeded."""
    print(f"{folder}: data.cache_gb = {gb:g} holds less than is read at once; it is exceeded", file=sys.stderr)


class _Teller:
    """Says on stderr how far a long wait is; the processes of a node do not all say it."""

    def __init__(self, folder: Path, item: Item) -> None:
        self._said, self._item, self._began = folder / "said", item, time.monotonic()

    def __call__(self, have: int, trouble: str) -> None:
        if time.monotonic() - self._began < _SPEAK_S:
            return
        if self._said.exists() and time.time() - self._said.stat().st_mtime < _REPEAT_S:
            return
        self._said.touch()
        of = f" of {self._item.bytes / 1e6:.0f}" if self._item.bytes else ""
        print(
            f"waiting for {self._item.source.address}/{self._item.name}: {have / 1e6:.0f}{of} MB{trouble}",
            file=sys.stderr,
        )
