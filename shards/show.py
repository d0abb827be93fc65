"""A shard set at a glance: its facts, and a sheet of its faces."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from shards.errors import ShardError
from shards.expressions import EXPRESSIONS
from shards.index import ShardSet
from shards.pixels import BadImage, Pixels, decode
from shards.remote import open_set
from shards.sample import Sample

_TILE_PX, _CAPTION_PX, _GAP_PX = 112, 14, 4


def show(path: Path | str) -> dict[str, Any]:
    """The facts of the set at `path`: index.json without its lists of files, and the fingerprint."""
    shards = open_set(path)
    facts = {name: value for name, value in shards.index.items() if name not in ("shards", "files")}
    return facts | {"shards": len(shards.counts), "fingerprint": shards.fingerprint}


def contact_sheet(path: Path | str, file: Path | str, count: int = 64) -> None:
    """Write a picture of `count` samples from all over the set, by expression, with boxes other than the template."""
    samples = sorted(_spread(open_set(path), count), key=lambda one: _by_expression(one[0]))
    if not samples:
        raise ShardError(f"{path}: none of {count} images can be decoded; pack the set again, with the decode check")
    columns = math.ceil(math.sqrt(len(samples)))
    rows = -(-len(samples) // columns)
    width, height = _TILE_PX + _GAP_PX, _TILE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    for i, (sample, pixels) in enumerate(samples):
        sheet.paste(_tile(sample, pixels), (_GAP_PX + i % columns * width, _GAP_PX + i // columns * height))
    try:
        sheet.save(file)
    except ValueError as error:  # Pillow knows the format by the name's ending
        raise ShardError(f"{file}: the sheet cannot be written ({error}); give a name that ends in .png") from None
    except OSError as error:
        raise ShardError(f"{file}: the sheet cannot be written ({error.strerror}); give another place") from None


def _spread(shards: ShardSet, count: int) -> Iterator[tuple[Sample, Pixels]]:
    """`count` samples with their pixels at equal distances, or all there are; without what cannot be decoded."""
    count = max(1, min(count, shards.samples))
    wanted = [i * shards.samples // count for i in range(count)]
    first = 0
    for shard, n in enumerate(shards.counts):
        for sample in (shards.read(shard, i - first) for i in wanted if first <= i < first + n):
            with suppress(BadImage):  # in a set that was packed without the decode check
                yield sample, decode(sample.image)
        first += n


def _by_expression(sample: Sample) -> int:
    known = sample.face.expression if sample.face else None
    return EXPRESSIONS.index(known) if known else len(EXPRESSIONS)


def _tile(sample: Sample, pixels: Pixels) -> Image.Image:
    """The face at the size of a tile, its box unless that is the template's, and its expression below."""
    tile = Image.new("RGB", (_TILE_PX, _TILE_PX + _CAPTION_PX), "white")
    face = Image.fromarray(pixels)
    scale = _TILE_PX / max(face.size)
    face = face.resize((max(1, round(face.width * scale)), max(1, round(face.height * scale))))
    draw = ImageDraw.Draw(face)
    if sample.face and sample.face.box and sample.face.box_source != "template":
        x1, y1, x2, y2 = sample.face.box
        corners = (x1 * face.width, y1 * face.height, x2 * face.width - 1, y2 * face.height - 1)
        draw.rectangle(corners, outline="lime")
    tile.paste(face, ((_TILE_PX - face.width) // 2, (_TILE_PX - face.height) // 2))
    caption = sample.face.expression if sample.face else None
    ImageDraw.Draw(tile).text((2, _TILE_PX + 1), caption or sample.key, fill="black")
    return tile
