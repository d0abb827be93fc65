"""Crops, resizing and colours on tensors, against PIL and torchvision's rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_scale import images
from shards.order import bits

SHAPES = (3 / 4, 4 / 3)
KEYS = bits(np.arange(500, dtype=np.uint64), 0, 1)[:, 0]


@pytest.mark.parametrize(("size", "px"), [((112, 112), 48), ((48, 48), 48), ((37, 61), 64), ((90, 50), 33)])
def test_resampling_is_that_of_pil(size: tuple[int, int], px: int) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    slot = torch.zeros(1, 112, 112, 3, dtype=torch.uint8)
    slot[0, :height, :width] = torch.from_numpy(np.asarray(picture).copy())
    top, left, tall, wide = box = (3, 5, height - 7, width - 11)
    ours = images.resample(slot, np.array([box]), np.array([False]), px)
    cropped = picture.crop((left, top, left + wide, top + tall))
    pil = np.asarray(cropped.resize((px, px), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - pil).max() < 2.1 / 255  # PIL rounds twice, to 8 bits


@pytest.mark.parametrize(("share", "size"), [(0.95, (48, 48)), (0.5, (37, 61)), (1.0, (112, 90))])
def test_the_middle_is_what_pil_cuts_out_between_pixels(share: float, size: tuple[int, int]) -> None:
    height, width = size
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    slot = torch.full((1, 112, 112, 3), 255, dtype=torch.uint8)  # of which nothing may be seen
    slot[0, :height, :width] = torch.from_numpy(np.asarray(picture).copy())
    ours = images.resample(slot, images.middle(np.array([size]), share), np.array([False]), 24)
    edge = (1 - share) / 2
    left, top, right, bottom = box = (edge * width, edge * height, (1 - edge) * width, (1 - edge) * height)
    outer = picture.crop((int(left), int(top), -int(-right // 1), -int(-bottom // 1)))  # the pixels that lie in it
    inner = (box[0] - int(left), box[1] - int(top), box[2] - int(left), box[3] - int(top))
    pil = np.asarray(outer.resize((24, 24), Image.Resampling.BICUBIC, box=inner), np.float32) / 255
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - pil).max() < 2.1 / 255


def test_a_whole_image_at_its_own_size_comes_back_to_the_last_bit() -> None:
    pixels = torch.randint(0, 256, (3, 40, 40, 3), dtype=torch.uint8)
    sizes = np.full((3, 2), 40)
    out = images.resample(pixels, images.middle(sizes), np.array([False, True, False]), 40)
    expected = pixels.permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(out[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[1], expected[1].flip(2), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), low=st.floats(0.05, 1.0))
def test_every_crop_lies_in_its_image(height: int, width: int, low: float) -> None:
    sizes = np.tile([height, width], (len(KEYS), 1))
    top, left, tall, wide = images.random_crops(KEYS, sizes, scale=(low, 1.0), ratio=SHAPES).T
    assert (tall >= 1).all() and (wide >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()


def test_crops_have_the_areas_and_shapes_that_were_asked_for() -> None:
    sizes = np.full((len(KEYS), 2), 1000)
    _, _, tall, wide = images.random_crops(KEYS, sizes, scale=(0.2, 0.4), ratio=SHAPES).T
    area, ratio = tall * wide / 1e6, wide / tall
    assert area.min() > 0.195 and area.max() < 0.405
    assert ratio.min() > 0.74 and ratio.max() < 1.34
    assert abs(area.mean() - 0.3) < 0.01 and abs(np.log(ratio).mean()) < 0.03


def test_a_crop_hangs_on_its_samples_key_and_on_nothing_else() -> None:
    sizes = np.full((len(KEYS), 2), 112)
    together = images.random_crops(KEYS, sizes, scale=(0.2, 1.0), ratio=SHAPES)
    alone = images.random_crops(KEYS[7:8], sizes[7:8], scale=(0.2, 1.0), ratio=SHAPES)
    assert together[7].tolist() == alone[0].tolist() == [21, 41, 59, 46]  # frozen


def test_half_are_flipped_and_as_many_grey_as_asked() -> None:
    assert abs(images.flips(KEYS).mean() - 0.5) < 0.07
    assert abs(images.greys(KEYS, 0.25).mean() - 0.25) < 0.06
    assert images.greys(KEYS, 1.0).all() and not images.greys(KEYS, 0.0).any()


def test_grey_keeps_the_luma_and_leaves_the_others_alone() -> None:
    batch = torch.rand(2, 3, 4, 4)
    out = images.grey(batch, np.array([True, False]))
    luma = 0.299 * batch[0, 0] + 0.587 * batch[0, 1] + 0.114 * batch[0, 2]
    torch.testing.assert_close(out[0], luma.expand(3, -1, -1))
    assert torch.equal(out[1], batch[1])
