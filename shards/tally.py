"""What is counted over images while they are packed: sizes, colours, classes. Integers: exact in any order."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shards.expressions import EXPRESSIONS
from shards.pixels import Pixels
from shards.prepare import Prepared
from shards.sample import Face

_EVERY = 8  # one row of pixels in so many is counted: a set's colours, at an eighth of the cost
_AT_ONCE = 16_384  # pixels


@dataclass(slots=True)
class Tally:
    """Sums over some images; add_up() joins those of all shards."""

    images: int = 0
    pixels: int = 0  # that were counted, of the images that were decoded; values and squares are of them
    min_px: list[int] = field(default_factory=lambda: [0, 0])  # width, height
    max_px: list[int] = field(default_factory=lambda: [0, 0])
    sum_px: list[int] = field(default_factory=lambda: [0, 0])
    values: list[int] = field(default_factory=lambda: [0, 0, 0])  # R, G, B in 0..255
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])
    expressions: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)  # by where they came from
    made: dict[str, int] = field(default_factory=dict)
    waiting: list[Pixels] = field(default_factory=list)  # [N, 3]

    def add(self, image: Prepared, face: Face | None) -> None:
        width, height = image.size
        if not self.images:
            self.min_px = [width, height]
        self.min_px = [min(self.min_px[0], width), min(self.min_px[1], height)]
        self.max_px = [max(self.max_px[0], width), max(self.max_px[1], height)]
        self.sum_px = [self.sum_px[0] + width, self.sum_px[1] + height]
        self.images += 1
        if image.pixels is not None:
            self.waiting.append(image.pixels[::_EVERY].reshape(-1, 3))
            if sum(map(len, self.waiting)) >= _AT_ONCE:
                self._count()
        face = face or Face()
        for name, counts in (
            (face.expression, self.expressions),
            (face.box_source, self.boxes),
            (image.made, self.made),
        ):
            if name is not None:
                counts[name] = counts.get(name, 0) + 1

    def _count(self) -> None:
        """The colours of the images that wait for it: some together are half the work of each one alone."""
        # A channel a row, for sums along the memory. Sums of integers below 2**53 are exact in float64, and quicker.
        counted = np.ascontiguousarray(np.concatenate(self.waiting).T, dtype=np.float64)
        self.pixels += counted.shape[1]
        self.values = [a + int(b) for a, b in zip(self.values, counted.sum(1).tolist(), strict=True)]
        squares = np.einsum("cn,cn->c", counted, counted).tolist()
        self.squares = [a + int(b) for a, b in zip(self.squares, squares, strict=True)]
        self.waiting.clear()

    def as_dict(self) -> dict[str, Any]:
        if self.waiting:
            self._count()
        found = asdict(self)
        del found["waiting"]
        return found


def add_up(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    """The part of index.json that tells of all images: sizes, mean and std of the pixels in 0..1, classes.

    Mean and std are missing where nothing was decoded, "boxes" where no face has one, "made" where all images have
    their sources' bytes.
    """
    tallies = [tally for tally in tallies if tally["images"]]

    def columns(name: str) -> list[tuple[int, ...]]:
        return list(zip(*(tally[name] for tally in tallies), strict=True))

    images = sum(tally["images"] for tally in tallies)
    expressions, boxes, made = Counter[str](), Counter[str](), Counter[str]()
    for tally in tallies:
        expressions.update(tally["expressions"])
        boxes.update(tally["boxes"])
        made.update(tally["made"])
    return {
        "image_px": {
            "min": [min(column) for column in columns("min_px")],
            "max": [max(column) for column in columns("max_px")],
            "mean": [round(sum(column) / images, 1) for column in columns("sum_px")],
        },
        **_colours(sum(tally["pixels"] for tally in tallies), columns("values"), columns("squares")),
        "expressions": {name: expressions[name] for name in EXPRESSIONS if expressions[name]},
        **({"boxes": dict(sorted(boxes.items()))} if boxes else {}),
        **({"made": dict(sorted(made.items()))} if made else {}),
    }


def _colours(pixels: int, values: list[tuple[int, ...]], squares: list[tuple[int, ...]]) -> dict[str, Any]:
    """Mean and std of each channel, out of the sums of every shard."""
    if not pixels:
        return {}
    mean = [sum(column) / pixels / 255 for column in values]
    square = [sum(column) / pixels / 255**2 for column in squares]
    return {
        "mean": [round(m, 4) for m in mean],
        "std": [round(max(0.0, s - m * m) ** 0.5, 4) for s, m in zip(square, mean, strict=True)],
    }
