"""Photos to expressions, with an expression model from a folder or the Hub.

A model has seen faces cropped in one way, and a crop of another kind costs it 10 to 20 points; so the crop belongs to
the model. In a photo the faces are found (faces.py), and each is cut out so that its box comes to lie where that
detector's boxes lay in training. What sticks out repeats the border. Pictures that are such crops themselves are said
to be so: faces="whole".
"""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fer_scale import encoder, faces, hub, images, photos
from fer_scale.photos import PhotoError, Picture, Pixels
from fer_scale.predicted import Face, Photo
from shards.boxes import WHOLE
from shards.detector import Rectangle, Seen
from shards.errors import UserError

Faces = Literal["all", "largest", "whole"]

# The cut's side where a face's place is not known but found: some are then cut too wide, some too narrow, and too wide
# costs more. Of 799 FERPlus faces, list `valid`, a ViT with 1,064 labels and crop_pct 0.95, of 64 / 120 / 300 px:
# cut 0.85 of the width of training, as by this and crop_pct, are right by YuNet 72.2 / 67.8 / 69.3 %, cut 0.95 of it
# 71.1 / 67.9 / 68.1; by Haar (64 / 120 px) 69.5 / 68.9 against 67.9 / 67.7. About a point, then; 25 % too wide costs
# 8 to 11 (tests/benchmarks/photos.py agreement, 2026-11-27).
NARROWER = 0.9
_AT_ONCE = 64  # faces that pass through the network together
_PIXELS_AT_ONCE = 40_000_000  # of photos that were looked at before their faces pass, so that answers keep coming


class PredictError(UserError):
    """A model or a box that cannot be used."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A photo's faces, ready for the network."""

    name: str
    size: tuple[int, int] = (0, 0)
    seen: tuple[Seen, ...] = ()
    crops: tuple[Pixels, ...] = ()
    found: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """An expression model, ready to be asked by any number of threads."""

    network: nn.Module
    names: list[str]
    px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float  # the middle share of a training crop's sides that it is shown
    face_box: faces.Place  # where the faces' boxes lay in the training crops
    place: faces.Place  # where the detector's boxes would have lain
    finder: faces.Finder | None  # None: photos are face crops
    largest: bool
    device: torch.device

    def predict(
        self, pictures: Iterable[Picture], *, box: Rectangle | None = None, min_confidence: float = 0.0
    ) -> list[Photo]:
        """What is seen in each of the photos, in their order.

        A photo is a file, a PIL image, or uint8 [height, width, 3] in RGB. `box`: the face in each of them, as x1, y1,
        x2, y2 in pixels of the upright photo. A face of which the model is less sure than `min_confidence` gets no
        label. A photo that cannot be read, in which no face is found, or beside which the box lies, has a `problem`.
        """
        return list(self.stream(pictures, box=box, min_confidence=min_confidence))

    def stream(
        self, pictures: Iterable[Picture], *, box: Rectangle | None = None, min_confidence: float = 0.0
    ) -> Iterator[Photo]:
        """The same while photos are still being given; what can be said of the arguments is said at once.

        Up to some 128 photos are read ahead, and 64 faces pass through the network together: to answer each photo
        before the next is there, as of a camera, ask predict([photo]).
        """
        if not 0 <= min_confidence <= 1:
            raise PredictError(f"min_confidence {min_confidence:g}: must be a probability, from 0 to 1")
        if _is_one(pictures):
            raise PredictError("pictures: is one photo; give a list, as [photo]")
        if box is not None:
            _check(box)
        return self._stream(pictures, box, min_confidence)

    def _stream(self, pictures: Iterable[Picture], box: Rectangle | None, min_confidence: float) -> Iterator[Photo]:
        waiting: list[_Cut] = []
        for cut in self._cuts(pictures, box):
            waiting.append(cut)
            if _is_enough(waiting):
                yield from self._answers(waiting, min_confidence)
                waiting = []
        yield from self._answers(waiting, min_confidence)

    def _cuts(self, pictures: Iterable[Picture], box: Rectangle | None) -> Iterator[_Cut]:
        """The faces of the photos in their order, cut out by threads while the network works."""
        named = ((_name(picture, number), picture) for number, picture in enumerate(pictures))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cores == 1:
            yield from (self._cut(name, picture, box) for name, picture in named)
            return
        threads = min(cores, 16)
        pool = ThreadPoolExecutor(threads)
        try:
            ahead: deque[Future[_Cut]] = deque()
            for name, picture in named:
                ahead.append(pool.submit(self._cut, name, picture, box))
                # Files wait where they are, pictures in memory.
                most = 2 * (_AT_ONCE if isinstance(picture, str | Path) else threads)
                while len(ahead) > most:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # nobody waits for photos that nobody asks for any more
            pool.shutdown(cancel_futures=True)

    def _cut(self, name: str, picture: Picture, box: Rectangle | None) -> _Cut:
        try:
            pixels = photos.upright(picture)
        except PhotoError as error:
            return _Cut(name, problem=str(error))
        (height, width, _), found = pixels.shape, 1
        try:
            if box is not None:
                seen, cuts = [Seen(box, 0)], [crop_for(box, self.face_box, (width, height))]
            elif self.finder is None:
                seen, cuts = [Seen((0, 0, width, height), 0)], [(0, 0, width, height)]
            else:
                seen, found = self.finder.find(pixels, largest=self.largest)
                cuts = [around(face.box, self.place) for face in seen]
            crops = tuple(as_input(pixels, self.px, middle(cut, self.crop_pct)) for cut in cuts)
        except PredictError as error:
            return _Cut(name, (width, height), found=found, problem=f"{name}: {error}")
        problem = None if seen else faces.no_face(name)
        return _Cut(name, (width, height), tuple(seen), crops, found, problem)

    def _answers(self, cuts: Sequence[_Cut], min_confidence: float) -> Iterator[Photo]:
        crops = [crop for cut in cuts for crop in cut.crops]
        rows = [row for start in range(0, len(crops), _AT_ONCE) for row in self.ask(crops[start : start + _AT_ONCE])]
        at = 0
        for cut in cuts:
            said = zip(cut.seen, rows[at : at + len(cut.crops)], strict=True)
            at += len(cut.crops)
            found = tuple(self._face(seen, row, min_confidence) for seen, row in said)
            yield Photo(cut.name, cut.size, found, cut.found, cut.problem)

    def _face(self, seen: Seen, row: list[float], min_confidence: float) -> Face:
        confidence = max(row)
        label = self.names[row.index(confidence)] if confidence >= min_confidence else None
        return Face(seen.box, seen.score or None, label, confidence, dict(zip(self.names, row, strict=True)))

    @torch.inference_mode()
    def ask(self, crops: Sequence[Pixels]) -> list[list[float]]:
        """The probabilities of each class for crops [px, px, 3]."""
        tensor = torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).float() / 255
        logits = self.network(images.normalise(tensor, self.mean, self.std))
        if not logits.isfinite().all():
            raise PredictError("the model answers with what is no number: its weights are broken; get or make it again")
        return logits.double().softmax(dim=1).cpu().tolist()


