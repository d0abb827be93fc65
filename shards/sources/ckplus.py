"""CK+ as its copy of 48x48 px crops, CK+48: the last three frames of 327 posed sequences (Lucey et al. 2010).

    SRC/anger/S010_004_00000017.png ...      seven folders, 981 images, none neutral; or SRC/CK+48/anger/...

The first four letters of a name are the person, who is the identity. The three frames of a sequence are
nearly the same image, so `fer-scale split` parts identities; the copy has no splits of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import expression_called
from shards.sources.labeled import Found, class_folders, listing
from shards.sources.listing import Entry, Listing

FOLDER = "CK+48"


def entries(src: Path) -> Listing:
    """The images of CK+48."""
    if not src.is_dir():
        raise ShardError(f"{src}: not a folder; SRC is {FOLDER}, or the folder above it")
    folder = src / FOLDER if (src / FOLDER).is_dir() else src
    return listing(src, None, {"all": _with_people(class_folders(folder, "", expression_called))})


def _with_people(images: Iterator[Found]) -> Iterator[Found]:
    for found in images:
        person = re.match(r"S\d{3}(?=_)", found.origin.rpartition("/")[2]) if isinstance(found, Entry) else None
        yield replace(found, identity=person[0]) if isinstance(found, Entry) and person else found
