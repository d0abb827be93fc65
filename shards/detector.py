"""Where a detector sees faces in a picture: OpenCV's YuNet, the extra `faces`. One model file, known by its sha256.

A picture is laid on a black square of 256 px, its longer side as long as the square. YuNet sees faces of some 10 to
300 px: those that fill their pictures have to be enlarged or reduced into that. Measured 2026-11-25 with OpenCV 4.14
on one core of a busy machine by tests/benchmarks/detector.py, every 40th of FERPlus' training pictures (48 px) and
every 20th of LFW (its centre 112 px); the median box is clipped to the picture:

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
FILE = f"{DETECTOR}.onnx"
ON_THE_HUB = "hf://opencv/face_detection_yunet"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

_SQUARE_PX = 256
_SCORE, _OVERLAP = 0.6, 0.3  # a face has at least this score; of two that overlap more, the better one counts


class Detector:
    """YuNet, ready to look; a process makes it once, by detector_at()."""

    def __init__(self, model: Path) -> None:
        if cv2 is None:
            raise ShardError("the detector of faces needs OpenCV: pip install 'fer_scale[faces]'")
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
        self._net = cv2.FaceDetectorYN.create("onnx", weights, nothing, (_SQUARE_PX, _SQUARE_PX), _SCORE, _OVERLAP)

    def find(self, pixels: Pixels) -> tuple[Box | None, int]:
        """The face that the picture is of, the largest near the centre, and how many faces there are."""
        height, width, _ = pixels.shape
        scale = _SQUARE_PX / max(width, height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (_SQUARE_PX - w) // 2, (_SQUARE_PX - h) // 2
        square = np.zeros((_SQUARE_PX, _SQUARE_PX, 3), np.uint8)
        resized = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        square[top : top + h, left : left + w] = resized[:, :, ::-1]  # OpenCV's order is BGR
        _, rows = self._net.detect(square)
        found = () if rows is None else rows[:, :4].tolist()
        corners = [(x - left, y - top, x - left + dx, y - top + dy) for x, y, dx, dy in found]
        faces = [box for x1, y1, x2, y2 in corners if (box := _inside([x1 / w, y1 / h, x2 / w, y2 / h]))]
        return max(faces, key=_weight, default=None), len(faces)


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
