"""Where a detector sees faces in a picture, the extra `faces`: OpenCV's YuNet, one model file, known by its sha256.

In photos also the Haar cascade that lies in OpenCV's wheel; how photos are searched is in fer_scale/faces.py.

When a set is packed, a picture is laid on a black square of 256 px, its longer side as long as the square. YuNet sees
faces of some 10 to 300 px: those that fill their pictures have to be enlarged or reduced into that. Measured 2026-11-25
with OpenCV 4.14 on one core of a busy machine by tests/benchmarks/detector.py, every 40th of FERPlus' training pictures
(48 px) and every 20th of LFW (its centre 112 px); the median box is clipped to the picture:

    square and border      FERPlus    LFW      ms/picture   median box of FERPlus     of LFW
    as it is                77.5 %   100.0 %    1 / 3       .11 .05 .95 1.00          .09 .01 .94 1.00
    224 px                  98.6     100.0      6           .10 .03 .91 1.00          .09 .00 .93 1.00
    256 px                  98.3     100.0      8           .11 .02 .92 1.00          .09 .00 .93 1.00
    320 px                  95.9     100.0     11           .11 .02 .91 1.00          .09 .00 .91 1.00
    640 px                  65.7      98.6     40           .13 .07 .87  .91          .13 .07 .90  .96
    224 px, 10 % black      97.1     100.0      5           .09 .00 .92 1.00          .07 .00 .94 1.00
    320 px, 15 % black      97.5     100.0     11           .10 .02 .91 1.00          .09 .00 .92 1.00
    320 px, 25 % black      97.2     100.0     11           .10 .01 .91 1.00          .09 .00 .93 1.00
    320 px, 25 % replicated 95.5     100.0     11           .11 .00 .89 1.00          .09 .00 .91 1.00

A border helps where faces become too large, at 320 px, and 256 px without one find more for less; a reflected border
makes two faces of one in 2 % of FERPlus. 256 px instead of 224 are for smaller faces, by a trial
that the script does not repeat: of LFW's pictures at .1 of the side 69 % were found instead of 44, from .15 on all.
Other processors and versions of OpenCV may differ in a box's last digit.
"""

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.boxes import Box, box_from
from shards.errors import ShardError
from shards.pixels import Pixels

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

DETECTOR = "face_detection_yunet_2023mar"
HAAR = "haarcascade_frontalface_alt2"
FILE = f"{DETECTOR}.onnx"
ON_THE_HUB = "hf://opencv/face_detection_yunet"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

_LEAST_PX = 64  # of a side: for narrower pictures YuNet answers whatever lies in memory
_SQUARE_PX = 256
_SCORE, _OVERLAP = 0.6, 0.3  # a face has at least this score; of two that overlap more, the better one counts
_HAAR_STEP, _HAAR_NEIGHBOURS, _HAAR_LEAST_PX = 1.1, 3, 24  # of the pyramid; windows that must agree; a face's side

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True, slots=True)
class Seen:
    """A face: its box in pixels of the picture, which may stick out of it, and a score: the larger, the surer."""

    box: Rectangle
    score: float


