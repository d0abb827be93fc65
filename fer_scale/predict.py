"""Photos to expressions, with an expression model from a folder or the Hub.

A model has seen faces cropped in one way, and a crop of another kind costs it 10 to 20 points; so the crop belongs to
the model (cuts.py). Pictures that are such crops themselves are said to be so: faces="whole".
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from fer_scale import encoder, faces, hub, images, photos
from fer_scale.cuts import Cut, PredictError, check_box, cut_out
from fer_scale.photos import PhotoError, Picture, Pixels
from fer_scale.predicted import Face, Photo
from shards.boxes import WHOLE
from shards.detector import Rectangle, Seen

Faces = Literal["all", "largest", "whole"]

_AT_ONCE = 64  # faces that pass through the network together
_PIXELS_AT_ONCE = 40_000_000  # of photos that were looked at before their faces pass, so that answers keep coming


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
            check_box(box)
        return self._stream(pictures, box, min_confidence)

    def _stream(self, pictures: Iterable[Picture], box: Rectangle | None, min_confidence: float) -> Iterator[Photo]:
        waiting: list[Cut] = []
        for cut in self._cuts(pictures, box):
            waiting.append(cut)
            if _is_enough(waiting):
                yield from self._answers(waiting, min_confidence)
                waiting = []
        yield from self._answers(waiting, min_confidence)

    def _cuts(self, pictures: Iterable[Picture], box: Rectangle | None) -> Iterator[Cut]:
        """The faces of the photos in their order, cut out by threads while the network works."""
        named = ((_name(picture, number), _as_it_is(picture)) for number, picture in enumerate(pictures))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cores == 1:
            yield from (self._cut(name, picture, box) for name, picture in named)
            return
        threads = min(cores, 16)
        pool = ThreadPoolExecutor(threads)
        try:
            ahead: deque[Future[Cut]] = deque()
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

    def _cut(self, name: str, picture: Picture, box: Rectangle | None) -> Cut:
        return cut_out(
            name, picture, self.px, self.finder, self.place,
            largest=self.largest, crop_pct=self.crop_pct, box=box, face_box=self.face_box,
        )  # fmt: skip

    def _answers(self, cuts: Sequence[Cut], min_confidence: float) -> Iterator[Photo]:
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
    if which == "whole" and detector:
        raise PredictError(f"detector {detector}: where faces are whole none are looked for; leave it out")
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


def _is_enough(waiting: Sequence[Cut]) -> bool:
    """Whether these are to pass through the network; a function of the photos alone, so that answers are, too."""
    if len(waiting) >= 4 * _AT_ONCE:  # without faces, or unreadable
        return True
    pixels = sum(cut.size[0] * cut.size[1] for cut in waiting)
    return sum(len(cut.crops) for cut in waiting) >= _AT_ONCE or pixels >= _PIXELS_AT_ONCE


def _is_one(pictures: object) -> bool:
    """Whether this is a photo itself, which would be taken for its letters or rows."""
    return isinstance(pictures, str | Path | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim <= 3)


def _as_it_is(picture: Picture) -> Picture:
    """A picture in memory with its pixels of this moment: a film's or camera's next frame may take their place."""
    if isinstance(picture, str | Path):
        return picture
    try:
        pixels = photos.upright(picture)
    except PhotoError:
        return picture  # what is wrong with it will be said of it
    return pixels.copy() if pixels is picture else pixels


def _name(picture: Picture, number: int) -> str:
    return str(picture) if isinstance(picture, str | Path) else f"photo {number}"
