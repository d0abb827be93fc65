"""Weak and strong views of a batch of faces, on the device, with the face boxes carried along.

Every draw is a function of the sample's key, so a view does not depend on how many processes there are or how a batch
is cut. The strong view is for the student: shapes of faces stay believable (a mouth corner is a few pixels), so it
turns by at most 15 degrees and never shears, inverts or posterizes, which RandAugment does.

Shape letters: B batch, p output side. Boxes are (x1, y1, x2, y2) in shares of the picture, from its upper left corner.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fer_scale import images
from fer_scale.finetune.recipe import Augment
from shards.order import key, mix, uniform

TURN, LIGHT, HOLE = 21, 22, 23  # streams of a sample's key; those of images.py are 1-3. Frozen.

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class View:
    pictures: Tensor  # float32 [B, 3, p, p] in 0..1
    boxes: Tensor  # float32 [B, 4], on the CPU: what is decided by them waits for no device


def keys_of(keys: Keys, view: str) -> Keys:
    """Other keys of the same samples, so that two views of one picture are drawn independently."""
    return mix(keys ^ np.uint64(key(*view.encode())))


def middle(pixels: Tensor, sizes: NDArray[np.int64], px: int, crop_pct: float = 1.0) -> Tensor:
    """The pictures as they are used: this middle share of their sides, resized to a square [B, 3, p, p] in 0..1."""
    return images.resample(pixels, images.middle(sizes, crop_pct), np.zeros(len(sizes), bool), px)


def weak(
    pixels: Tensor, sizes: NDArray[np.int64], boxes: NDArray[np.float32], keys: Keys, px: int, by: Augment
) -> View:
    """Crop and flip."""
    crops = images.random_crops(keys, sizes, scale=by.crop_scale, ratio=by.crop_ratio)
    return _cropped(pixels, sizes, boxes, crops, keys, px, by)


def strong(
    pixels: Tensor, sizes: NDArray[np.int64], boxes: NDArray[np.float32], keys: Keys, px: int, by: Augment
) -> View:
    """Crop, flip, a turn, brightness and contrast, and one square that hides what is below it."""
    crops = images.random_crops(keys, sizes, scale=by.strong_scale, ratio=by.crop_ratio)
    view = _cropped(pixels, sizes, boxes, crops, keys, px, by)
    angles = by.strong_rotation_degrees * (2 * uniform(keys, TURN, 1)[:, 0] - 1)
    pictures = relight(rotate(view.pictures, angles), keys, by.strong_brightness, by.strong_contrast)
    pictures = cut_out(pictures, keys, by.strong_cutout)
    return View(pictures, rotate_boxes(view.boxes, torch.from_numpy(angles).float()))


def _cropped(
    pixels: Tensor,
    sizes: NDArray[np.int64],
    boxes: NDArray[np.float32],
    crops: NDArray[np.int64],
    keys: Keys,
    px: int,
    by: Augment,
) -> View:
    flipped = images.flips(keys) if by.flip else np.zeros(len(keys), bool)
    pictures = images.resample(pixels, crops, flipped, px)
    pictures = images.grey(pictures, images.greys(keys, by.grey))
    return View(pictures, torch.from_numpy(crop_boxes(boxes, sizes, crops, flipped)))


def crop_boxes(
    boxes: NDArray[np.float32], sizes: NDArray[np.int64], crops: NDArray[np.int64], flipped: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Boxes [B, 4] of the pictures as boxes of their crops (top, left, height, width), mirrored where the crop is.

    What lies outside the crop is cut off; a face that is not in the crop at all gets an empty box.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    top, left, tall, wide = crops.T
    across = (boxes[:, 0::2] * width[:, None] - left[:, None]) / wide[:, None]
    down = (boxes[:, 1::2] * height[:, None] - top[:, None]) / tall[:, None]
    across = np.where(flipped[:, None], 1 - across[:, ::-1], across)
    carried = np.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], 1)
    return carried.clip(0, 1).astype(np.float32)


def rotate(pictures: Tensor, degrees: NDArray[np.float64]) -> Tensor:
    """Pictures [B, 3, p, p] turned counter-clockwise about their centres; corners repeat the border."""
    angle = torch.from_numpy(np.radians(degrees)).to(pictures)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # grid_sample asks where an output pixel comes from: the inverse turn, in axes whose y points down
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = functional.affine_grid(theta, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def rotate_boxes(boxes_B4: Tensor, degrees_B: Tensor) -> Tensor:
    """The upright boxes [B, 4] around the turned ones, cut at the picture's border; empty ones stay empty."""
    angle = degrees_B * (math.pi / 180)
    centre = (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2 - 0.5
    half = (boxes_B4[:, 2:] - boxes_B4[:, :2]) / 2
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([cos * centre[:, 0] + sin * centre[:, 1], cos * centre[:, 1] - sin * centre[:, 0]], 1) + 0.5
    reach = torch.stack([cos * half[:, 0] + sin.abs() * half[:, 1], sin.abs() * half[:, 0] + cos * half[:, 1]], 1)
    found = torch.cat([turned - reach, turned + reach], 1).clamp(0, 1)
    empty = (half <= 0).any(1, keepdim=True)
    return torch.where(empty, turned.repeat(1, 2).clamp(0, 1), found)


def relight(pictures: Tensor, keys: Keys, brightness: float, contrast: float) -> Tensor:
    """Contrast about each picture's own mean, then brightness, both times a factor in 1 -/+ their strength."""
    draws = torch.from_numpy(2 * uniform(keys, LIGHT, 2) - 1).to(pictures)[:, :, None, None, None]
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return (((pictures - mean) * (1 + contrast * draws[:, 0]) + mean) * (1 + brightness * draws[:, 1])).clamp(0, 1)


def cut_out(pictures: Tensor, keys: Keys, most: float) -> Tensor:
    """Pictures with one grey square each, its side drawn up to `most` of the picture's, its centre anywhere."""
    px = pictures.shape[-1]
    draws = torch.from_numpy(uniform(keys, HOLE, 3)).to(pictures)
    half = draws[:, 0] * most / 2
    at = (torch.arange(px, device=pictures.device) + 0.5) / px
    inside_x = (at[None] - draws[:, 1:2]).abs() < half[:, None]  # [B, p]
    inside_y = (at[None] - draws[:, 2:3]).abs() < half[:, None]
    hole = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(hole, 0.5, pictures)
