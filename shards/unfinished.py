"""The folder in which a set is made, until it is whole.

    OUT.unfinished/plan.json    what is being made; packing goes on under the same plan only
    OUT.unfinished/hashes/      of the images' pixels, where copies are to be left out
    OUT.unfinished/chosen       a sum over the images that stay then
    OUT.unfinished/set/         finished shards; becomes OUT in one rename
    OUT.unfinished/rows/        a JSON for each of them
    OUT.unfinished/parts/       what was being written

It can be removed at any time: what is lost is the work.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError, Unread, unread
from shards.index import UNFINISHED
from shards.place import alone
from shards.writer import write_through

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Where the set `out` is made."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + UNFINISHED)

    @property
    def set(self) -> Path:
        return self.folder / "set"

    @property
    def hashes(self) -> Path:
        return self.folder / "hashes"

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def rows(self) -> Path:
        return self.folder / "rows"

    def row_file(self, shard: int) -> Path:
        return self.rows / f"{shard:06d}.json"

    @contextmanager
    def claimed(self, name: str, digest: str, size: int) -> Iterator[None]:
        """The folder for us alone: a new one, or what a packer of the same `name` and `digest` left.

        `size` is what the set will take, for the message of a full disk.
        """
        try:
            for folder in (self.set, self.hashes, self.rows):
                folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder / "lock", "another packer is at work there"):
                self._begin_or_go_on(json.dumps({"name": name, "digest": digest}))
                yield
            if not self.set.exists():  # it is in place. Only now: NFS keeps a file that is open, and so its folder
                shutil.rmtree(self.folder, ignore_errors=True)
        except OSError as error:
            what, kind = f"{error.filename or self.folder}: {error.strerror or error}", unread(error)
            if kind is Unread:
                what += "; look after the disk, and run the same command again, finished shards are kept"
            if error.errno in _FULL:
                need = f"the set takes about {size / 1e9:.2f} GB"
                what += f"; {need}. Make room and run the same command again, finished shards are kept"
            raise kind(what) from None

    def _begin_or_go_on(self, plan: str) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(exist_ok=True)
        file = self.folder / "plan.json"
        begun = any(self.rows.iterdir()) or any(self.hashes.iterdir())
        if file.exists() and file.read_text() == plan:
            return
        if begun and file.exists():
            raise ShardError(
                f"{self.folder}: unfinished shards of another packing (other images or settings); remove the folder "
                "to begin anew, or finish that one first"
            )
        shutil.rmtree(self.set)  # of a packing that was killed before its first shard counted
        self.set.mkdir()
        part = file.with_suffix(".part")
        write_through(part, plan.encode())
        part.replace(file)

    def go_on_with(self, chosen: bytes) -> None:
        """Forget the shards of another choice of images: copies are found that could not be read before."""
        file, said = self.folder / "chosen", hashlib.sha256(chosen).hexdigest()
        if file.exists() and file.read_text() != said:
            for folder in (self.rows, self.set):
                shutil.rmtree(folder)
                folder.mkdir()
        write_through(file, said.encode())

    def put_in_place(self) -> None:
        """Let the set appear."""
        self.set.replace(self.out)
