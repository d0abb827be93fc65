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
from contextlib import suppress
from functools import partial
from pathlib import Path

from shards.errors import ShardError
from shards.sample import Face, from_json
from shards.sources.listing import IMAGE_ENDINGS, Entry, Lazy, LeftOut, Listing, Names, read_span
from shards.walk import refuse, walk

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
    for path, file in walk(src, hidden=True):
        if _is_image(file.name):
            files.append(os.fsencode(path), _size(file))
            missing.discard(path)
        elif path != LABELS:
            left_out.append(LeftOut(path, "not an image, by its name", False))
    if not len(files):
        what = "no images in it" if left_out else "empty"
        raise ShardError(f"{src}: {what}; SRC is the folder above the images or the identities")
    left_out += [LeftOut(path, f"{LABELS} names it, but there is no such image", True) for path in sorted(missing)]
    return Listing(files, left_out)


def _size(file: "os.DirEntry[str]") -> int:
    try:
        with suppress(FileNotFoundError):
            return file.stat().st_size
        return file.stat(follow_symlinks=False).st_size  # a link that leads nowhere; it is left out when it is read
    except OSError as error:
        refuse(error)


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in _IMAGES


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
