"""Parquet as Hugging Face's datasets write it: a folder of .parquet files, nested in any way, or one.

    image    struct {bytes, path}, known by this shape; or a binary column named image, jpg or img
    label    optional, also called identity or cls: who it is, as a number, a text, or a class by its name

Where the schema's Hugging Face features name the label's classes, and all are expressions (expressions.py knows
"Happy"), the label is the face's expression. All files in SRC are read, those of every split.

Parquet is decoded by groups of 100 to a million rows, and packing asks for single rows in a random order. A row
costs 0.3 ms where a group has 100, 4 ms at 1,000 and 2 s at 100,000. So all images are unpacked once, in order and in
little memory, into scratch.py's file (0.02 ms each): this takes their bytes on the disk until they are packed.
"""

import json
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shards.errors import ShardError, unread, way_out
from shards.expressions import expression_called
from shards.sample import Face
from shards.sources.listing import Entry, Lazy, LeftOut, Listing, Names
from shards.sources.scratch import Scratch
from shards.walk import walk

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

_IMAGES, _LABELS = ("image", "jpg", "img"), ("label", "identity", "cls")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a file has what we read."""

    image: str  # "image.bytes": of the struct, or a column of its own
    label: str | None
    classes: tuple[str, ...]  # names of the label's numbers; none: the label is its own name
    expressions: bool  # the classes are expressions, and no people


class _Rows(Lazy):
    """The images of many files as entries, made when asked for."""

    def __init__(self, files: list[str], scratch: Scratch, columns: _Columns) -> None:
        self._files, self._scratch, self._columns = files, scratch, columns
        self._file, self._row, self._offset, self._size = array("i"), array("q"), array("q"), array("q")
        self._labels = Names()

    def append(self, file: int, row: int, offset: int, size: int, label: str) -> None:
        self._file.append(file)
        self._row.append(row)
        self._offset.append(offset)
        self._size.append(size)
        self._labels.append(label.encode())

    def __len__(self) -> int:
        return len(self._row)

    def entry(self, i: int) -> Entry:
        origin, label, size = f"{self._files[self._file[i]]}#{self._row[i]}", self._labels[i] or None, self._size[i]
        who, face = (None, Face(label)) if label and self._columns.expressions else (label, None)
        return Entry(origin, size, partial(self._scratch, self._offset[i], size), face, who)


def entries(src: Path) -> Listing:
    """The images in the parquet files at `src`, in their order."""
    if pyarrow is None:
        raise ShardError("the source 'parquet' needs pyarrow: pip install 'fer_scale[parquet]'")
    names = [path for path, file in walk(src) if path.endswith(".parquet")] if src.is_dir() else [src.name]
    if not names:
        raise ShardError(f"{src}: no .parquet in it; SRC is the folder of these files, or one of them")
    files = [src / name for name in names] if src.is_dir() else [src]
    columns, need = _look(files)
    scratch = Scratch(src, need)
    found, left_out = _Rows(names, scratch, columns), list[LeftOut]()
    for number, file in enumerate(files):
        with scratch.writing() as place:
            for row, (image, label) in enumerate(_cells(file, columns)):
                if image is None:
                    left_out.append(LeftOut(f"{names[number]}#{row}", "no bytes of an image in this row", True))
                else:
                    scratch.file.write(image)
                    found.append(number, row, place, len(image), label)
                    place += len(image)
    if not len(found):
        raise ShardError(f"{src}: no images in its files; rows that only tell a path have none")
    return Listing(found, left_out)


def _look(files: list[Path]) -> tuple[_Columns, int]:
    """The columns that are the same in all files, and about how many bytes their images take."""
    need, columns = 0, None
    for file in files:
        with _opened(file) as parquet:
            found = _columns(file, parquet.schema_arrow)
            if columns not in (None, found):
                raise ShardError(f"{file}: other columns or classes than {files[0]}; pack the datasets one by one")
            columns = found
            groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
            chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
            need += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == columns.image)
    assert columns
    return columns, need


def _columns(file: Path, schema: Any) -> _Columns:
    types = {field.name: field.type for field in schema}
    images = [f"{name}.bytes" for name, kind in types.items() if _is_image(kind)]
    images += [name for name in _IMAGES if name in types and _is_binary(types[name])]
    if len(images) != 1:
        what = "several columns" if images else "no column"
        raise ShardError(f"{file}: {what} of images (image: {{bytes, path}}) among {', '.join(types)}; leave it one")
    label = next((name for name in _LABELS if name in types), None)
    if label and pyarrow.types.is_nested(types[label]):
        raise ShardError(
            f"{file}: its column {label} holds {types[label]}; a label is a number or a text: leave it out"
        )
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    classes = about.get("info", {}).get("features", {}).get(label, {}).get("names") or []
    others = [name for name in classes if not _is_expression(name)]
    if others and len(others) < len(classes) - 1:
        raise ShardError(f"{file}: of its classes {', '.join(others)} are no expressions; take them and their rows out")
    expressions = bool(classes) and not others
    return _Columns(images[0], label, tuple(map(expression_called, classes) if expressions else classes), expressions)


def _is_image(kind: Any) -> bool:
    fields = {field.name: field.type for field in kind} if pyarrow.types.is_struct(kind) else {}
    return set(fields) == {"bytes", "path"} and _is_binary(fields["bytes"])


def _is_binary(kind: Any) -> bool:
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _is_expression(name: str) -> bool:
    try:
        return bool(expression_called(name))
    except ValueError:
        return False


def _cells(file: Path, columns: _Columns) -> Iterator[tuple[bytes | None, str]]:
    """Image and label of each row; the label is "" where there is none, or -1, as Hugging Face's datasets say it."""
    names: dict[Any, str] = {None: ""} | ({-1: ""} | dict(enumerate(columns.classes)) if columns.classes else {})
    name, _, bytes_of_struct = columns.image.partition(".")
    with _opened(file) as parquet:
        for batch in parquet.iter_batches(256, columns=[columns.image, columns.label or columns.image]):
            images = batch.column(name).field(0) if bytes_of_struct else batch.column(name)
            labels = batch.column(columns.label).to_pylist() if columns.label else [None] * len(images)
            if columns.classes and (unknown := set(labels) - set(names)):
                raise ShardError(f"{file}: label {unknown.pop()} is none of its {len(columns.classes)} classes")
            yield from zip(images.to_pylist(), (names.get(label, str(label)) for label in labels), strict=True)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A parquet file; ShardError where it is none, or is damaged."""
    read = {"pre_buffer": False, "buffer_size": 1 << 20, "page_checksum_verification": True}
    try:  # else it would hold all of a file: buffered by the group, and those ahead
        with pyarrow.parquet.ParquetFile(file, **read) as parquet:
            yield parquet
    except (pyarrow.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise unread(error)(f"{file}: not a whole parquet file ({why}); {way_out(error)}") from None
