"""The crops, flips and colours of training: in batches, on the device where the pixels are.

Readers decode to uint8 and nothing else (shards/pixels.py). Where a crop lies and whether it is flipped is drawn from
the sample's key (shards/order.py), so it never depends on how many ranks or readers there are. Cropping and resizing is
two small matrix products a batch: the antialiased bicubic of PIL and torchvision, exactly, without a kernel of our own.

Shape letters:  B batch   P slot side   p output side
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.order import uniform

# Which stream of a sample's key a draw comes from. Frozen: a change makes other crops out of the same seed.
CROP, FLIP, GREY = 1, 2, 3

_TRIES = 10  # as torchvision's RandomResizedCrop


def random_crops(
    keys: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes (top, left, height, width) [B, 4] of torchvision's RandomResizedCrop, drawn from each sample's key.

    `sizes` is (height, width) [B, 2] in pixels, `scale` the share of the area, `ratio` the crop's width / height.
    """
    draws = uniform(keys, CROP, 4 * _TRIES).reshape(len(keys), 4, _TRIES)
    height, width = sizes[:, 0], sizes[:, 1]
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, 1])
    wide, tall = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
    first, rows = fits.argmax(1), np.arange(len(keys))
    shorter = np.minimum(height, width)  # no try fitted: the largest square
    tall = np.where(fits.any(1), tall[rows, first], shorter)
    wide = np.where(fits.any(1), wide[rows, first], shorter)
    top = np.floor(draws[rows, 2, first] * (height - tall + 1)).astype(np.int64)
    left = np.floor(draws[rows, 3, first] * (width - wide + 1)).astype(np.int64)
    return np.stack([top, left, tall, wide], 1)


def middle(sizes: NDArray[np.int64], share: float = 1.0) -> NDArray[np.float64]:
    """Boxes [B, 4] of the middle of pictures, with this share of each side; 1 is everything."""
    return np.concatenate([(1 - share) / 2 * sizes, share * sizes], 1)


def flips(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which samples [B] are mirrored: half of them."""
    return uniform(keys, FLIP, 1)[:, 0] < 0.5


def greys(keys: NDArray[np.uint64], probability: float) -> NDArray[np.bool_]:
    """Which samples [B] lose their colour."""
    return uniform(keys, GREY, 1)[:, 0] < probability


def resample(pixels: Tensor, crops: NDArray[Any], flipped: NDArray[np.bool_], px: int) -> Tensor:
    """The crops of uint8 [B, P, P, 3], resized and mirrored: float32 [B, 3, px, px] in 0..1.

    As PIL: crop, then antialiased bicubic (a = -0.5); only pixels that lie in a crop, if not wholly, count.
    """
    box = torch.from_numpy(crops).to(pixels.device, torch.float32)
    side = pixels.shape[1]
    down = _weights(box[:, 0], box[:, 2], side, px)
    across = _weights(box[:, 1], box[:, 3], side, px)
    mirror = torch.from_numpy(flipped).to(pixels.device)[:, None, None]
    across = torch.where(mirror, across.flip(1), across)
    planes = pixels.permute(0, 3, 1, 2).float()  # [B, 3, P, P]
    with torch.autocast(pixels.device.type, enabled=False):
        out = down[:, None] @ planes @ across[:, None].mT
    return out.clamp_(0, 255).div_(255)


def _weights(start: Tensor, length: Tensor, side: int, px: int) -> Tensor:
    """The matrices [B, px, side] that resize `length` pixels from `start` on to px, along one direction."""
    step = length[:, None, None] / px
    reach = step.clamp(min=1.0)  # a reduction widens the kernel: antialiasing
    centre = start[:, None, None] + (torch.arange(px, device=start.device)[None, :, None] + 0.5) * step
    at = torch.arange(side, device=start.device)[None, None, :]
    weight = _cubic((at + 0.5 - centre) / reach)
    inside = (at >= start.floor()[:, None, None]) & (at < (start + length).ceil()[:, None, None])
    weight = weight * inside
    return weight / weight.sum(2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def grey(images: Tensor, which: NDArray[np.bool_]) -> Tensor:
    """Images [B, 3, p, p] of which the chosen ones hold their luma (ITU-R 601) in all three channels."""
    if not which.any():
        return images
    luma = (images * images.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1, keepdim=True)
    return torch.where(torch.from_numpy(which).to(images.device)[:, None, None, None], luma, images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std, a channel at a time."""
    centre, spread = (images.new_tensor(values)[None, :, None, None] for values in (mean, std))
    return (images - centre) / spread


def training_view(pixels: Tensor, sizes: NDArray[np.int64], keys: NDArray[np.uint64], px: int, augment: Any) -> Tensor:
    """The pre-training view of a batch, float32 [B, 3, px, px] in 0..1: random crop, flip, grey."""
    crops = random_crops(keys, sizes, scale=augment.crop_scale, ratio=augment.crop_ratio)
    flipped = flips(keys) if augment.flip else np.zeros(len(keys), bool)
    return grey(resample(pixels, crops, flipped, px), greys(keys, augment.grey))
