"""WebDataset tars that exist already: a folder of .tar, .tar.gz and .tgz files, or one.

Members that follow each other and share a key (the name up to the first dot of its last part) are a sample:

    KEY.jpg | .jpeg | .png | .webp    the image
    KEY.json                          what is known of the face, as sample.py has it; other fields are passed over
    KEY.cls                           a number: who it is (face recognition's classes are identities)

Long names and PAX headers are read as Python's tarfile does. But it, and so webdataset, takes a damaged header for
the end of the archive and says nothing. Here that is an error, as is whatever follows the end: how much was lost cannot
be known. Links inside of a tar are not followed; one that stands for a part of a sample costs that sample.

A compressed tar can only be read from its start to its end, so it is unpacked once, into scratch.py's file.
"""

import gzip
import os
import shutil
import tarfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO

from shards.errors import ShardError, unread, way_out
from shards.sample import Face, from_json
from shards.sources.listing import IMAGE_ENDINGS, Entry, Lazy, LeftOut, Listing, Names, read_span
from shards.sources.scratch import Scratch
from shards.tar import BLOCK

_IMAGES = ("jpg", "jpeg", "png", "webp")
_KNOWN = (*_IMAGES, "json", "cls")
_READ = (".tar", ".tar.gz", ".tgz")
_UNPACK = "unpack the tar and pack the folder (--source folder)"
_REFUSED = (".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4", ".tzst", ".txz", ".tbz2")

_Read = Callable[[int, int], bytes]  # offset, length


class _Members(Lazy):
    """The images of many tars as entries, made when asked for."""

    def __init__(self, tars: list[Path], read: list[_Read]) -> None:
        self._tars, self._read = tars, read
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
        tar, size = self._tar[i], self._size[i]
        read = partial(self._read[tar], self._offset[i], size)
        origin, identity = f"{self._tars[tar].name}/{self._names[i]}", self._identities[i] or None
        return Entry(origin, size, read, self._faces.get(i), identity)


def entries(src: Path) -> Listing:
    """The images in the tars at `src`, in their order."""
    tars = _tars(src)
    packed = {tar for tar in tars if _is_gzip(tar)}
    scratch = Scratch(src, sum(map(_unpacked_bytes, packed))) if packed else None
    read: list[_Read] = [scratch if scratch and tar in packed else partial(read_span, str(tar)) for tar in tars]
    found, left_out = _Members(tars, read), list[LeftOut]()
    for number, tar in enumerate(tars):
        members = _unpacked(tar, scratch) if scratch and tar in packed else _plain(tar)
        for key, sample in groupby(members, key=lambda member: _key(member.name)[0]):
            parts, pictures, fault = _gathered(sample)
            if fault := fault or _add(found, number, read[number], parts):  # all that look like images are lost by it
                left_out += [LeftOut(f"{tar.name}/{name}", _why(name, fault), True) for name in pictures or [key]]
    if not len(found):
        why = f"; the first: {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise ShardError(f"{src}: no images in its tars ({', '.join(_IMAGES)}){why}")
    return Listing(found, left_out)


def _tars(src: Path) -> list[Path]:
    """The tars at `src`, sorted."""
    files = sorted(file for file in src.iterdir() if file.name[0] != ".") if src.is_dir() else [src]
    for file in files:
        if file.name.endswith(_REFUSED):
            raise ShardError(f"{file}: only .tar.gz is unpacked here; unpack this first (zstd -d, unxz, ...)")
    tars = [file for file in files if file.name.endswith(_READ)] if src.is_dir() else files
    if not tars:
        raise ShardError(f"{src}: no .tar in it; SRC is the folder of the tars, or one of them")
    return tars


def _is_gzip(tar: Path) -> bool:
    """By its first bytes: a folder's .tar may be compressed, too."""
    with tar.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _unpacked_bytes(tar: Path) -> int:
    """How large a compressed tar is about to be: it ends with its length, in 32 bits."""
    with tar.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        return max(size, int.from_bytes(file.read(), "little"))


def _key(name: str) -> tuple[str, str]:
    """Key and extension of a member's name, as webdataset divides it."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _gathered(members: Iterable[tarfile.TarInfo]) -> tuple[dict[str, tarfile.TarInfo], list[str], str | None]:
    """A sample's parts that are read, the names of all that look like images, and why it cannot be a sample, if so.

    No more is kept of a member: where a key ends too early it may be shared by all of a tar.
    """
    parts, pictures, fault = dict[str, tarfile.TarInfo](), list[str](), None
    for member in members:
        extension = _key(member.name)[1]
        if not member.isfile():
            fault = "a link inside of the tar; make the tar anew, with tar --dereference --hard-dereference"
        elif extension in parts:
            fault = fault or f"two members of one name (.{extension}); rename one, or {_UNPACK}"
        if extension in _KNOWN:
            parts[extension] = member
        if os.path.splitext(member.name)[1].lower() in IMAGE_ENDINGS:
            pictures.append(member.name)
    return parts, pictures, fault


def _why(name: str, fault: str) -> str:
    """Why an image is lost: its own name, or what is wrong with its sample."""
    if "." in _key(name)[1]:
        return f"the key ends at the first dot of its name, so this is no image of its own; rename it, or {_UNPACK}"
    return fault


def _add(found: _Members, number: int, read: _Read, parts: dict[str, tarfile.TarInfo]) -> str | None:
    """Add a sample's image; returns why not, where it cannot be one."""
    images = [parts[extension] for extension in _IMAGES if extension in parts]
    if len(images) != 1:
        return f"{len(images)} images in one sample ({', '.join(_IMAGES)})" if images else "no image in this sample"

    def content(extension: str) -> bytes:
        member = parts.get(extension)
        return read(member.offset_data, member.size) if member else b""

    try:
        face = from_json(content("json")) if "json" in parts else None
    except (ValueError, EOFError) as error:
        return f"its json: {error}"
    if face == Face():  # an object, but nothing that we know in it
        face = None
    found.append(number, images[0], content("cls").strip(), face)
    return None


def _plain(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar."""
    with tar.open("rb") as file:
        yield from _members(tar, file)


def _unpacked(tar: Path, scratch: Scratch) -> Iterator[tarfile.TarInfo]:
    """The files in a compressed tar, after unpacking it to the end of the scratch file."""
    try:
        with scratch.writing() as start, gzip.open(tar) as packed:
            shutil.copyfileobj(packed, scratch.file, 1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise unread(error)(f"{tar}: not a whole tar, unpacking ended with: {error}; {way_out(error)}") from None
    scratch.file.seek(start)
    yield from _members(tar, scratch.file)


def _members(tar: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files of the tar that begins where `file` stands; ShardError where it is none, or is damaged."""
    start = file.tell()
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                hidden = member.name.rpartition("/")[2].startswith(".")  # as the ._NAME that a Mac adds to each file
                if not hidden and (member.isfile() or (member.linkname and _key(member.name)[1] in _KNOWN)):
                    yield member
                archive.members = []  # type: ignore[attr-defined]  # or it keeps them all
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise unread(error)(f"{tar}: not a whole tar ({error}); {way_out(error)}") from None
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ShardError(f"{tar}: damaged or cut short at byte {end - start}; what follows is lost, get it again")
    while rest := file.read(1 << 20):  # usually some padding
        if rest.count(0) != len(rest):
            raise ShardError(
                f"{tar}: more follows behind its end, which is at byte {end - start}: damaged, or several tars in one; "
                "get it again, or unpack it with tar --ignore-zeros and make one of it"
            )
