"""RAF-DB, basic emotions: 15,339 faces of the web, each seen by some forty people (Li et al. 2017).

    SRC/EmoLabel/list_patition_label.txt            (sic) a line an image: train_00001.jpg 5
    SRC/Image/aligned/train_00001_aligned.jpg       crops of 100x100 px; or, where this folder is not there:
    SRC/Image/original/train_00001.jpg              the whole pictures, with
    SRC/Annotation/boundingbox/train_00001_boundingbox.txt      the face: x1 y1 x2 y2 in pixels

or copies without the list, whose folders are the numbers:

    SRC/train/1/train_00001_aligned.jpg ...  SRC/test/1/...  SRC/valid/1/...  (also below SRC/DATASET)

1 surprise 2 fear 3 disgust 4 happiness 5 sadness 6 anger 7 neutral. The splits are train (12,271 images) and
test (3,068), by the beginning of the names, also where a copy calls its folder of test images valid.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from shards.errors import ShardError
from shards.expressions import RAFDB, expression_numbered
from shards.sample import Face
from shards.sources.labeled import Found, face_with_box, labeled, listing, split_folders
from shards.sources.listing import LeftOut, Listing

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_PREFIXES = {"train_": "train", "test_": "test"}


def entries(src: Path, *, split: str | None = None) -> Listing:
    """The images of a split of RAF-DB; without a split, of both."""
    for name in _LISTS:
        if (src / "EmoLabel" / name).is_file():
            rows = _rows(src / "EmoLabel" / name)
            return listing(src, split, {one: _images(src, name, one, rows[one]) for one in rows if rows[one]})
    expression = partial(expression_numbered, numbers=RAFDB)
    folder = src / "DATASET" if (src / "DATASET").is_dir() else src
    splits = split_folders(folder, _PREFIXES, expression)
    if not splits:
        raise ShardError(f"{src}: neither EmoLabel/{_LISTS[0]} nor folders train/1 ... test/7 in it")
    return listing(src, split, splits)


def _rows(file: Path) -> dict[str, list[tuple[str, str]]]:
    """By split, names without their ending, and expressions."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ShardError(f"{file}: is no text in UTF-8 ({error.reason}); save it as that") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                name, label = line.split()
                rows[name.partition("_")[0]].append((name.removesuffix(".jpg"), expression_numbered(label, RAFDB)))
            except KeyError:
                raise ShardError(f"{file}:{number}: {name} begins neither with train_ nor with test_") from None
            except ValueError as error:
                raise ShardError(f"{file}:{number}: {error}") from None
    return rows


def _images(src: Path, file: str, split: str, rows: list[tuple[str, str]]) -> Iterator[Found]:
    """The images of a split, and those that have no row in the list."""
    aligned = (src / "Image" / "aligned").is_dir()
    folder, ending = ("Image/aligned", "_aligned.jpg") if aligned else ("Image/original", ".jpg")
    there = {image.name for image in (src / folder).glob(f"{split}_*.jpg")}
    for name in sorted(there - {name + ending for name, _ in rows}):
        yield LeftOut(f"{folder}/{name}", f"no row for it in {file}", True)
    for name, expression in rows:
        path = f"{folder}/{name}{ending}"
        yield labeled(src, path, Face(expression) if aligned else _boxed(src, name, path, expression), file)


def _boxed(src: Path, name: str, path: str, expression: str) -> Face:
    """The face of a whole picture, with its box where there is a file for it."""
    file = src / "Annotation" / "boundingbox" / f"{name}_boundingbox.txt"
    try:
        x1, y1, x2, y2 = (float(number) for number in file.read_text().split())
    except FileNotFoundError:
        return Face(expression)
    except ValueError:
        raise ShardError(f"{file}: not four numbers x1 y1 x2 y2; mend it, or remove it") from None
    return face_with_box(expression, src / path, (x1, y1, x2, y2))
