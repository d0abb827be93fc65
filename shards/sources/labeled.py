"""What the labeled datasets share: splits of their own, folders that are classes, boxes in pixels."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from PIL import Image

from shards.boxes import box_from
from shards.errors import PASSING, Broken, ShardError
from shards.pixels import ORIENTATION
from shards.sample import Face
from shards.sources.listing import IMAGE_ENDINGS, Entry, LeftOut, Listing, read_span

Found = Entry | LeftOut

_FOLDERS = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}


def listing(src: Path, split: str | None, splits: Mapping[str, Iterable[Found]]) -> Listing:
    """The images of a split of the dataset, without a split of all; only the splits wanted are walked through."""
    if split is not None and split not in splits:
        raise ShardError(f"{src}: no split {split} in it; there are {', '.join(splits)}")
    found = list(chain.from_iterable(splits[name] for name in ([split] if split else splits)))
    images = [one for one in found if isinstance(one, Entry)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    if not images:
        why = f"; the first: {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise ShardError(f"{src}: no labeled image in it{why}")
    return Listing(images, left_out)


def labeled(src: Path, path: str, face: Face, named_by: str, *, row: str | None = None) -> Found:
    """The image SRC/`path`; left out, and counted, where it is missing. `row` tells apart faces of one image."""
    origin = path if row is None else f"{path}#{row}"
    try:
        size = (src / path).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return LeftOut(origin, f"{named_by} names it, but there is no such image", True)
    return Entry(origin, size, partial(read_span, str(src / path), 0, size), face)


def class_folders(src: Path, below: str, expression: Callable[[str], str]) -> Iterator[Found]:
    """The images of SRC/`below`, whose folders are the classes; `expression` says which, or raises ValueError."""
    for folder in sorted((src / below).iterdir()):
        if not folder.is_dir():
            yield LeftOut(folder.relative_to(src).as_posix(), "in no folder of a class", False)
        elif not folder.name.startswith("."):
            try:
                face = Face(expression(folder.name))
            except ValueError as error:
                raise ShardError(f"{folder}: {error}") from None
            for file in sorted(folder.iterdir()):
                path = file.relative_to(src).as_posix()
                if file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith("."):
                    yield labeled(src, path, face, folder.name)
                else:
                    yield LeftOut(path, "not an image, by its name", False)


def split_folders(src: Path, prefixes: Mapping[str, str], expression: Callable[[str], str]) -> dict[str, list[Found]]:
    """By split, the images of the folders SRC/train, valid, validation, test of class folders.

    A name that begins with one of `prefixes` says its split itself, and is believed before the folder: copies
    put several published splits into one folder, or call a test set valid.
    """
    splits: dict[str, list[Found]] = {}
    for folder, split in _FOLDERS.items():
        for found in class_folders(src, folder, expression) if (src / folder).is_dir() else ():
            name = (found.origin if isinstance(found, Entry) else found.path).rpartition("/")[2]
            said = (prefixes[prefix] for prefix in prefixes if name.startswith(prefix))
            splits.setdefault(next(said, split), []).append(found)
    return {split: splits[split] for split in ("train", "valid", "test") if split in splits}


def face_with_box(expression: str, image: Path, corners: tuple[float, float, float, float]) -> Face:
    """A face with its box, given in pixels of the image, cut off at the image's edges.

    Without it where nothing of it is left, and where EXIF turns the image: which way up that was annotated is
    not known. The image's header is read for its size here, once, since entries are asked for several times.
    """
    try:
        with Image.open(image) as picture:
            width, height = picture.size
            turned = {"exif", "xmp"} & picture.info.keys() and picture.getexif().get(ORIENTATION, 1) != 1
        x1, y1, x2, y2 = corners
        box = box_from((max(0, x1 / width), max(0, y1 / height), min(1, x2 / width), min(1, y2 / height)))
    except Exception as error:  # whatever a damaged header provokes: the packer will look at the image and name it
        if isinstance(error, OSError) and error.errno in PASSING:  # the box would be lost
            raise Broken(
                f"{image}: {error.strerror}; look after the disk or its network and run the same command again"
            ) from None
        return Face(expression)
    return Face(expression) if turned else Face(expression, box=box, box_source="annotation")
