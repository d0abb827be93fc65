"""Where a face in a photo is cut out, by hand."""

import numpy as np
import pytest

from fer_scale import photos
from fer_scale.cuts import NARROWER, PredictError, _part, around, crop_for

PIXELS = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)


def test_a_face_of_the_shape_that_it_had_in_training_is_cut_around_the_middle_of_its_crop() -> None:
    """A crop of 100 px from (30, 50) on, in which the box lies at its place: its middle is (80, 100)."""
    half = NARROWER * 50
    cut = around((50, 60, 110, 150), (0.2, 0.1, 0.8, 1.0))
    assert cut == pytest.approx((80 - half, 100 - half, 80 + half, 100 + half))


def test_a_face_of_another_shape_has_the_share_of_its_crop_that_it_had_in_training() -> None:
    """3,600 px are the .36 of a crop of 100 px, whose middle lies 20 px right of the box's and 15 px above it."""
    half = NARROWER * 50
    for width, height in ((60, 60), (90, 40)):
        face = (230 - width / 2, 330 - height / 2, 230 + width / 2, 330 + height / 2)
        cut = around(face, (0.1, 0.2, 0.5, 1.1))
        assert cut == pytest.approx((250 - half, 315 - half, 250 + half, 315 + half))


def test_the_cut_for_a_given_box_is_stretched_as_the_box_is() -> None:
    assert crop_for((100, 100, 200, 220), (0.1, 0.2, 0.9, 0.8), (640, 480)) == pytest.approx((87.5, 60, 212.5, 260))
    assert crop_for((-20, -10, 20, 30), (0.3, 0.4, 0.7, 0.5), (640, 480)) == pytest.approx((-50, -170, 50, 230))


@pytest.mark.parametrize("beside", [(-9, 5, 0, 9), (5, -9, 9, 0), (24, 5, 30, 9), (5, 30, 9, 40)])
def test_a_box_that_only_touches_the_photo_lies_outside_of_it(beside: tuple[float, float, float, float]) -> None:
    with pytest.raises(PredictError, match="lies outside of the 24x30 photo"):
        crop_for(beside, (0.1, 0.2, 0.9, 0.8), (24, 30))


@pytest.mark.parametrize("partly", [(-9, 5, 0.5, 9), (5, -9, 9, 0.5), (23.5, 5, 30, 9), (5, 29.5, 9, 40)])
def test_a_box_that_sticks_out_of_the_photo_is_one(partly: tuple[float, float, float, float]) -> None:
    assert np.isfinite(crop_for(partly, (0.1, 0.2, 0.9, 0.8), (24, 30))).all()


@pytest.mark.parametrize("cut", [(1.5, 2.25, 3.5, 4), (0, 0, 6, 5), (0.5, 0.5, 5.5, 4.5)])
def test_a_cut_in_the_photo_is_a_part_of_it_and_copies_nothing(cut: tuple[float, float, float, float]) -> None:
    part, within = _part(PIXELS, cut)
    left, top = int(cut[0]), int(cut[1])
    assert np.array_equal(part, PIXELS[top : -int(-cut[3] // 1), left : -int(-cut[2] // 1)])
    assert within == (cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top)
    assert np.shares_memory(part, PIXELS)


@pytest.mark.parametrize("cut", [(-0.5, 0, 6, 5), (0, -1, 6, 5), (0, 0, 6.5, 5), (0, 0, 6, 6), (-1.5, -2, 9, 8)])
def test_a_cut_that_sticks_out_has_the_border_repeated(cut: tuple[float, float, float, float]) -> None:
    part, within = _part(PIXELS, cut)
    left, top, right, bottom = int(-cut[0] + 0.5), -int(cut[1]), int(cut[2] + 0.5) - 6, int(cut[3]) - 5
    assert np.array_equal(part, np.pad(PIXELS, ((top, bottom), (left, right), (0, 0)), "edge"))
    assert within == (cut[0] + left, cut[1] + top, cut[2] + left, cut[3] + top)


def test_a_cut_may_have_as_many_pixels_as_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MOST_PIXELS", 12)
    assert _part(PIXELS, (2, 1, 6, 4))[0].shape == (3, 4, 3)
    for larger in ((2, 1, 6.1, 4), (2, 1, 6, 4.1)):
        with pytest.raises(PredictError, match="more than 12 pixels"):
            _part(PIXELS, larger)
