"""Where the face is in its picture: a box of x1, y1, x2, y2, as shares of width and height.

A box comes from the dataset's annotation or a detector; where there is neither, from the source's template:
the place at which its way of cropping puts every face.
"""

Box = tuple[float, float, float, float]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def box_from(numbers: object) -> Box:
    """The box that four numbers out of a file say; ValueError tells what is wrong with them."""
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise ValueError(f"a box is four numbers x1, y1, x2, y2, not {numbers!r}")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"a box is four numbers x1, y1, x2, y2, not {numbers!r}")
    x1, y1, x2, y2 = (float(n) for n in numbers)
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(f"box {numbers!r} is not 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 (shares of width and height)")
    return x1, y1, x2, y2
