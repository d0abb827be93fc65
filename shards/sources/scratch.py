"""A place for what must be unpacked before it can be read in any order.

It is a file without a name in TMPDIR (or /tmp), and gone with the process that made it, however that ends. It lives
as long as the listing or an entry of it; other processes read it through /proc.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.sources.listing import read_span


class Scratch:
    """The unpacked copy of what lies at `src`, of about `need` bytes: written to `file`, read by a call."""

    def __init__(self, src: Path, need: int) -> None:
        try:
            self.file = tempfile.TemporaryFile()
        except OSError as error:
            what = f"{src}: must be unpacked into a temporary file, and none can be made ({error.strerror})"
            raise ShardError(f"{what}; set TMPDIR to a folder that can be written") from None
        self._path = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        self._what = f"{src}: must be unpacked into a temporary file of about {need / 1e9:.2f} GB, and"
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if need > free:
            raise self._full(f"only {free / 1e9:.2f} GB are free")

    def __call__(self, offset: int, length: int) -> bytes:
        return read_span(self._path, offset, length)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (read_span, self._path)  # in another process

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # of a full disk, once more; there is none where none could be made
            self.file.close()

    @contextmanager
    def writing(self) -> Iterator[int]:
        """Write to the end of the file inside of this, which gives the place; ShardError where the disk is full."""
        try:
            yield self.file.seek(0, os.SEEK_END)
            self.file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._full("there was no room for it") from None
            raise

    def _full(self, fault: str) -> ShardError:
        return ShardError(f"{self._what} {fault} in {tempfile.gettempdir()}; set TMPDIR to a folder that has the room")