def load(
    model: str | Path,
    *,
    faces: Faces = "largest",
    device: str = "auto",
    key: Path | None = None,
    detector: str | Path | None = None,
) -> Model:
    """The expression model in a folder or at an hf:// address.

    `faces`: all that are found in a photo, the largest, or "whole" where pictures are face crops. `detector`: YuNet's
    model file or its address, hf://opencv/face_detection_yunet; "haar"; None chooses (faces.finder). `device`: "auto"
    is a GPU where there is one. The model must be signed by the owner of the public key in `key`, if one is given.
    """
    return _load(str(model), faces, device, key, detector)


def _load(address: str, which: str, device: str, key: Path | None, detector: str | Path | None) -> Model:
    if which not in ("all", "largest", "whole"):
        raise PredictError(f"faces {which!r}: unknown; say all, largest or whole")
    finder = None if which == "whole" else faces.finder(detector, remote=hub.is_remote(address))
    pulled = hub.pull(address, key=key)
    network, config = encoder.load(pulled.folder)
    if not config.get("label_names"):
        raise PredictError(f"{address}: is an encoder without expressions; fine-tune it first (`fer-scale finetune`)")
    said, block = config["pretrained_cfg"], config.get("fer_scale", {})
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    face_box = tuple(block.get("face_box", WHOLE))
    return Model(
        network.to(device).eval(),
        config["label_names"],
        said["input_size"][-1],
        tuple(said["mean"]),
        tuple(said["std"]),
        said.get("crop_pct", 1.0),
        face_box,
        faces.place_of(finder.name, block) if finder else face_box,
        finder,
        which == "largest",
        torch.device(device),
    )


def _is_enough(waiting: Sequence[_Cut]) -> bool:
    """Whether these are to pass through the network; a function of the photos alone, so that answers are, too."""
    if len(waiting) >= 4 * _AT_ONCE:  # without faces, or unreadable
        return True
    pixels = sum(cut.size[0] * cut.size[1] for cut in waiting)
    return sum(len(cut.crops) for cut in waiting) >= _AT_ONCE or pixels >= _PIXELS_AT_ONCE


def _is_one(pictures: object) -> bool:
    """Whether this is a photo itself, which would be taken for its letters or rows."""
    return isinstance(pictures, str | Path | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim <= 3)


def _name(picture: Picture, number: int) -> str:
    return str(picture) if isinstance(picture, str | Path) else f"photo {number}"


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
    _check(face)
    x1, y1, x2, y2 = face
    if x2 <= 0 or y2 <= 0 or x1 >= size[0] or y1 >= size[1]:
        raise PredictError(f"box {_numbers(face)}: lies outside of the {size[0]}x{size[1]} photo")
    width, height = (x2 - x1) / (face_box[2] - face_box[0]), (y2 - y1) / (face_box[3] - face_box[1])
    left, top = x1 - face_box[0] * width, y1 - face_box[1] * height
    return left, top, left + width, top + height


def _check(box: Rectangle) -> None:
    """PredictError where a box is none in any photo."""
    x1, y1, x2, y2 = box
    # Of shares of the sides none is above 1.
    if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, box))) or max(box) <= 1:
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
