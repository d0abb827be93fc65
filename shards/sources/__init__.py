"""The datasets that can be packed: a row for each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError
from shards.sources import affectnet, ckplus, fer2013, ferplus, folder, jaffe, parquet, rafdb, recordio, sfew, tar
from shards.sources.listing import Listing


@dataclass(frozen=True, slots=True)
class Source:
    """A way in which datasets lie on disk."""

    entries: Callable[..., Listing]  # entries(src), also split=... and protocol=... where these are known
    splits: bool = False  # train, valid, test of its own
    protocols: bool = False  # makes an expression of votes, by a rule


SOURCES = {
    "folder": Source(folder.entries),
    "ferplus": Source(ferplus.entries, splits=True, protocols=True),
    "fer2013": Source(fer2013.entries, splits=True),
    "rafdb": Source(rafdb.entries, splits=True),
    "affectnet": Source(affectnet.entries, splits=True),
    "ckplus": Source(ckplus.entries),
    "jaffe": Source(jaffe.entries),
    "sfew": Source(sfew.entries, splits=True),
    "tar": Source(tar.entries),
    "recordio": Source(recordio.entries),
    "parquet": Source(parquet.entries),
}


def entries(source: str, src: Path, *, split: str | None, protocol: str) -> Listing:
    """The images of the dataset at `src`, read as `source` says."""
    row = SOURCES[source]
    if split and not row.splits:
        raise ShardError(f"{src}: the source {source!r} knows no splits, so no split {split}; leave it out")
    if protocol != "argmax" and not row.protocols:
        raise ShardError(f"{src}: the source {source!r} knows no protocols, so no protocol {protocol}; leave it out")
    known = ({"split": split} if row.splits else {}) | ({"protocol": protocol} if row.protocols else {})
    return row.entries(src, **known)
