"""A folder of image files, nested in any way; the first level below it is the identity.

    SRC/Ada_Lovelace/0001.jpg ...                  face recognition sets: CASIA-WebFace, VGGFace2, LFW
    SRC/labels.jsonl                               optional, for own labeled data, one object a line:
        {"path": "Ada_Lovelace/0001.jpg", "expression": "happiness", "box": [0.1, 0.1, 0.9, 0.9]}

`box`, where the face is as shares of width and height, may be missing. Images that labels.jsonl does not name
are unlabeled.
"""

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import overload

from shards.errors import ShardError
from shards.sample import Face, from_json
from shards.sources.listing import Entry, LeftOut, Listing, read_span, with_template

LABELS = "labels.jsonl"
# Known by name; a name without any ending is tried too. What the bytes are is seen when they are decoded.
_IMAGES = {"", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".mpo", ".gif", ".bmp", ".tif", ".tiff"}
_IMAGES |= {".avif", ".heic", ".heif", ".pgm", ".ppm", ".pnm", ".jp2"}


class _Files(Sequence[Entry]):
    """Many files, at about the memory of their names: paths end to end in one block of bytes."""

    def __init__(self, root: Path, paths: list[bytes], sizes: "array[int]", faces: dict[str, Face]) -> None:
        self._root, self._faces = root, faces
        self._block, self._sizes = b"".join(paths), sizes
        self._ends = array("q", [0])
        for path in paths:
            self._ends.append(self._ends[-1] + len(path))

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> list[Entry]: ...
    def __getitem__(self, i: int | slice) -> Entry | list[Entry]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        path = os.fsdecode(self._block[self._ends[i] : self._ends[i + 1]])
        size = self._sizes[i]
        identity = path.split("/", 1)[0] if "/" in path else None
        read = partial(read_span, str(self._root / path), 0, size)
        return Entry(path, size, read, self._faces.get(path), identity)


def entries(src: Path, *, split: str | None = None, protocol: str = "argmax") -> Listing:
    """The image files below `src`, sorted by path; a folder knows no splits or protocols."""
    found = sorted(_walk(src))
    left_out = [
        LeftOut(os.fsdecode(path), "not an image, by its name", False) for path, size in found if size < 0
    ]
    images = [(path, size) for path, size in found if size >= 0]
    if not images:
        raise ShardError(f"{src}: no image files in it; SRC is the folder above the images or identities")
    faces = _labels(src)
    known = {os.fsdecode(path) for path, _ in images} if faces else set()
    left_out += [
        LeftOut(path, f"{LABELS} names it, but there is no such image", True)
        for path in faces
        if path not in known
    ]
    paths, sizes = [path for path, _ in images], array("q", (size for _, size in images))
    return Listing(_Files(src, paths, sizes, faces), left_out)


def _walk(src: Path) -> Iterator[tuple[bytes, int]]:
    """Path below `src` and size of every file; size -1: no image, by its name."""
    root = os.fsencode(src)
    waiting, seen = [b""], set[tuple[int, int]]()
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(os.path.join(root, below))
            if (status.st_dev, status.st_ino) in seen:  # links may go round in a circle
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(root, below)) as files:
                for file in files:
                    path = os.path.join(below, file.name)
                    if file.is_dir():
                        waiting.append(path)
                    elif path != os.fsencode(LABELS):
                        yield path, file.stat().st_size if _is_image(file.name) else -1
        except OSError as error:
            raise ShardError(f"{os.fsdecode(error.filename or root)}: {error.strerror}") from None


def _is_image(name: bytes) -> bool:
    return not name.startswith(b".") and os.path.splitext(os.fsdecode(name))[1].lower() in _IMAGES


def _labels(src: Path) -> dict[str, Face]:
    """The faces that SRC/labels.jsonl tells of, by path; empty without such a file."""
    file, faces = src / LABELS, dict[str, Face]()
    if not file.exists():
        return faces
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            faces[os.path.normpath(json.loads(line)["path"])] = with_template(
                from_json(line.encode()), "folder"
            )
        except (ValueError, KeyError, TypeError) as error:
            what = 'no "path" in it' if isinstance(error, KeyError) else str(error)
            raise ShardError(f"{file}:{number}: {what}") from None
    return faces
