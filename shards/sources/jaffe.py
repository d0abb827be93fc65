"""JAFFE: 213 posed grey faces of ten Japanese women, 256x256 px (Lyons et al. 1998).

    SRC/KA.AN1.39.tiff ...       who, what (NE HA SU SA AN DI FE) and which take, a running number

The identity is who; the usual test leaves persons out, as `fer-scale split` does. There are no splits.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import JAFFE
from shards.sample import Face
from shards.sources.labeled import Found, labeled, listing
from shards.sources.listing import Entry, LeftOut, Listing


def entries(src: Path) -> Listing:
    """The images of JAFFE."""
    if not src.is_dir():
        raise ShardError(f"{src}: not a folder; SRC is the folder of the images")
    return listing(src, None, {"all": _images(src)})


def _images(src: Path) -> Iterator[Found]:
    for file in sorted(src.iterdir()):
        words = file.name.split(".")
        if len(words) != 4:
            yield LeftOut(file.name, "not a name such as KA.AN1.39.tiff", False)
        elif words[1][:2] not in JAFFE:
            raise ShardError(f"{file}: unknown class {words[1][:2]!r}; the classes are {', '.join(JAFFE)}")
        else:
            found = labeled(src, file.name, Face(JAFFE[words[1][:2]]), file.name)
            yield replace(found, identity=words[0]) if isinstance(found, Entry) else found
