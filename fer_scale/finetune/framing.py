"""The part of a picture around its face that a tightly cropped picture of it would show.

    augment.crop_of = "picture"    crops are drawn in the whole picture, however loosely it was cropped
    augment.crop_of = "face"       in the frame: the face's box, widened so that it lies in the frame as the template of
                                   its set lies in a picture, and cut where the picture ends

A picture whose face lies where the template says, or fills it, is its own frame. So pictures that were cropped in other
ways give one framing, and what follows (crops, boxes, evaluation) sees nothing of it.

Boxes and frames are (x1, y1, x2, y2) in shares of the picture, from its upper left corner.
"""

import numpy as np
from numpy.typing import NDArray

from fer_scale.loader import Faces
from shards.boxes import WHOLE, Box
from shards.pixels import decode
from shards.sample import Sample

Boxes = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def frames(boxes_N4: Boxes, template: Box) -> NDArray[np.float64]:
    """The frames [N, 4] of faces with these boxes."""
    boxes, place = boxes_N4.astype(np.float64), np.array(template, np.float64)
    side_N2 = (boxes[:, 2:] - boxes[:, :2]) / (place[2:] - place[:2])
    low_N2 = boxes[:, :2] - side_N2 * place[:2]
    found = np.concatenate([low_N2, low_N2 + side_N2], 1).round(6)  # what is whole but for rounding is whole
    return found.clip(0, 1)


def within(boxes_N4: Boxes, frames_N4: NDArray[np.float64]) -> Boxes:
    """The boxes in shares of their frames."""
    low, side = np.tile(frames_N4[:, :2], 2), np.tile(frames_N4[:, 2:] - frames_N4[:, :2], 2)
    return ((boxes_N4 - low) / side.clip(1e-6)).clip(0, 1).astype(np.float32)


def cut(image: Pixels, frame: NDArray[np.float64]) -> Pixels:
    """The part of an image [height, width, 3] in its frame, a pixel at least."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.rint(frame * (width, height, width, height)).astype(int).tolist()
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


class FramedFaces(Faces):
    """Faces of one set whose pictures are cut to their frames before they are reduced."""

    def decoded(self, sample: Sample, scratch: Pixels | None) -> Pixels:
        template: Box = tuple(self.sets[0].index["template_box"])
        box = (sample.face and sample.face.box) or template
        [frame] = frames(np.array([box], np.float32), template)
        if (frame == WHOLE).all():
            return decode(sample.image, scratch)
        return cut(decode(sample.image), frame)
