"""What a model says of photos, and the forms in which that is written: JSON, CSV, a line for a person."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer_scale import disk
from shards.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the upright photo; it may stick out

UNSURE = "unsure"  # in words for people, where a model abstained; scripts get no label
_COLUMNS = "photo", "width", "height", "face", "x1", "y1", "x2", "y2", "score", "label", "confidence"


@dataclass(frozen=True, slots=True)
class Face:
    """A face, and the expression that it shows."""

    box: Box
    score: float | None  # of the detector, in its own units; None: a box that was given, or the whole picture
    label: str | None  # None: less sure than was asked for
    confidence: float  # the largest probability
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its faces from left to right; or why there are none."""

    name: str
    size: tuple[int, int]  # width and height, upright; (0, 0) where it could not be read
    faces: tuple[Face, ...]
    found: int = 0  # how many faces it shows, where only the largest was asked for
    problem: str | None = None

    @property
    def is_read(self) -> bool:
        return self.size != (0, 0)

    @property
    def is_answered(self) -> bool:
        """Whether its faces are judged; of a photo without any that is said, which is an answer."""
        return self.is_read and (bool(self.faces) or not self.found)


def as_json(photo: Photo) -> str:
    """The photo as a line for scripts."""
    faces = [asdict(face) | dict(zip(("box", "score"), _rounded(face), strict=True)) for face in photo.faces]
    said = {"photo": photo.name, "size": photo.size, "found": photo.found, "faces": faces, "problem": photo.problem}
    return json.dumps(said)


def as_text(photo: Photo) -> list[str]:
    """A line a face, for a person."""
    if len(photo.faces) == 1:
        more = f"  (the largest of {photo.found} faces)" if photo.found > 1 else ""
        return [f"{photo.name}  {in_words(photo.faces[0])}{more}"]
    places = [" ".join(f"{x:.0f}" for x in face.box) for face in photo.faces]
    return [f"{photo.name}  {in_words(face)}  at {at}" for face, at in zip(photo.faces, places, strict=True)]


def in_words(face: Face) -> str:
    return f"{face.label or UNSURE}  {face.confidence:.2f}"


@contextmanager
def table(file: Path | None, names: list[str]) -> Iterator[Callable[[Photo], None]]:
    """Write photos into a CSV, which is there when it is complete: a row a face, and one for a photo without any.

    What is no file, and stdout, is written into as it is. Rows go there as they come, not as by disk.put().
    """
    if file is None:
        yield lambda photo: None
        return
    if file.is_dir():
        raise UserError(f"{file}: is a folder; give a file")
    into, end = disk.straight(file), disk.end_of(file)
    beside = end.with_name(f"{end.name}.part")
    with _in_words(file):  # by line, since stdout says more between
        if not into and end.exists() and not _is_a_table(end):
            raise UserError(f"{file}: is there already, and no table of faces; give another file, or remove it")
        lines = open(
            into or beside, "w", buffering=1, newline="", encoding="utf-8", errors="backslashreplace",
            closefd=not isinstance(into, int),
        )  # fmt: skip
    writer = csv.writer(lines)

    def add(photo: Photo) -> None:
        with _in_words(file):
            writer.writerows(_rows(photo, names))

    try:
        with _in_words(file):
            writer.writerow([*_COLUMNS, *(f"p_{name}" for name in names), "problem"])
        yield add
        with _in_words(file):
            lines.close()
            if not into:
                os.replace(beside, end)
    finally:
        with suppress(OSError):
            lines.close()
        if not into:
            beside.unlink(missing_ok=True)


def _is_a_table(file: Path) -> bool:
    head = ",".join(_COLUMNS).encode()
    with file.open("rb") as there:
        return there.read(len(head)) in (b"", head)


@contextmanager
def _in_words(file: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever reads it has enough
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from None


def _rows(photo: Photo, names: list[str]) -> list[list[Any]]:
    head = [photo.name, *photo.size]
    if not photo.faces:
        return [[*head, *[None] * (len(_COLUMNS) - len(head) + len(names)), photo.problem]]
    rows = []
    for number, face in enumerate(photo.faces):
        shares = [round(face.probabilities[name], 6) for name in names]
        box, score = _rounded(face)
        rows.append([*head, number, *box, score, face.label, round(face.confidence, 6), *shares, None])
    return rows


def _rounded(face: Face) -> tuple[list[float], float | None]:
    """Its box and score, no digits that mean nothing."""
    return [round(x, 1) for x in face.box], None if face.score is None else round(face.score, 4)
