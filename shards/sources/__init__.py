"""The datasets that can be packed: a name, and the function that lists its images."""

from collections.abc import Callable
from pathlib import Path

from shards.errors import ShardError
from shards.sources import ferplus, folder, tar
from shards.sources.listing import Listing

# Each is called as SOURCES[name](src, split=..., protocol=...).
SOURCES: dict[str, Callable[..., Listing]] = {
    "folder": folder.entries,
    "ferplus": ferplus.entries,
    "tar": tar.entries,
}
_KNOW_SPLITS = ("ferplus",)


def entries(source: str, src: Path, *, split: str | None, protocol: str) -> Listing:
    """The images of the dataset at `src`, read as `source` says."""
    if source not in _KNOW_SPLITS and (split or protocol != "argmax"):
        what = f"split {split}" if split else f"protocol {protocol}"
        raise ShardError(f"{src}: the source {source!r} knows no splits and no protocols, so no {what}; leave it out")
    return SOURCES[source](src, split=split, protocol=protocol)
