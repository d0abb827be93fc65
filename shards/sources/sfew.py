"""SFEW 2.0: frames of films, 958 to train and 436 to validate (Dhall et al. 2011).

    SRC/Train/Angry/*.png ...  SRC/Val/Angry/*.png ...      seven folders each

The labels of its test frames were never released; papers test on the split valid. A frame shows more than the
face and there are no boxes: find them with a detector.
"""

from pathlib import Path

from shards.errors import ShardError
from shards.expressions import expression_called
from shards.sources.labeled import class_folders, listing
from shards.sources.listing import Listing

_FOLDERS = {"train": "Train", "valid": "Val"}


def entries(src: Path, *, split: str | None = None) -> Listing:
    """The images of a split of SFEW; without a split, of both."""
    there = {name: folder for name, folder in _FOLDERS.items() if (src / folder).is_dir()}
    if not there:
        raise ShardError(f"{src}: neither Train/Angry nor Val/Angry in it")
    return listing(src, split, {name: class_folders(src, there[name], expression_called) for name in there})
