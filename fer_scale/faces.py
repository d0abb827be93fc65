"""Where the faces are in a photo, and where a detector's box lies in the crops that a model has learned from.

A box depends on the detector, and on what that sees around the face. So a photo is searched at several sizes, and each
face found is looked at once more, always in one way: in the middle of a square of twice its side. Training crops are
looked at in just that way, their border repeated where the picture ends.
"""

import functools
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fer_scale import hub, hub_pull, hub_tree, log
from fer_scale.hub_errors import HubError, NoNetwork
from fer_scale.photos import Pixels
from shards import detector
from shards.boxes import WHOLE, area, iou
from shards.detector import HAAR, Detector, Haar, Rectangle, Seen
from shards.errors import ShardError, UserError

YUNET = detector.DETECTOR
Place = tuple[float, ...]  # x1, y1, x2, y2 of a box in a crop, in shares of its sides; may stick out

# Longer sides in pixels at which a photo is searched, enlarged at most to the first. YuNet sees faces of some 40 to 300
# px; the cascade goes through the smaller sides by itself.
_SIDES = {YUNET: (256, 640, 1920), HAAR: (160, 1280)}
_CLOSE_PX = {YUNET: 160, HAAR: 200}  # the square of the closer look, half of which is the face
_SAME = 0.3  # two boxes that overlap by more (intersection over union) are of one face

# The median box on aligned crops, for models that do not say it of their own crops.
_ALIGNED: dict[str, Place] = {YUNET: (0.09, -0.05, 0.90, 1.03), HAAR: (0.01, 0.01, 1.00, 1.00)}
_PACKED: Place = (0.11, 0.02, 0.92, 1.0)  # the same as YuNet gives it when a set is packed: nothing around, clipped
_ENOUGH, _TRIED = 16, 32  # a median is of so many boxes at least, one in two of those that were looked at


class NoDetector(UserError):
    """Faces cannot be looked for here."""


class Finder:
    """A detector on photos, for any number of threads."""

    def __init__(self, name: str, make: Callable[[], Detector | Haar]) -> None:
        self.name = name
        self._make = make
        self._idle: queue.SimpleQueue[Detector | Haar] = queue.SimpleQueue()
        self._idle.put(make())  # so that what cannot be made is said now

    def find(self, pixels: Pixels, *, largest: bool = False) -> tuple[list[Seen], int]:
        """The faces in a photo from left to right, or only the largest of them; and how many there are.

        Boxes are in pixels, and may stick out.
        """
        longer = max(pixels.shape[:2])
        with self._one() as one:
            found: list[Seen] = []
            for side in _sides(self.name, longer):
                laid = detector.reduced(pixels, side)
                found += [Seen(_times(seen.box, longer / side), seen.score) for seen in one.see(laid)]
            found = _apart(found)
            count = len(found)
            if largest:
                found = sorted(found, key=lambda seen: area(seen.box))[-1:]
            found = _apart([_closer(one, pixels, seen) or seen for seen in found])
        return sorted(found, key=lambda seen: seen.box), count if largest else len(found)

    def place(self, crops: Iterable[Pixels]) -> Place | None:
        """The median box of the faces in crops that show one face each; None where too few are found to tell."""
        found: list[Rectangle] = []
        with self._one() as one:
            for tried, crop in enumerate(crops):
                if tried >= _TRIED and 2 * len(found) < tried:
                    return None
                height, width, _ = crop.shape
                if seen := _closer(one, crop, Seen((0, 0, width, height), 0)):
                    x1, y1, x2, y2 = seen.box
                    found.append((x1 / width, y1 / height, x2 / width, y2 / height))
        if len(found) < _ENOUGH:
            return None
        return tuple(round(float(x), 4) for x in np.median(np.array(found), axis=0))

    @contextmanager
    def _one(self) -> Iterator[Detector | Haar]:
        """A detector that no other thread has."""
        try:
            one = self._idle.get_nowait()
        except queue.Empty:
            one = self._make()
        try:
            yield one
        finally:
            self._idle.put(one)


