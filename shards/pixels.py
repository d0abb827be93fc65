"""Image files into pixels, and what can be told from them. Decodes; never crops, resizes or trains.

What is refused here is what training should not meet. The list is short on purpose, and every refusal says
what to do; turning other formats into JPEG while packing is for later.
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

MAX_PIXELS = 64_000_000  # 192 MB when decoded; a face crop has some ten thousand
MAX_FILE_BYTES = 256 << 20
_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_OTHERS = {b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff", b"P5": "pgm", b"P6": "ppm"}


class BadImage(ValueError):
    """Bytes that are no image we train on; the text is the reason, without the file's name."""


def decode(data: bytes) -> Pixels:
    """The pixels of a JPEG, PNG or WebP; BadImage where it cannot be decoded whole."""
    return inspect(data)[1]


def inspect(data: bytes) -> tuple[str, Pixels]:
    """The extension that fits the bytes (whatever the file was called), and the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what we refuse or do not mind (EXIF)
        image = _open(data)
        extension = _FORMATS[image.format or ""]
        _refuse(image)
        if extension == "jpg" and image.mode in ("RGB", "L"):
            try:
                return extension, simplejpeg.decode_jpeg(data, colorspace="RGB")
            except ValueError:
                pass  # it is strict about stray bytes between markers; Pillow decides
        try:
            return extension, np.asarray(image.convert("RGB"))
        except Exception as error:  # whatever a damaged file provokes in a decoder
            raise BadImage(f"cannot decode: {error}") from None


def _open(data: bytes) -> "Image.Image":
    """The image with its header read and nothing decoded."""
    if not data:
        raise BadImage("empty file")
    try:
        return Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"])
    except Exception as error:
        for magic, name in _OTHERS.items():
            if data.startswith(magic):
                raise BadImage(f"a {name}: convert it to png first") from None
        if data[4:8] == b"ftyp":
            raise BadImage("an avif or heic: convert it to jpg first") from None
        unknown = isinstance(error, UnidentifiedImageError)
        raise BadImage("not an image" if unknown else f"cannot decode: {error}") from None


def _refuse(image: "Image.Image") -> None:
    """BadImage for what decodes, but not to the picture of a face that one sees."""
    width, height = image.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise BadImage(f"{width}x{height} px: more than {MAX_PIXELS:,} pixels or none")
    if image.mode not in ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK"):
        raise BadImage(f"mode {image.mode}: convert it to 8-bit RGB first")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise BadImage(f"animated, {getattr(image, 'n_frames', 1)} frames: pick one first")
    if _orientation(image) not in (0, 1):
        raise BadImage("EXIF says rotated: rotate the pixels first (exiftran, jpegtran)")


def _orientation(image: "Image.Image") -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not harm the pixels
        return 1


def pixel_hash(pixels: Pixels) -> bytes:
    """16 bytes that two images share exactly when all their pixels are the same."""
    height, width, _ = pixels.shape
    return hashlib.blake2b(
        struct.pack("<II", width, height) + np.ascontiguousarray(pixels).tobytes(), digest_size=16
    ).digest()


def perceptual_hash(pixels: Pixels) -> bytes:
    """32 bytes of which near copies of an image share most bits, whatever their size, contrast and coding.

    The picture as 16x16 grey cells without their mean, times a fixed random rotation (a Hadamard matrix with
    random signs), as signs. So the share of bits in which two hashes differ is about the angle between the
    pictures over pi, and a correlation of .985 is 14 of 256 bits (Charikar 2002; duplicates.py measures it).
    Sums of integers below 2**24 are exact in float32: the bits are the same on every machine.
    """
    cells = Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX)
    grey = np.asarray(cells, np.float32).ravel()
    return np.packbits(_rotation() @ (grey * 256 - grey.sum()) > 0).tobytes()


@functools.cache
def _rotation() -> npt.NDArray[np.float32]:
    """A 256x256 matrix of orthogonal rows of +1 and -1 in a random pattern, fixed for ever."""
    rows = np.ones((1, 1), np.float32)
    while len(rows) < 256:
        rows = np.block([[rows, rows], [rows, -rows]])  # Sylvester's construction
    signs = bits(np.full(1, key(256), np.uint64), 0, 256)[0] >> np.uint64(63)
    return rows * (1 - 2 * signs.astype(np.float32))
