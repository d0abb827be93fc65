"""Photos with a face in them, for the tests of what is found in photos."""

import numpy as np
from PIL import Image

from fer_scale.photos import Pixels


def pasted(crop: Image.Image, px: int, seed: int) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A crop in a picture of 640x480 with blurred colours behind, anywhere; and where it is."""
    rng = np.random.default_rng(seed)
    behind = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    left, top = int(rng.integers(0, 640 - px)), int(rng.integers(0, 480 - px))
    behind.paste(crop.resize((px, px), Image.Resampling.BICUBIC), (left, top))
    return np.asarray(behind), (left, top, left + px, top + px)