class Detector:
    """YuNet, ready to look; a process makes it once, by detector_at(). Each thread needs one of its own."""

    name = DETECTOR

    def __init__(self, model: Path) -> None:
        need_opencv()
        way_out = f"give {FILE} of opencv_zoo, or say {ON_THE_HUB}"
        try:
            data = model.read_bytes()
        except OSError as error:
            raise ShardError(f"{model}: cannot be read ({error.strerror}); {way_out}") from None
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise ShardError(
                f"{model}: has other bytes ({len(data):,}) than the detector that is known here; {way_out}"
            )
        cv2.setNumThreads(1)  # packing has its processes
        weights, nothing = np.frombuffer(data, np.uint8), np.empty(0, np.uint8)
        self._size = (_SQUARE_PX, _SQUARE_PX)
        self._net = cv2.FaceDetectorYN.create("onnx", weights, nothing, self._size, _SCORE, _OVERLAP)

    def find(self, pixels: Pixels) -> tuple[Box | None, int]:
        """The face that the picture is of, the largest near the centre, and how many faces there are."""
        height, width, _ = pixels.shape
        scale = _SQUARE_PX / max(width, height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (_SQUARE_PX - w) // 2, (_SQUARE_PX - h) // 2
        square = np.zeros((_SQUARE_PX, _SQUARE_PX, 3), np.uint8)
        resized = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        square[top : top + h, left : left + w] = resized[:, :, ::-1]  # OpenCV's order is BGR
        found = [seen.box for seen in self._look(square)]
        corners = [(x1 - left, y1 - top, x2 - left, y2 - top) for x1, y1, x2, y2 in found]
        faces = [box for x1, y1, x2, y2 in corners if (box := _inside([x1 / w, y1 / h, x2 / w, y2 / h]))]
        return max(faces, key=_weight, default=None), len(faces)

    def see(self, pixels: Pixels) -> list[Seen]:
        """All faces of some 40 to 300 px in a picture, as it is."""
        return self._look(np.ascontiguousarray(pixels[:, :, ::-1]))

    def _look(self, picture: Pixels) -> list[Seen]:
        """The faces in a picture whose colours are in OpenCV's order."""
        missing = [(0, max(0, _LEAST_PX - side)) for side in picture.shape[:2]]
        picture = np.pad(picture, [*missing, (0, 0)]) if any(more for _, more in missing) else picture
        size = (picture.shape[1], picture.shape[0])
        if size != self._size:
            self._net.setInputSize(size)
            self._size = size
        _, rows = self._net.detect(picture)
        found = () if rows is None else rows.tolist()
        return [Seen((x, y, x + dx, y + dy), row[-1]) for x, y, dx, dy, *row in found if math.isfinite(x + y + dx + dy)]


class Haar:
    """The cascade of Haar features in OpenCV's wheel (Viola and Jones 2001): frontal faces, and no file to fetch."""

    name = HAAR

    def __init__(self) -> None:
        need_opencv()
        cv2.setNumThreads(1)
        self._cascade = cv2.CascadeClassifier(f"{Path(cv2.__file__).parent / 'data' / HAAR}.xml")

    def see(self, pixels: Pixels) -> list[Seen]:
        """All faces of 24 px or more in a picture, as it is."""
        grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
        boxes, _, scores = self._cascade.detectMultiScale3(
            grey, _HAAR_STEP, _HAAR_NEIGHBOURS, minSize=(_HAAR_LEAST_PX, _HAAR_LEAST_PX), outputRejectLevels=True
        )
        found = zip(np.reshape(boxes, (-1, 4)).tolist(), np.ravel(scores).tolist(), strict=True)
        return [Seen((x, y, x + dx, y + dy), score) for (x, y, dx, dy), score in found]


def has_opencv() -> bool:
    """Whether there can be any detector here."""
    return cv2 is not None


def need_opencv() -> None:
    """ShardError where there can be none."""
    if not has_opencv():
        raise ShardError("the detector of faces needs OpenCV: pip install 'fer_scale[faces]'")


def reduced(pixels: Pixels, longer_px: int) -> Pixels:
    """The picture with a longer side of so many pixels."""
    height, width, _ = pixels.shape
    scale = longer_px / max(width, height)
    if scale == 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _resized(pixels, size)


def surroundings(pixels: Pixels, left: int, top: int, side: int, px: int) -> Pixels:
    """A square of `side` pixels of a picture as one of px, its border repeated where the square sticks out."""
    height, width, _ = pixels.shape
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    scale = px / side
    inside = [round((edge - start) * scale) for edge, start in ((x1, left), (y1, top), (x2, left), (y2, top))]
    size = (max(1, inside[2] - inside[0]), max(1, inside[3] - inside[1]))
    x, y = min(inside[0], px - size[0]), min(inside[1], px - size[1])
    return np.pad(
        _resized(pixels[y1:y2, x1:x2], size), ((y, px - y - size[1]), (x, px - x - size[0]), (0, 0)), mode="edge"
    )


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    how = cv2.INTER_LINEAR if size[0] > pixels.shape[1] else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)


@functools.cache
def detector_at(model: Path) -> Detector:
    """The detector of this process; ShardError where there can be none."""
    return Detector(model)


def _inside(numbers: list[float]) -> Box | None:
    """What of a box lies in the picture; None: nothing."""
    try:
        return box_from([round(min(max(n, 0.0), 1.0), 4) for n in numbers])
    except ValueError:
        return None


def _weight(box: Box) -> float:
    """A face's share of the picture, of which half counts half-way from the centre to a corner, and nothing there."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) * (1 - math.hypot(x1 + x2 - 1, y1 + y2 - 1) / math.sqrt(2))
