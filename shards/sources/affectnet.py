"""AffectNet: faces of the web, each labeled by one person (Mollahosseini et al. 2017), as first released in full:

    SRC/training.csv, validation.csv                (also below SRC/Manually_Annotated_file_lists)
        subDirectory_filePath, face_x, face_y, face_width, face_height, facial_landmarks, expression, ...
    SRC/Manually_Annotated_Images/1/0a5b.jpg ...    (also below SRC/Manually_Annotated, or SRC/1/0a5b.jpg)

or as the smaller set of crops of 2021:

    SRC/train_set/images/0.jpg ...  SRC/train_set/annotations/0_exp.npy ...  SRC/val_set/...

0 neutral 1 happiness 2 sadness 3 surprise 4 fear 5 disgust 6 anger 7 contempt; 8 none, 9 uncertain, 10 no face
and rows without a box (face_width below 0) are left out. What stays are 287,651 images to train and 4,000 to
validate. A test set was never released: the validation set is what papers test on, so it is the split valid and
the split test; do not choose anything by it. Of a csv an origin ends in #training:N or #validation:N, the
line, for one image may have several faces, and its folder does not tell its split. The full release's validation.csv
has no header.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.expressions import AFFECTNET, AFFECTNET_OTHERS, expression_numbered
from shards.sample import Face
from shards.sources.labeled import Found, face_with_box, labeled, listing
from shards.sources.listing import LeftOut, Listing

_SPLITS = {"train": ("training.csv", "train_set"), "valid": ("validation.csv", "val_set")}
_LISTS = ("", "Manually_Annotated_file_lists")
_IMAGES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images")
_COLUMNS = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression"]


def entries(src: Path, *, split: str | None = None) -> Listing:
    """The images of a split of AffectNet; without a split, of both."""
    splits: dict[str, Iterable[Found]] = {}
    for one, (name, folder) in _SPLITS.items():
        files = [src / below / name for below in _LISTS if (src / below / name).is_file()]
        if files:
            splits[one] = _rows(src, files[0])
        elif (src / folder / "annotations").is_dir():
            splits[one] = _annotated(src, folder)
    if not splits:
        raise ShardError(f"{src}: neither training.csv, validation.csv nor train_set/annotations, val_set/annotations")
    return listing(src, "valid" if split == "test" and "valid" in splits else split, splits)


def _rows(src: Path, file: Path) -> Iterator[Found]:
    """The faces of a csv, each with its box."""
    images = next((f"{folder}/" for folder in _IMAGES if (src / folder).is_dir()), "")
    columns = _COLUMNS
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            row = line.rstrip("\n").split(",")
            if _COLUMNS[0] in row:
                columns = row
                continue
            if not line.strip():
                continue
            fields = dict(zip(columns, row, strict=False))
            at = f"{file.stem}:{number}"
            path = images + fields.get(_COLUMNS[0], "")
            try:
                x, y, width, height = (float(fields[column]) for column in _COLUMNS[1:5])
                label = int(fields["expression"])
            except (KeyError, ValueError):
                yield LeftOut(f"{path}#{at}", f"no numbers in its row of {file.name}", True)
                continue
            expression = _class(f"{file}:{number}", label)
            if expression in AFFECTNET_OTHERS.values() or width < 0:
                why = f"no expression: {expression}" if width >= 0 else "no face: its face_width is below 0"
                yield LeftOut(f"{path}#{at}", why, False)
            else:
                face = face_with_box(expression, src / path, (x, y, x + width, y + height))
                yield labeled(src, path, face, file.name, row=at)


def _annotated(src: Path, folder: str) -> Iterator[Found]:
    """The crops with an annotation, and what is left out for want of one."""
    images = {name.removesuffix(".jpg") for name in os.listdir(src / folder / "images") if name[0] != "."}
    names = [name for name in os.listdir(src / folder / "annotations") if name[0] != "."]
    labels = {name.removesuffix("_exp.npy") for name in names if name.endswith("_exp.npy")}
    for name in sorted(images | labels):
        path, file = f"{folder}/images/{name}.jpg", src / folder / "annotations" / f"{name}_exp.npy"
        if name not in labels:
            yield LeftOut(path, "no _exp.npy for it", True)
            continue
        try:
            number = np.load(file, allow_pickle=False).item()
        except (OSError, EOFError, ValueError) as error:
            yield LeftOut(path, f"its _exp.npy is no array of one number: {error}", True)
            continue
        expression = _class(str(file), number)
        if expression in AFFECTNET_OTHERS.values():
            yield LeftOut(path, f"no expression: {expression}", False)
        else:
            yield labeled(src, path, Face(expression), "its _exp.npy")


def _class(where: str, number: object) -> str:
    """The expression of a number, or one of AFFECTNET_OTHERS."""
    try:
        return expression_numbered(number, AFFECTNET | AFFECTNET_OTHERS)
    except ValueError as error:
        raise ShardError(f"{where}: {error}") from None
