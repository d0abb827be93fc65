"""A photo with the faces that were found in it and what was said of them, as a picture for people."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fer_scale import disk, photos
from fer_scale.predicted import Photo, in_words
from shards.errors import UserError

_LEAST_PX = 480  # of the longer side: a label on less could not be read
_MOST_PX = 16_000  # a JPEG ends at 65,500
_INK, _PAPER = (0, 0, 0), (255, 221, 51)  # of labels; contrast 15 to 1


def write(photo: Photo, folder: Path, taken: dict[str, int]) -> Path:
    """Put the photo of this name, drawn on, into a folder; under a name that is not `taken` yet.

    `taken` says of each name how far the numbers of its stem have come.
    """
    stem = photos.stem(photo.name)
    first = name = f"{stem}.faces.jpg"
    while name in taken:
        taken[first] += 1
        name = f"{stem}.{taken[first]}.faces.jpg"
    taken[name] = 1
    draw(photos.upright(photo.name), photo).save(jpeg := io.BytesIO(), "JPEG", quality=92)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk.put(folder / name, jpeg.getvalue())
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder / name}: cannot be written ({why}); give a folder that can hold it") from None
    return folder / name


def draw(pixels: photos.Pixels, photo: Photo) -> Image.Image:
    """The upright photo with a box around each face and what it shows; of a size that one can look at."""
    picture = Image.fromarray(pixels)
    longer = max(picture.size)
    scale = min(max(longer, _LEAST_PX), _MOST_PX) / longer
    if scale != 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    longer = max(picture.size)
    width = max(2, longer // 300)
    for face in photo.faces:
        x1, y1, x2, y2 = (edge * scale for edge in face.box)
        pen.rectangle((x1, y1, x2, y2), outline=_INK, width=2 * width)
        pen.rectangle((x1, y1, x2, y2), outline=_PAPER, width=width)
    for face in photo.faces:  # no box hides a label
        x1, y1, x2, y2 = (edge * scale for edge in face.box)
        _label(pen, in_words(face), (x1, y1, x2, y2), picture.size)
    return picture


def _label(pen: ImageDraw.ImageDraw, text: str, box: tuple[float, ...], size: tuple[int, int]) -> None:
    """The text above a box, or where that is outside the picture, inside; as large as face and picture allow."""
    width, height = size
    letter = min(max((box[2] - box[0]) / 7, max(size) / 34), max(size) / 16)
    left, _, right, _ = pen.textbbox((0, 0), text, font=ImageFont.load_default(letter))
    letter = max(1, letter * min(1, 0.9 * width / (right - left)))  # a long word in a narrow picture
    font, margin = ImageFont.load_default(letter), letter / 5
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 2 * margin, bottom - top + 2 * margin
    x = min(max(box[0], 0), width - wide)
    y = box[1] - high if box[1] >= high else min(max(box[1], 0), height - high)
    pen.rectangle((x, y, x + wide, y + high), fill=_PAPER)
    pen.text((x + margin - left, y + margin - top), text, font=font, fill=_INK)
