"""A folder of image files, nested in any way; the first level below it is the identity.

    SRC/Ada_Lovelace/0001.jpg ...        face recognition sets: CASIA-WebFace, VGGFace2, LFW
    SRC/labels.jsonl                     optional, for labeled data of one's own; one object a line:
        {"path": "Ada_Lovelace/0001.jpg", "expression": "happiness", "box": [0.1, 0.1, 0.9, 0.9]}

`box` says where the face is, as shares of width and height; without it the face is the whole image. Images
that labels.jsonl does not name are unlabeled. Hidden files and folders, whose names begin with a dot, are no images.
"""

import json
import os
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from shards.errors import ShardError, unread
from shards.sample import Face, from_json
from shards.sources.listing import IMAGE_ENDINGS, Entry, Lazy, LeftOut, Listing, Names, read_span

LABELS = "labels.jsonl"
_IMAGES = {"", *IMAGE_ENDINGS}  # or having no ending at all


class _Files(Lazy):
    """The files of a folder as entries, made when asked for."""

    def __init__(self, root: Path, faces: dict[str, Face]) -> None:
        self._root, self._faces = root, faces
        self._paths, self._sizes = Names(), array("q")

    def append(self, path: bytes, size: int) -> None:
        self._paths.append(path)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._sizes)

    def entry(self, i: int) -> Entry:
        path, size = self._paths[i], self._sizes[i]
        identity = path.split("/", 1)[0] if "/" in path else None
        return Entry(path, size, partial(read_span, f"{self._root}/{path}", 0, size), self._faces.get(path), identity)


def entries(src: Path) -> Listing:
    """The image files below `src`, sorted."""
    if not src.is_dir():
        raise ShardError(f"{src}: not a folder; SRC is the folder above the images or the identities")
    faces = _labels(src)
    files, left_out, missing = _Files(src, faces), list[LeftOut](), set(faces)
    for path, size in _walk(os.fsencode(src), b"", ()):
        if size is None:
            left_out.append(LeftOut(os.fsdecode(path), "not an image, by its name", False))
        else:
            files.append(path, size)
            if missing:
                missing.discard(os.fsdecode(path))
    if not len(files):
        what = "no images in it" if left_out else "empty"
        raise ShardError(f"{src}: {what}; SRC is the folder above the images or the identities")
    left_out += [LeftOut(path, f"{LABELS} names it, but there is no such image", True) for path in sorted(missing)]
    return Listing(files, left_out)


def _walk(root: bytes, below: bytes, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[bytes, int | None]]:
    """Path and size of every file under `root`/`below`, sorted; size None: no image, by its name.

    Links to folders are followed, but not in a circle: `above` are the folders that we are in.
    """
    folder = os.path.join(root, below)
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda file: file.name)
        for file in found:
            path = os.path.join(below, file.name)
            if file.name.startswith(b"."):  # also folders: .snapshot, .ipynb_checkpoints, .Trash-1000
                yield path, None
            elif file.is_dir():
                yield from _walk(root, path, (*above, (status.st_dev, status.st_ino)))
            elif not _is_image(file.name):
                if path != os.fsencode(LABELS):
                    yield path, None
            else:
                yield path, _size(file)
    except OSError as error:
        raise unread(error)(f"{os.fsdecode(error.filename or folder)}: {error.strerror}; look after the disk") from None


def _size(file: "os.DirEntry[bytes]") -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a link that leads nowhere; it is left out when it cannot be read
        return file.stat(follow_symlinks=False).st_size


def _is_image(name: bytes) -> bool:
    return os.path.splitext(os.fsdecode(name))[1].lower() in _IMAGES


def _labels(src: Path) -> dict[str, Face]:
    """The faces that SRC/labels.jsonl tells of, by path; empty without such a file."""
    file, faces = src / LABELS, dict[str, Face]()
    if not file.exists():
        return faces
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            path, face = os.path.normpath(json.loads(line)["path"]), from_json(line)
            if faces.setdefault(path, face) != face:
                raise ValueError(f"another line says otherwise of {path}; take one of them out")
        except (ValueError, KeyError, TypeError) as error:
            what = 'has no "path"' if isinstance(error, KeyError) else str(error)
            raise ShardError(f"{file}:{number}: {what}") from None
    return faces
