"""Image files into pixels, and what can be told from them. Decodes; never crops, resizes or trains.

What a set may hold is what decode() takes: JPEG, PNG and WebP of usual modes, no larger than MAX_PIXELS. What
else a source may have, and what becomes of it, is in prepare.py.
"""

import functools
import hashlib
import io
import struct
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from shards.order import bits, key

Pixels = npt.NDArray[np.uint8]  # [height, width, 3], RGB

MAX_PIXELS = 16_000_000  # 48 MB when decoded; a face crop has some ten thousand
MAX_FILE_BYTES = 256 << 20
FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # Pillow's names, and what we call such files
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK")
ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = {  # what turns a picture so that one can look at it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPENED = ("JPEG", "PNG", "WEBP")  # an MPO is opened as a JPEG
_TURBO = ("YCbCr", "Gray", "RGB")
_AT_ONCE = 1024  # pictures in one matrix product


class BadImage(ValueError):
    """Bytes that are no image we train on; the text is the reason, without the file's name."""


def decode(data: bytes, scratch: Pixels | None = None) -> Pixels:
    """The pixels of a JPEG, PNG or WebP; BadImage where it cannot be decoded whole.

    Those of a JPEG that fits into `scratch` lie in its memory, from the beginning on.
    """
    size = jpeg_size(data)
    if not size:
        return _decode_any(data)
    fits = scratch is not None and 3 * size[0] * size[1] <= scratch.size
    return decode_jpeg(data, scratch if fits else None)


def decode_jpeg(data: bytes, scratch: Pixels | None = None) -> Pixels:
    """The pixels of a JPEG that has a jpeg_size(), in the memory of `scratch` where that is given; they must fit."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=scratch)
    except ValueError:
        return _decode_any(data)  # it is strict about stray bytes between markers; Pillow decides


def _decode_any(data: bytes) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what we refuse or do not mind
        image = open_image(data)
        refuse_mode(image)
        return rgb(image)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that simplejpeg reads, from its header; None: Pillow has to look at it."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in _TURBO:
        return None
    refuse_size(width, height)
    return width, height


def open_image(data: bytes, formats: tuple[str, ...] = _OPENED) -> Image.Image:
    """The image with its header read and nothing decoded; BadImage for other formats, and for bombs."""
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Exception as error:  # whatever a damaged header provokes
        raise BadImage(f"cannot decode: {error}") from None
    refuse_size(*image.size)
    return image


def refuse_size(width: int, height: int) -> None:
    """BadImage for what would take too much memory."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise BadImage(f"{width}x{height} px: more than {MAX_PIXELS:,} pixels or none")


def refuse_mode(image: Image.Image) -> None:
    """BadImage for pixels that are not of 8 bits and of colours we know."""
    if image.mode not in MODES:
        raise BadImage(f"mode {image.mode}: convert it to 8-bit RGB first")


def rgb(image: Image.Image) -> Pixels:
    """The pixels of an image of usual mode."""
    try:
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever a damaged file provokes in a decoder
        raise BadImage(f"cannot decode: {error}") from None


def orientation(image: Image.Image) -> int:
    """How a picture lies by its EXIF: a key of UPRIGHT, or 1 as it should.

    A tiff is turned by Pillow as it is decoded, and lies as it should from then on.
    """
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not harm the pixels
        return 1


def pixel_hash(pixels: Pixels) -> bytes:
    """16 bytes that two images share exactly when all their pixels are the same.

    Of SHA-1, which processors compute: half the time of BLAKE2b. Pictures that somebody made to collide would count as
    copies, no more.
    """
    height, width, _ = pixels.shape
    hash_ = hashlib.sha1(struct.pack("<II", width, height), usedforsecurity=False)
    hash_.update(np.ascontiguousarray(pixels).data)
    return hash_.digest()[:16]


def grey_cells(pixels: Pixels) -> bytes:
    """The picture as 16x16 grey cells, a byte each: what its perceptual hash is made of."""
    height, width, _ = pixels.shape
    picture = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(pixels), "raw", "RGB", 0, 1)
    return picture.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()


def perceptual_hashes(cells: bytes) -> npt.NDArray[np.uint8]:
    """The perceptual hashes [N, 32] of N pictures, out of their grey cells one after another.

    Near copies of an image share most bits, whatever their size, contrast and coding: the cells without their mean,
    times a fixed random rotation (a Hadamard matrix with random signs), as signs. So the share of bits in which two
    hashes differ is about the angle between the pictures over pi, and a correlation of .985 is 14 of 256 bits (Charikar
    2002; duplicates.py measures it). Sums of integers below 2**24 are exact in float32: the bits are the same on every
    machine.
    """
    found, rotation = [np.empty((0, 32), np.uint8)], _rotation().T
    for start in range(0, len(cells), 256 * _AT_ONCE):
        grey = np.frombuffer(cells[start : start + 256 * _AT_ONCE], np.uint8).reshape(-1, 256).astype(np.float32)
        found.append(np.packbits((grey * 256 - grey.sum(1, keepdims=True)) @ rotation > 0, axis=1))
    return np.concatenate(found)


@functools.cache
def _rotation() -> npt.NDArray[np.float32]:
    """A 256x256 matrix of orthogonal rows of +1 and -1 in a random pattern, fixed for ever."""
    rows = np.ones((1, 1), np.float32)
    while len(rows) < 256:
        rows = np.block([[rows, rows], [rows, -rows]])  # Sylvester's construction
    signs = bits(np.full(1, key(256), np.uint64), 0, 256)[0] >> np.uint64(63)
    return rows * (1 - 2 * signs.astype(np.float32))
