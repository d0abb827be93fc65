"""Photos out of files, folders, globs and memory: upright, in RGB, of 8 bits. What any camera or program may leave.

An animation gives its first picture, transparency is dropped, 16 bits become 8, a palette its colours, CMYK is
converted; EXIF says which way is up. A damaged file is a PhotoError that says which and why.
"""

import functools
import glob
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fer_scale import log
from shards.errors import UserError
from shards.pixels import UPRIGHT, orientation
from shards.walk import walk

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
Picture = str | Path | Image.Image | Pixels  # what a photo may be given as

MOST_PIXELS = 200_000_000  # of a photo; 48 megapixel telephones exist
MOST_BYTES = 1_000_000_000  # of its file
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_UNREAD = {".heic", ".heif", ".hif", ".avif"}
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_LONGEST_STEM = 200  # bytes, of the 255 that a name may have
_TURNS = threading.Lock()


class PhotoError(UserError):
    """A file that is no photo we read."""


def listed(paths: Iterable[str | Path]) -> list[Path]:
    """The photos that files, folders and globs stand for, each once, in the order given.

    Of folders, with all below them that is not hidden, and of globs (`**` goes through folders) those files that are
    named like pictures, sorted; a file that is named itself is taken whatever its name. UserError where a folder or
    glob holds no picture; of pictures of a telephone's that are not read it is said how many they are.
    """
    found: dict[Path, None] = {}
    for path in paths:
        place = Path(path)
        if place.is_dir():
            inside = [place / name for name, _ in walk(place, _left_out)]
        elif glob.has_magic(str(path)) and not place.exists():
            inside = [Path(name) for name in glob.iglob(str(path), recursive=True)]
        else:
            found[place] = None
            continue
        files, unread = (
            sorted(file for file in inside if file.suffix.lower() in named and file.is_file())
            for named in (SUFFIXES, _UNREAD)
        )
        if unread:
            log.say(f"note     {path}: HEIC and AVIF are not read ({log.plural(len(unread), 'file')}); convert to jpg")
        if not files:
            named = " ".join(sorted(SUFFIXES))
            raise PhotoError(f"{path}: no pictures there (files named {named}); is it the right place?")
        found |= dict.fromkeys(files)
    return list(found)


def _left_out(error: OSError) -> None:
    log.say(f"note     {error.filename}: cannot be looked into ({error.strerror}), and is left out")


def stem(name: str) -> str:
    """A photo's name without its ending, cut where a file that is named after it would have too long a name."""
    whole = os.fsencode(Path(name).stem)
    return os.fsdecode(whole) if len(whole) <= _LONGEST_STEM else whole[:_LONGEST_STEM].decode(errors="ignore")


def upright(picture: Picture) -> Pixels:
    """The photo as one would look at it, uint8 [height, width, 3]; PhotoError says why it cannot be read."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise PhotoError(
                f"an array of {picture.dtype} {list(picture.shape)}: must be uint8 [height, width, 3] in RGB"
            )
        return picture
    if not isinstance(picture, str | Path | Image.Image):  # None of cv2.imread, say
        raise PhotoError(f"a {type(picture).__name__}: must be a file, a PIL image or uint8 [height, width, 3] in RGB")
    if isinstance(picture, Image.Image):
        name, read = "an image", functools.partial(_loaded, picture)
    else:
        name, read = str(picture), functools.partial(_decoded, _bytes(Path(picture)))
    try:
        return read()
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: cannot be read as a picture ({', '.join(_FORMATS)} are)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(f"{name}: cannot be read as a picture (more than {MOST_PIXELS:,} pixels)") from None
    except Exception as error:  # PIL raises nearly anything on damaged bytes
        said = " ".join(str(error).split())
        raise PhotoError(f"{name}: cannot be read as a picture ({type(error).__name__}: {said})") from None


def _bytes(file: Path) -> bytes:
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise PhotoError(f"{file}: has {size:,} bytes, and a photo may have {MOST_BYTES:,}")
        return file.read_bytes()
    except FileNotFoundError:
        raise PhotoError(f"{file}: no such file") from None
    except OSError as error:
        raise PhotoError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a zero byte in the name
        raise PhotoError(f"{str(file)!r}: cannot be read ({error})") from None


def _loaded(picture: Image.Image) -> Pixels:
    with _TURNS:  # Pillow reads an image at its first use, and two threads may have the same one
        if not picture.width * picture.height:
            raise ValueError("it has no pixels")
        return _turned(_rgb(picture), orientation(picture))


def _decoded(data: bytes) -> Pixels:
    with _pillow(data) as picture:
        if picture.format not in ("JPEG", "MPO") or picture.mode not in ("RGB", "L"):
            return _turned(_rgb(picture), orientation(picture))
        lies = orientation(picture)
    try:  # what Pillow gives, sooner, and beside other threads
        return _turned(simplejpeg.decode_jpeg(data, colorspace="RGB"), lies)
    except ValueError:  # it is strict about stray bytes; Pillow decides
        with _pillow(data) as picture:
            return _turned(_rgb(picture), lies)


def _turned(pixels: Pixels, lies: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[lies])) if lies in UPRIGHT else pixels


def _rgb(picture: Image.Image) -> Pixels:
    return np.asarray(_eight_bits(picture).convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of wider pixels as 8 bits of grey; others as they are."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.nan_to_num(np.asarray(image))
    if image.mode == "F":
        white = 1 if values.max() <= 1 else 255  # shares of white, or levels
    else:
        white = 255 if image.mode == "I" and values.max() <= 255 else 65535  # 32 bits may hold levels of 8
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))


@contextmanager
def _pillow(data: bytes) -> Iterator[Image.Image]:
    """The picture in these bytes, nothing decoded yet.

    Under our limit of size and without warnings of odd EXIF and the like: both are of the whole process, so that
    threads take turns.
    """
    with _TURNS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                yield picture
        finally:
            Image.MAX_IMAGE_PIXELS = before
