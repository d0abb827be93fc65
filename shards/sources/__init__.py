"""The datasets that can be packed: a name, and the function that lists its images."""

from collections.abc import Callable
from pathlib import Path

from shards.sources import ferplus, folder, tar
from shards.sources.listing import Listing

# Each is called as SOURCES[name](src, split=..., protocol=...).
SOURCES: dict[str, Callable[..., Listing]] = {
    "folder": folder.entries,
    "ferplus": ferplus.entries,
    "tar": tar.entries,
}


def entries(source: str, src: Path, *, split: str | None, protocol: str) -> Listing:
    """The images of the dataset at `src`, read as `source` says."""
    return SOURCES[source](src, split=split, protocol=protocol)
