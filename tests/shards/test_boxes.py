"""Which four numbers are a box."""

import math
import random

import pytest

from shards.boxes import WHOLE, box_from, faces_apart, iou


def test_a_box_is_floats_and_may_reach_the_borders() -> None:
    assert box_from([0, 0, 1, 1]) == WHOLE == (0, 0, 1, 1)
    assert box_from((0.25, 0.5, 0.75, 1)) == (0.25, 0.5, 0.75, 1.0)
    assert all(type(number) is float for number in box_from([0, 0, 1, 1]))


@pytest.mark.parametrize(
    "numbers",
    [None, 5, "0011", range(4), {0: 1}, [], [0, 0, 1], [0, 0, 1, 1, 1], [0, 0, "1", 1], [0, 0, True, 1], [None] * 4],
)
def test_what_is_not_four_numbers_is_refused(numbers: object) -> None:
    with pytest.raises(ValueError, match="a box is four numbers x1, y1, x2, y2, not "):
        box_from(numbers)


@pytest.mark.parametrize("low", [-0.1, 0.5, 0.6, math.nan])
@pytest.mark.parametrize("down", [False, True])
def test_a_box_begins_in_the_picture_and_before_its_end(low: float, down: bool) -> None:
    with pytest.raises(ValueError, match="shares of width and height"):
        box_from([0.1, low, 0.9, 0.5] if down else [low, 0.1, 0.5, 0.9])


@pytest.mark.parametrize("high", [1.1, 100, 10**400, math.inf])
@pytest.mark.parametrize("down", [False, True])
def test_a_box_ends_in_the_picture(high: float, down: bool) -> None:
    with pytest.raises(ValueError, match="shares of width and height"):
        box_from([0.1, 0.2, 0.9, high] if down else [0.1, 0.2, high, 0.9])


def test_boxes_that_overlap_by_half_are_of_one_face_and_so_is_none() -> None:
    left, right = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    assert faces_apart([left, right, (0.02, 0.0, 0.5, 0.5), None, (0.5, 0.4, 1.0, 1.0)]) == [0, 1, 0, 0, 1]
    assert faces_apart([None, None, left, right]) == [0, 0, 0, 1]
    assert faces_apart([(0.0, 0.0, 0.4, 0.4), (0.2, 0.0, 0.6, 0.4)]) == [0, 1]  # a third
    assert faces_apart([WHOLE, (0.0, 0.0, 1.0, 0.5)]) == [0, 0]


def test_boxes_overlap_by_the_cells_that_both_cover_of_those_that_either_does_and_empty_ones_by_none() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b = [tuple(draw.choices(range(5), k=4)) for _ in "ab"]
        cells_a = {(x, y) for x in range(ax1, ax2) for y in range(ay1, ay2)}
        cells_b = {(x, y) for x in range(bx1, bx2) for y in range(by1, by2)}
        assert iou(a, b) == len(cells_a & cells_b) / max(1, len(cells_a | cells_b))
