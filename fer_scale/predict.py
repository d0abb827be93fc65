"""Photos to expressions, with an expression model from a folder or the Hub.

A model has seen faces cropped in one way, and a crop of another kind costs it 10 to 20 points; so the crop belongs to
the model. A photo is taken for such a crop as it is, unless a box of the face is given: then the photo is cut so that
the face comes to lie where it lay in training (`face_box` in the model's config). What sticks out repeats the border.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import nn

from fer_scale import encoder, hub, images
from shards.boxes import WHOLE, Box
from shards.errors import UserError

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels

_AT_ONCE = 64
_MOST_PIXELS = 200_000_000  # of a photo; 48 megapixel telephones exist
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class PredictError(UserError):
    """A model or a box that cannot be used."""


@dataclass(frozen=True, slots=True)
class Model:
    """An expression model, ready to be asked."""

    network: nn.Module
    names: list[str]
    px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    face_box: Box
    device: torch.device


def predict(
    address: str, photos: Iterable[Path], *, box: Rectangle | None = None, key: Path | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """{"image", "label", "confidence", "probabilities"} of each photo that can be read, and a line about each other.

    `box` is the face's x1, y1, x2, y2 in pixels of the upright photo; without one a photo is taken for a face crop.
    The model must be signed by the owner of the public key in `key`, if one is given.
    """
    model = load(address, key)
    found, problems = [], []
    photos = list(photos)
    for start in range(0, len(photos), _AT_ONCE):
        pictures, names = [], []
        for photo in photos[start : start + _AT_ONCE]:
            try:
                pictures.append(as_input(photo, model, box))
                names.append(str(photo))
            except PhotoError as error:
                problems.append(str(error))
        if pictures:
            found += [{"image": name} | said for name, said in zip(names, ask(model, np.stack(pictures)), strict=True)]
    return found, problems


def load(address: str, key: Path | None = None) -> Model:
    """The expression model at a folder or hf:// address, on a GPU where there is one."""
    pulled = hub.pull(address, key=key)
    network, config = encoder.load(pulled.folder)
    if not config.get("label_names"):
        raise PredictError(f"{address}: is an encoder without expressions; fine-tune it first (`fer-scale finetune`)")
    said = config["pretrained_cfg"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Model(
        network.to(device).eval(),
        config["label_names"],
        said["input_size"][-1],
        tuple(said["mean"]),
        tuple(said["std"]),
        tuple(config.get("fer_scale", {}).get("face_box", WHOLE)),
        device,
    )


@torch.no_grad()
def ask(model: Model, pictures: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What the model says to pictures [B, px, px, 3]."""
    tensor = torch.from_numpy(pictures).to(model.device).permute(0, 3, 1, 2).float() / 255
    logits = model.network(images.normalise(tensor, model.mean, model.std))
    rows = logits.double().softmax(dim=1).cpu().tolist()
    return [
        {
            "label": model.names[max(range(len(row)), key=row.__getitem__)],
            "confidence": max(row),
            "probabilities": dict(zip(model.names, row, strict=True)),
        }
        for row in rows
    ]


class PhotoError(UserError):
    """A file that is no photo we read."""


def as_input(photo: Path, model: Model, box: Rectangle | None) -> NDArray[np.uint8]:
    """The photo as the model's input, uint8 [px, px, 3]: upright, RGB, the face where the model expects it."""
    picture = _open(photo)
    if box is not None:
        picture, box = _around(picture, crop_for(box, model.face_box, picture.size))
    size = (model.px, model.px)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box))


def crop_for(face: Rectangle, face_box: Box, size: tuple[int, int]) -> Rectangle:
    """The cut (left, top, right, bottom) in pixels in which the box `face` lies at `face_box`; it may stick out."""
    x1, y1, x2, y2 = face
    if not (x1 < x2 and y1 < y2 and x2 > 0 and y2 > 0 and x1 < size[0] and y1 < size[1]):
        numbers = ",".join(f"{n:g}" for n in face)
        raise PredictError(
            f"box {numbers}: must be x1,y1,x2,y2 in pixels of the {size[0]}x{size[1]} photo, x1 < x2, y1 < y2"
        )
    width, height = (x2 - x1) / (face_box[2] - face_box[0]), (y2 - y1) / (face_box[3] - face_box[1])
    left, top = x1 - face_box[0] * width, y1 - face_box[1] * height
    return left, top, left + width, top + height


def _around(picture: Image.Image, cut: Rectangle) -> tuple[Image.Image, Rectangle]:
    """The part of the picture around a cut, its border repeated where the cut sticks out, and the cut in it."""
    left, top = int(np.floor(cut[0])), int(np.floor(cut[1]))
    right, bottom = int(np.ceil(cut[2])), int(np.ceil(cut[3]))
    inside = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
    margins = ((inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0))
    if (right - left) * (bottom - top) > _MOST_PIXELS:
        raise PredictError("box: the cut around it is larger than any photo; is the box in pixels?")
    padded = np.pad(np.asarray(picture.crop(inside)), margins, mode="edge")
    return Image.fromarray(padded), (cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top)


def _open(photo: Path) -> Image.Image:
    """The photo upright and in RGB; PhotoError says why it cannot be read."""
    try:
        with _large_photos(), Image.open(photo, formats=_FORMATS) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits a pixel
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) / 257).round().astype(np.uint8))
            return upright.convert("RGB")
    except FileNotFoundError:
        raise PhotoError(f"{photo}: no such file") from None
    except Exception as error:  # PIL raises nearly anything on damaged bytes
        raise PhotoError(f"{photo}: cannot be read as a picture ({type(error).__name__}: {error})") from None


@contextmanager
def _large_photos() -> Iterator[None]:
    """A limit for photos in place of PIL's, which shards/pixels.py sets for faces."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
