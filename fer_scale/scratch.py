"""A folder of TMPDIR in which something is made, gone with who made it: at once, or cleared later where it was killed.

Its lock is the kernel's, which ends with the process, however that ends: one in another container, whose id says
nothing here, is not taken for dead. Folders of other hosts, on a disk that they share, are left to them, for not every
such disk tells of their locks; and where it knows none, what was left stays.
"""

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = f"fer_scale-scratch-{os.uname().nodename}-"
_YOUNG_S = 60.0  # its owner may not have come to lock it


@contextmanager
def folder() -> Iterator[Path]:
    """A new, empty folder; those that killed processes of this user have left are cleared first."""
    _clear(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as made:
        held = os.open(made, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_SH)
            yield Path(made)
        finally:
            os.close(held)


def _clear(place: Path) -> None:
    for left in place.glob(f"{glob.escape(_PREFIX)}*"):
        with suppress(OSError):  # another clears it too
            opened = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                facts = os.fstat(opened)
                if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > _YOUNG_S:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while its owner lives
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(opened)
