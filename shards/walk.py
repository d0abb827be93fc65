"""The files below a folder: links to folders are followed, but not in a circle, and what is hidden is not gone into."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from shards.errors import unread

Found = Iterator[tuple[str, os.DirEntry[str]]]


def refuse(error: OSError) -> NoReturn:
    """ShardError for what cannot be looked into."""
    raise unread(error)(f"{error.filename}: {error.strerror}; look after the disk") from None


def walk(root: Path, failed: Callable[[OSError], None] = refuse, *, hidden: bool = False) -> Found:
    """Path under `root` and entry of each file there, sorted by the bytes of the names, folder by folder.

    `failed` is told of a folder that cannot be looked into. With `hidden`, what is hidden is given as well, a folder as
    if it were a file: .snapshot, .ipynb_checkpoints, .Trash-1000.
    """

    def inside(below: str, above: tuple[tuple[int, int], ...]) -> Found:
        folder = os.path.join(root, below)
        try:
            status = os.stat(folder)
            with os.scandir(folder) as scan:
                found = sorted(scan, key=lambda file: os.fsencode(file.name))
        except OSError as error:
            return failed(error)
        here = (status.st_dev, status.st_ino)
        for file in found if here not in above else ():
            path, is_hidden = os.path.join(below, file.name), file.name.startswith(".")
            if not is_hidden and _may_be_folder(file):
                yield from inside(path, (*above, here))
            elif hidden or not is_hidden:
                yield path, file

    return inside("", ())


def _may_be_folder(file: os.DirEntry[str]) -> bool:
    try:
        return file.is_dir()
    except OSError:  # a link to what is away: looking into it tells why
        return True
