"""An image file as it will lie in a set: its own bytes wherever they can stay, else encoded anew, which is said.

    the source has                     without more           with transcode
    jpg, png                           its bytes              its bytes
    webp                               its bytes              png where it is lossless, else jpg
    bmp, tiff, gif, pgm, ppm           left out               png (the first frame; a tiff of jpegs: jpg)
    avif                               left out               jpg
    16 bits a channel in grey          left out               the upper 8 of them
    16 bits a channel in colour        its bytes              the upper 8 of them
    an animated png or webp            left out               its first frame
    CMYK in a jpg                      its bytes              jpg
    EXIF that says turned or mirrored  turned; jpg stays jpg, all else becomes png
    a longer side above max_px         reduced with an antialiased cubic, as the reader reduces; jpg

A jpg made here has quality 95 and all its colours (4:4:4). What is made has no EXIF and no colour profile,
which the reader would not heed either. Boxes are shares of the picture as one sees it, upright, so they stay.
"""

import errno
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.errors import PASSING, Broken
from shards.pixels import (
    FORMATS,
    MAX_FILE_BYTES,
    UPRIGHT,
    BadImage,
    Pixels,
    decode,
    decode_jpeg,
    jpeg_size,
    open_image,
    orientation,
    refuse_mode,
)
from shards.sources.listing import Entry

