"""Small files that are whole or absent; and what a file system does to a run, in one line that names host and rank.

The line also says whether the same command may help.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from shards.errors import PASSING, Broken, UserError
from shards.place import take

# Somebody must make room or give a right; the others may pass, or another host does better.
_LOOK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_PASS = (*PASSING, errno.ENOENT)


def put(file: Path, content: str | bytes, *, alone: bool = True) -> None:
    """Write a file whole or not at all, at the end of links; into what is there and is no file, as /dev/null, straight.

    `alone`: no other process, on this or another host, writes the same one now. Meanwhile it lies beside, hidden.
    """
    data = content.encode() if isinstance(content, str) else content
    if into := straight(file):
        with open(into, "wb", closefd=isinstance(into, Path)) as opened:
            opened.write(data)
        return
    file = end_of(file)
    beside = file.with_name(f".{file.name}.part" if alone else f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        with open(beside, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())  # or a loss of power may leave the new name with nothing in it
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def straight(file: Path) -> Path | int | None:
    """What open() takes to write into what is there as it is: a pipe, a device, or stdout and stderr by their numbers.

    None of a file, unless stdout or stderr go to it: opened by its path it would be written from its beginning again.
    """
    try:
        there = file.stat()
    except OSError:
        return None
    for number in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None if stat.S_ISREG(there.st_mode) else file


def end_of(file: Path) -> Path:
    """Where a file's links lead: a new file takes the place of that, not of the link."""
    return Path(os.path.realpath(file))


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Wait until nobody else is in here for the same target; where the file system has no locks that is said."""
    end = end_of(target)
    file = end.with_name(f".{end.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.close()


def _locked(file: Path) -> IO[str]:
    """The file, open and locked. Who had it before has removed it, and its name may stand for another file by then."""
    while True:
        lock = file.open("w")
        take(lock, wait=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                return lock
        lock.close()


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Raise as a UserError what a file system raises inside; `name` is the rank's, with its host."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*_LOOK, *_PASS):
            raise
        kind = UserError if needs_somebody(error) else Broken
        place = error.filename or "a file"
        raise kind(f"{name}: {place}: {error.strerror}; nothing that was saved is lost") from error


def needs_somebody(error: Exception) -> bool:
    """Whether it comes again until somebody makes room, or gives a right."""
    return isinstance(error, OSError) and error.errno in _LOOK