def finder(wanted: str | Path | None = None, *, remote: bool = False) -> Finder:
    """The detector of a file or hf:// address, or "haar"; NoDetector or ShardError where there can be none.

    None: YuNet where an earlier call left it in the Hub's cache, or where it can be fetched and `remote` allows it;
    else the cascade in OpenCV's wheel, and that is said with the reason.
    """
    if not detector.has_opencv():
        raise NoDetector(
            "finding faces needs OpenCV: pip install 'fer_scale[faces]'; "
            'where the pictures are face crops, say --faces whole (in Python faces="whole")'
        )
    if str(wanted) in ("haar", HAAR):
        return Finder(HAAR, Haar)
    if wanted is None:
        return _default(remote)
    if str(wanted) == detector.ON_THE_HUB and (file := cached()):
        with suppress(ShardError):  # damaged, which a pull mends
            return _yunet(file)
    file = hub.pull_file(str(wanted), detector.FILE) if hub.is_remote(str(wanted)) else Path(wanted)
    return _yunet(file)


def _yunet(file: Path) -> Finder:
    return Finder(YUNET, functools.partial(Detector, file))


def _default(remote: bool) -> Finder:
    """YuNet; the cascade, which is said, where that has to do."""
    try:
        if file := cached() or (hub.pull_file(detector.ON_THE_HUB, detector.FILE) if remote else None):
            return _yunet(file)
        why = f"(YuNet is not in the cache); --detector {detector.ON_THE_HUB} finds more"
    except (HubError, ShardError) as error:
        why = f"({error})"
    log.say(f"faces    by OpenCV's Haar cascade {why}")
    return Finder(HAAR, Haar)


def cached() -> Path | None:
    """YuNet's model file where an earlier call left it; no request."""
    place = hub_tree.parse(detector.ON_THE_HUB)
    try:
        file = hub_tree.cache_of(place) / "snapshots" / hub_pull.cached_commit(place) / detector.FILE
    except NoNetwork:
        return None
    return file if file.is_file() else None


def at_hand() -> list[Finder]:
    """All detectors that can be used here without asking anybody; a damaged one is left out, and that is said."""
    if not detector.has_opencv():
        return []
    found = [Finder(HAAR, Haar)]
    if file := cached():
        try:
            found.append(_yunet(file))
        except ShardError as error:
            log.say(f"faces    not looked for by YuNet ({error})")
    return found


def place_of(name: str, block: dict[str, Any]) -> Place:
    """Where the detector's box lies in a model's crops, by its block `fer_scale`.

    As was measured when it was trained; else as in aligned crops, whose frame is what the block's face_box says.
    """
    if told := block.get("face_boxes", {}).get(name):
        return tuple(told)
    box: Place = tuple(block.get("face_box", WHOLE))
    known = _PACKED if block.get("detector") == YUNET else WHOLE
    return tuple(
        start + (at - low) / (high - low) * (stop - start)
        for at, low, high, start, stop in (
            (_ALIGNED[name][k], known[k % 2], known[k % 2 + 2], box[k % 2], box[k % 2 + 2]) for k in range(4)
        )
    )


def no_face(name: str) -> str:
    """What is said of a photo without one."""
    return f"{name}: no face found; if the picture is a face crop, say --faces whole"


def _sides(name: str, longer: int) -> list[int]:
    first, *others = _SIDES[name]
    sides = sorted({first, *(min(side, longer) for side in others if longer > first)})
    return sides if name == YUNET else sides[-1:]


def _closer(one: Detector | Haar, pixels: Pixels, seen: Seen) -> Seen | None:
    """The face once more, in the middle of a square of twice its side; None where nothing is seen there now."""
    x1, y1, x2, y2 = seen.box
    side = max(2, round(2 * max(x2 - x1, y2 - y1)))
    height, width, _ = pixels.shape
    left = round(min(max((x1 + x2) / 2, 0), width - 1) - side / 2)  # its middle is in the photo
    top = round(min(max((y1 + y2) / 2, 0), height - 1) - side / 2)
    scale = side / _CLOSE_PX[one.name]
    again = one.see(detector.surroundings(pixels, left, top, side, _CLOSE_PX[one.name]))
    moved = [Seen(_plus(_times(found.box, scale), left, top), found.score) for found in again]
    best = max(moved, key=lambda found: iou(found.box, seen.box), default=None)
    return best if best and iou(best.box, seen.box) > _SAME else None


def _apart(found: list[Seen]) -> list[Seen]:
    """Of boxes that overlap, the surest."""
    kept: list[Seen] = []
    for seen in sorted(found, key=lambda seen: -seen.score):
        if all(iou(seen.box, other.box) <= _SAME for other in kept):
            kept.append(seen)
    return kept


def _times(box: Rectangle, factor: float) -> Rectangle:
    x1, y1, x2, y2 = box
    return x1 * factor, y1 * factor, x2 * factor, y2 * factor


def _plus(box: Rectangle, x: float, y: float) -> Rectangle:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y
