"""Faces cut out of photos as a model was trained to see them.

In a photo the faces are found (faces.py), and each is cut out so that its box comes to lie where that detector's boxes
lay in training. What sticks out repeats the border.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_scale import faces, photos
from fer_scale.photos import PhotoError, Picture, Pixels
from shards.boxes import WHOLE
from shards.detector import Rectangle, Seen
from shards.errors import UserError

# The cut's side where a face's place is not known but found: some are then cut too wide, some too narrow, and too wide
# costs more. Of 799 FERPlus faces, list `valid`, a ViT with 1,064 labels and crop_pct 0.95, of 64 / 120 / 300 px:
# cut 0.85 of the width of training, as by this and crop_pct, are right by YuNet 72.2 / 67.8 / 69.3 %, cut 0.95 of it
# 71.1 / 67.9 / 68.1; by Haar (64 / 120 px) 69.5 / 68.9 against 67.9 / 67.7. About a point, then; 25 % too wide costs
# 8 to 11 (tests/benchmarks/photos.py agreement, 2026-11-27).
NARROWER = 0.9


class PredictError(UserError):
    """A model or a box that cannot be used."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A photo's faces, ready for the network."""

    name: str
    size: tuple[int, int] = (0, 0)
    seen: tuple[Seen, ...] = ()
    crops: tuple[Pixels, ...] = ()
    found: int = 0
    problem: str | None = None

    @property
    def is_answered(self) -> bool:
        """Whether its faces are there; of a photo without any that is said, which is an answer."""
        return self.size != (0, 0) and (bool(self.seen) or not self.found)


def cut_out(
    name: str,
    picture: Picture,
    px: int,
    finder: faces.Finder | None,
    place: faces.Place,
    *,
    largest: bool,
    crop_pct: float,
    box: Rectangle | None = None,
    face_box: faces.Place = WHOLE,
) -> Cut:
    """The faces of a photo that `finder` finds, cut so that they lie at `place`; or the one in `box`, at `face_box`.

    Without a finder the photo is a face crop. Of each the middle share `crop_pct` of the sides is taken.
    """
    try:
        pixels = photos.upright(picture)
    except PhotoError as error:
        return Cut(name, problem=str(error))
    (height, width, _), found = pixels.shape, 1
    try:
        if box is not None:
            seen, cuts = [Seen(box, 0)], [crop_for(box, face_box, (width, height))]
        elif finder is None:
            seen, cuts = [Seen((0, 0, width, height), 0)], [(0, 0, width, height)]
        else:
            seen, found = finder.find(pixels, largest=largest)
            cuts = [around(face.box, place) for face in seen]
        crops = tuple(as_input(pixels, px, middle(cut, crop_pct)) for cut in cuts)
    except PredictError as error:
        return Cut(name, (width, height), found=found, problem=f"{name}: {error}")
    return Cut(name, (width, height), tuple(seen), crops, found, None if seen else faces.no_face(name))


def as_input(pixels: Pixels, px: int, cut: Rectangle) -> NDArray[np.uint8]:
    """The part of a photo in `cut` (left, top, right, bottom) as uint8 [px, px, 3]."""
    part, box = _part(pixels, cut)
    return np.asarray(Image.fromarray(part).resize((px, px), Image.Resampling.BICUBIC, box=box))


def middle(cut: Rectangle, share: float) -> Rectangle:
    """The middle of a cut, with this share of its sides."""
    left, top, right, bottom = cut
    x, y = (1 - share) / 2 * (right - left), (1 - share) / 2 * (bottom - top)
    return left + x, top + y, right - x, bottom - y


def around(face: Rectangle, place: faces.Place) -> Rectangle:
    """The middle of the square cut in which the box of a face lies at `place`, as nearly as a square can have it.

    Faces are of many shapes and boxes, too; pictures of them were not stretched in training, nor are they here.
    """
    x1, y1, x2, y2 = face
    wide, high = place[2] - place[0], place[3] - place[1]
    side = ((x2 - x1) * (y2 - y1) / (wide * high)) ** 0.5
    x = (x1 + x2) / 2 + (1 - place[0] - place[2]) / 2 * side  # the middle of the crop
    y = (y1 + y2) / 2 + (1 - place[1] - place[3]) / 2 * side
    half = NARROWER * side / 2
    return x - half, y - half, x + half, y + half


def crop_for(face: Rectangle, face_box: faces.Place, size: tuple[int, int]) -> Rectangle:
    """The cut (left, top, right, bottom) in pixels in which the box `face` lies at `face_box`; it may stick out."""
    check_box(face)
    x1, y1, x2, y2 = face
    if x2 <= 0 or y2 <= 0 or x1 >= size[0] or y1 >= size[1]:
        raise PredictError(f"box {_numbers(face)}: lies outside of the {size[0]}x{size[1]} photo")
    width, height = (x2 - x1) / (face_box[2] - face_box[0]), (y2 - y1) / (face_box[3] - face_box[1])
    left, top = x1 - face_box[0] * width, y1 - face_box[1] * height
    return left, top, left + width, top + height


def check_box(box: Rectangle) -> None:
    """PredictError where a box is none in any photo."""
    # Of shares of the sides none is above 1.
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3] and all(map(math.isfinite, box))) or max(box) <= 1:
        raise PredictError(f"box {_numbers(box)}: must be x1,y1,x2,y2 in pixels of the upright photo, x1 < x2, y1 < y2")


def _numbers(box: Rectangle) -> str:
    return ",".join(f"{n:g}" for n in box)


def _part(pixels: Pixels, cut: Rectangle) -> tuple[Pixels, Rectangle]:
    """The part of a photo around a cut, its border repeated where the cut sticks out, and the cut in it."""
    height, width, _ = pixels.shape
    if not (cut[2] - cut[0]) * (cut[3] - cut[1]) <= photos.MOST_PIXELS:  # of what overflowed, too
        raise PredictError(f"the cut around a face would have more than {photos.MOST_PIXELS:,} pixels")
    left, top = int(np.floor(cut[0])), int(np.floor(cut[1]))
    right, bottom = int(np.ceil(cut[2])), int(np.ceil(cut[3]))
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        part = pixels[top:bottom, left:right]  # not copied: it may be the whole photo
    else:
        rows, columns = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
        part = pixels[rows[:, None], columns]
    return part, (cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top)
