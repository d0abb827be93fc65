"""How fast one core reads a set, and where its time goes: what a machine needs to feed a given number of images/s."""

import time
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError
from shards.order import Order
from shards.pixels import BadImage, decode
from shards.remote import open_set
from shards.tar import parse

_BATCH = 64
_FEED = 10_000  # images/s, about what one large GPU takes of a ViT-B/16 at 224 px


def measure(
    path: Path | str, seconds: float = 10, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Read the set at `path` for so long, in one thread and the order of training: processor time, and waiting apart.

    What cannot be read is passed over. ShardError where nothing can.
    """
    shards = open_set(path)
    order = Order(shards.counts, seed=0, batch=_BATCH)
    side = max(shards.index["image_px"]["max"])
    slot = np.empty((side, side, 3), np.uint8)
    spent = dict.fromkeys(("order", "read", "check", "unpack", "decode", "copy"), 0.0)
    images, began, last = 0, time.monotonic(), time.thread_time()

    def lap(part: str) -> None:
        nonlocal last
        now = time.thread_time()
        spent[part] += now - last
        last = now

    for step in count():
        slots = order.slots(step, 0, _BATCH)
        lap("order")
        for shard, row in zip(slots.shard.tolist(), slots.row.tolist(), strict=True):
            try:
                span, crc = shards.span(shard, row)
                lap("read")
                whole = zlib.crc32(span) == crc
                lap("check")
                if not whole:
                    continue
                sample = parse(span)
                lap("unpack")
                pixels = decode(sample.image)
                lap("decode")
            except (ShardError, BadImage, ValueError):
                continue
            slot[: pixels.shape[0], : pixels.shape[1]] = pixels
            lap("copy")
            images += 1
        passed = time.monotonic() - began
        if progress:
            progress(min(int(passed), int(seconds)), int(seconds))
        if passed >= seconds:
            break
    if not images:
        raise ShardError(f"{path}: no image can be read; run `fer-scale verify` on it")
    busy = sum(spent.values())
    return {
        "images_per_s_per_core": round(images / busy),
        "us_per_image": {part: round(value / images * 1e6, 1) for part, value in spent.items()},
        "waited": f"{max(0.0, 1 - busy / passed):.0%}",
        f"cores_for_{_FEED}_images_per_s": round(_FEED * busy / images, 1),
    }