_OPENED = ("JPEG", "PNG", "WEBP")
_OTHERS = {
    b"GIF8": ("GIF", "gif"),
    b"BM": ("BMP", "bmp"),
    b"II*\0": ("TIFF", "tiff"),
    b"MM\0*": ("TIFF", "tiff"),
    b"P4": ("PPM", "pbm"),
    b"P5": ("PPM", "pgm"),
    b"P6": ("PPM", "ppm"),
}
_MORE_MODES = ("RGBX", "YCbCr", "PA", "I;16", "I;16L", "I;16B", "I;16N")
UNREADABLE = "cannot read"  # how the reason of a file begins that may be readable another time
_PASSING = (*PASSING, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # it is not this one file's fault, and may pass
_PAUSES_S = (0.5, 1, 2, 4)
_BYTES_PX = 2  # faces of 32 to 112 px take 0.5 to 1.4 bytes a pixel as jpg of quality 95, 1.5 to 2.3 as png (LFW)
_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be done to images on their way into a set."""

    transcode: bool = False  # formats that training should not meet become png or jpg
    max_px: int | None = None  # of the longer side
    decode_check: bool = True  # without it headers are read, and what is encoded anew is decoded, but no more

    @property
    def most_bytes(self) -> int | None:
        """What an image takes at most, nearly; None: as much as in its source."""
        return None if self.max_px is None else 1024 + _BYTES_PX * self.max_px**2


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image that can be packed."""

    data: bytes
    extension: str  # one of sample.EXTENSIONS
    size: tuple[int, int]  # width, height
    pixels: Pixels | None  # None without the decode check
    made: str | None = None  # what was done to it: "rotated, jpg"; None: the bytes are the source's


def load(entry: Entry, rules: Rules) -> Prepared:
    """An entry's image; BadImage where it is none for us, Broken where the disk fails."""
    if entry.size_bytes > MAX_FILE_BYTES:
        raise BadImage(f"a file of {entry.size_bytes:,} bytes is too large for an image of a face")
    return prepare(read(entry), rules)


def read(entry: Entry) -> bytes:
    """An entry's bytes; BadImage where they cannot be had, Broken where the disk fails for longer than some seconds.

    A network disk that stumbles must cost no image: the set would be another one than on a better day.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            return entry.read()
        except EOFError as error:
            raise BadImage(f"{UNREADABLE}: {error}") from None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno not in _PASSING:
                raise BadImage(f"{UNREADABLE}: {why}") from None
        if pause_s is not None:
            time.sleep(pause_s)
    raise Broken(
        f"{entry.origin}: {UNREADABLE}: {why}, for {sum(_PAUSES_S)} s; look after the disk or its network and run the "
        "same command again, what is finished is kept. If it is this file for good, take it out of the source"
    )


def is_readable(entry: Entry) -> bool:
    """Whether an entry can be read, now."""
    try:
        read(entry)
    except BadImage:
        return False
    return True


def prepare(data: bytes, rules: Rules) -> Prepared:
    """The image as it will lie in the set, named by its bytes whatever the file was called."""
    size = None if b"Exif\0\0" in data or b"Orientation" in data else jpeg_size(data)
    if size and not _too_large(size, rules):  # nearly every image, and quick
        return _kept(data, "jpg", size, rules, decode_jpeg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what we refuse or do not mind (EXIF)
        image, kind = _open(data, rules)
        _refuse(image, rules)
        made = _changes(image, kind, data, rules)
        if not made:
            return _kept(data, FORMATS[image.format or ""], image.size, rules, decode)
        as_jpg = "reduced" in made or _was_lossy(image, data, rules)
        picture = _picture(image, rules)
    new, extension = _encode(picture, as_jpg)
    pixels = decode(new) if rules.decode_check else None
    return Prepared(new, extension, picture.size, pixels, ", ".join([*made, extension]))


def _open(data: bytes, rules: Rules) -> tuple[Image.Image, str]:
    """An image with its header read, and what we call its format; BadImage for those that the rules leave out."""
    for magic, (opened_as, name) in _OTHERS.items():
        if data.startswith(magic):
            if not rules.transcode:
                raise BadImage(f"a {name}: pack with --transcode, or convert it to png first")
            return open_image(data, (opened_as,)), name
    if data[4:8] != b"ftyp":
        image = open_image(data, _OPENED)
        return image, FORMATS[image.format or ""]
    if not rules.transcode:
        raise BadImage("an avif or heic: pack with --transcode (avif only), or convert it to jpg first")
    try:
        return open_image(data, ("AVIF",)), "avif"
    except BadImage as error:
        raise BadImage(f"an avif or heic that Pillow does not read ({error}): convert it to jpg first") from None


def _refuse(image: Image.Image, rules: Rules) -> None:
    """BadImage for what decodes, but not to the picture of a face that one sees."""
    if rules.transcode:
        sixteen_bits = image.mode == "I" and image.format == "PPM"  # other images of mode I may have any range
        if image.mode not in _MORE_MODES and not sixteen_bits:
            refuse_mode(image)
        return
    if image.mode in _MORE_MODES:
        raise BadImage(f"mode {image.mode}: pack with --transcode, or convert it to 8-bit RGB first")
    refuse_mode(image)
    if _frames(image) > 1:
        raise BadImage(f"animated, {_frames(image)} frames: pack with --transcode for the first, or pick one")


def _frames(image: Image.Image) -> int:
    """How many frames a png or webp has, which their headers say."""
    return getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1


def _changes(image: Image.Image, kind: str, data: bytes, rules: Rules) -> list[str]:
    """What has to be done to an image, in words; empty where its bytes can stay."""
    made = []
    if rules.transcode:
        if image.mode == "CMYK":
            made.append(f"from cmyk {kind}")
        elif _sixteen_bits(image, data):
            made.append(f"from 16-bit {kind}")
        elif _frames(image) > 1:
            made.append(f"from animated {kind}")
        elif kind not in ("jpg", "png"):
            made.append(f"from {kind}")
    if orientation(image) in UPRIGHT:
        made.append("rotated")
    if _too_large(image.size, rules):
        made.append("reduced")
    return made


def _too_large(size: tuple[int, int], rules: Rules) -> bool:
    return rules.max_px is not None and max(size) > rules.max_px


def _sixteen_bits(image: Image.Image, data: bytes) -> bool:
    """Whether an image has 16 bits a channel; of a png in colour Pillow hands out the upper 8 and does not say so."""
    return image.mode.startswith("I") or (image.format == "PNG" and data[24] == 16)


def _was_lossy(image: Image.Image, data: bytes, rules: Rules) -> bool:
    """Whether a source's own coding has lost something already, so that a jpg may lose a little more."""
    if image.format == "WEBP":
        return rules.transcode and _lossy_webp(data)
    if image.format == "TIFF":
        return image.info.get("compression") in ("jpeg", "tiff_jpeg")
    return image.format in ("JPEG", "MPO", "AVIF")


def _lossy_webp(data: bytes) -> bool:
    """Whether the first frame of a webp is coded as "VP8 ", not as "VP8L"."""
    place = 12
    while place + 8 <= len(data):
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        place += 24 if name == b"ANMF" else 8 + length + length % 2  # a frame's chunks lie inside of it
    return False


def _picture(image: Image.Image, rules: Rules) -> Image.Image:
    """The upright image of 8 bits, grey or RGB, no larger than it may be."""
    try:
        image.load()  # by which Pillow turns a tiff
        if (turn := orientation(image)) in UPRIGHT:
            image = image.transpose(UPRIGHT[turn])
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("L" if image.mode in ("L", "LA", "1") else "RGB")
        if _too_large(image.size, rules) and rules.max_px:
            scale = rules.max_px / max(image.size)
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    except Exception as error:  # whatever a damaged file provokes in a decoder
        raise BadImage(f"cannot decode: {error}") from None
    image.info.clear()  # Pillow would write the profile and the comment of the source
    return image


def _encode(picture: Image.Image, as_jpg: bool) -> tuple[bytes, str]:
    """The bytes of an image file without loss, or with hardly any, and their extension."""
    file = io.BytesIO()
    if as_jpg:
        picture.save(file, "JPEG", quality=95, subsampling="4:4:4")
        return file.getvalue(), "jpg"
    picture.save(file, "PNG")
    return file.getvalue(), "png"


def _kept(
    data: bytes, extension: str, size: tuple[int, int], rules: Rules, decoder: Callable[[bytes], Pixels]
) -> Prepared:
    """An image whose bytes stay; BadImage where it is not whole.

    Without the decode check only what does not end as it should is decoded, to see whether it was cut short.
    """
    if rules.decode_check:
        return Prepared(data, extension, size, decoder(data))
    if extension == "webp":
        ends = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    else:
        ends = data.rstrip(b"\0").endswith(_ENDS[extension])
    if not ends:
        decode(data)
    return Prepared(data, extension, size, None)
