"""WebDataset tars that exist already: a folder of .tar files, or one.

Members that follow each other and share a key (the name up to the first dot of its last part) are a sample:

    KEY.jpg | .jpeg | .png | .webp    the image
    KEY.json                          what is known of the face, as sample.py has it; other fields are passed over
    KEY.cls                           a number: who it is (face recognition's classes are identities)

Python's tarfile, and so webdataset, takes a damaged header for the end of the archive and says nothing. Here
that is an error: how much was lost cannot be known.
"""

import tarfile
from array import array
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from shards.errors import ShardError
from shards.sample import Face, from_json
from shards.sources.listing import Entry, Lazy, LeftOut, Listing, Names, read_span
from shards.tar import BLOCK

_IMAGES = ("jpg", "jpeg", "png", "webp")


class _Members(Lazy):
    """The images of many tars as entries, made when asked for."""

    def __init__(self, tars: list[Path]) -> None:
        self._tars = tars
        self._names, self._identities = Names(), Names()
        self._tar, self._offset, self._size = array("i"), array("q"), array("q")
        self._faces: dict[int, Face] = {}

    def append(self, tar: int, image: tarfile.TarInfo, identity: bytes, face: Face | None) -> None:
        if face is not None:
            self._faces[len(self)] = face
        self._names.append(image.name.encode("utf-8", "surrogateescape"))
        self._identities.append(identity)
        self._tar.append(tar)
        self._offset.append(image.offset_data)
        self._size.append(image.size)

    def __len__(self) -> int:
        return len(self._size)

    def entry(self, i: int) -> Entry:
        tar, size = self._tars[self._tar[i]], self._size[i]
        read = partial(read_span, str(tar), self._offset[i], size)
        origin, identity = f"{tar.name}/{self._names[i]}", self._identities[i] or None
        return Entry(origin, size, read, self._faces.get(i), identity)


def entries(src: Path) -> Listing:
    """The images in the tars at `src`, in their order."""
    tars = sorted(src.glob("*.tar")) if src.is_dir() else [src]
    if not tars:
        zipped = any(src.glob("*.tar.*")) or any(src.glob("*.tgz"))
        raise ShardError(f"{src}: no .tar in it" + ("; unpack the compressed ones first (gunzip)" if zipped else ""))
    found, left_out = _Members(tars), list[LeftOut]()
    for number, tar in enumerate(tars):
        for key, members in groupby(_members(tar), key=lambda member: _key(member.name)[0]):
            fault = _add(found, number, tar, list(members))
            if fault:
                left_out.append(LeftOut(f"{tar.name}/{key}", fault, True))
    if not len(found):
        raise ShardError(f"{src}: no images in its tars ({', '.join(_IMAGES)})")
    return Listing(found, left_out)


def _key(name: str) -> tuple[str, str]:
    """Key and extension of a member's name, as webdataset divides it."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _add(found: _Members, number: int, tar: Path, members: list[tarfile.TarInfo]) -> str | None:
    """Add a sample's image; returns why not, where it cannot be one."""
    parts = {_key(member.name)[1]: member for member in members}
    images = [parts[extension] for extension in _IMAGES if extension in parts]
    if len(images) != 1:
        return f"{len(images)} images in one sample ({', '.join(_IMAGES)})" if images else "no image in this sample"

    def content(extension: str) -> bytes:
        member = parts.get(extension)
        return read_span(str(tar), member.offset_data, member.size) if member else b""

    try:
        face = from_json(content("json")) if "json" in parts else None
    except (ValueError, EOFError) as error:
        return f"its json: {error}"
    if face == Face():  # an object, but nothing that we know in it
        face = None
    found.append(number, images[0], content("cls").strip(), face)
    return None


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a tar; ShardError where it is none, or is damaged."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isfile():
                    yield member
                archive.members = []  # type: ignore[attr-defined]  # or it keeps them all
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ShardError(f"{tar}: not a whole tar ({error}); if it is compressed, gunzip it first") from None
    with tar.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise ShardError(f"{tar}: damaged or cut short at byte {end}; what follows cannot be found, get it again")
