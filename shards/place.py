"""The place in which a set appears: by one rename, and made by one process only."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shards.errors import ShardError

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre that was mounted without flock, for one


def check_place(out: Path) -> None:
    """ShardError where no rename could put a set in the end, after days of work."""
    if out.is_symlink() or os.path.ismount(out):
        what = "a link" if out.is_symlink() else "a mount point"
        raise ShardError(f"{out}: is {what}, which no rename can replace; give a folder inside of it")


@contextmanager
def alone(lock: Path, other: str) -> Iterator[None]:
    """No other process is inside of this with the same file; ShardError, which says what `other` does, if one is.

    Where the file system has no locks that is said, and not seen to.
    """
    with lock.open("w") as file:
        try:
            take(file, wait=False)
        except BlockingIOError:
            raise ShardError(f"{lock.parent}: {other}; wait for its end") from None
        yield


def take(lock: IO[str], *, wait: bool) -> None:
    """Lock an open file for us alone; BlockingIOError where another process has it, unless that may be waited for."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        said = "no locks here, so nothing keeps a second process out; start no other one there"
        print(f"{Path(lock.name).parent}: {error.strerror}: {said}", file=sys.stderr)
