"""Where the face is in its picture: a box of x1, y1, x2, y2, as shares of width and height.

A box comes from the dataset's annotation or a detector; where there is neither, it is the template: all sources are of
crops that are the face. A Haar detector's boxes have the median (.02, .01, .99, .97) on FERPlus and (.01, .00, 1.0,
.99) on LFW's centre 112 px.
"""

from collections.abc import Sequence

Box = tuple[float, float, float, float]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)  # the template


def box_from(numbers: object) -> Box:
    """The box that four numbers out of a file say; ValueError tells what is wrong with them."""
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise ValueError(f"a box is four numbers x1, y1, x2, y2, not {numbers!r}")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"a box is four numbers x1, y1, x2, y2, not {numbers!r}")
    x1, y1, x2, y2 = numbers  # as they are: an integer may be too large for a float
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(f"box {numbers!r} is not 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 (shares of width and height)")
    return float(x1), float(y1), float(x2), float(y2)


def faces_apart(boxes: Sequence[Box | None]) -> list[int]:
    """Which of a picture's faces each box is of, numbered from 0: that of the first box that it overlaps by half.

    Without a box it is face 0.
    """
    known, faces = list[Box](), list[int]()
    for box in boxes:
        number = next((n for n, other in enumerate(known) if box is None or iou(box, other) >= 0.5), len(known))
        if box is not None and number == len(known):
            known.append(box)
        faces.append(number)
    return faces


def area(box: Box) -> float:
    """Width times height; 0 of one that ends before it begins, as what two share that lie apart."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(one: Box, two: Box) -> float:
    """Intersection over union: how much two boxes overlap, 0 to 1, in whatever unit they are."""
    shared = area((max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])))
    return shared / (area(one) + area(two) - shared) if shared else 0.0
