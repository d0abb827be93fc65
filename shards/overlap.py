"""Which faces of one set lie in another too, by their hashes: exact copies and near ones.

Of each face its nearest one on the other side is found, and no list of all pairs: a thousand blank pictures in both
sets would make a million. So memory goes with the faces of both sides, and whoever is named has a witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from shards.duplicates import Bytes, Ints, as_words, compare
from shards.pixels import decode
from shards.sample import Sample

NONE = 1 << 20  # bits to the nearest where there is none
EXACT = -1  # bits to one with the same pixels
_PAIRS_AT_ONCE = 1 << 18  # 2 MB a word of their hashes: in the cache of a core, a third faster than 16 MB
_TILE_PX, _CAPTION_PX, _GAP_PX, _COLUMNS = 72, 14, 8, 8


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each of N faces the nearest on the other side."""

    at: Ints  # [N] its place there, -1: none
    bits: Ints  # [N] in which their hashes differ; EXACT, or NONE


def nearest(
    a: tuple[Bytes, Bytes], b: tuple[Bytes, Bytes], near_bits: int, *, within: bool = False
) -> tuple[Nearest, Nearest]:
    """The nearest in b of each face of a, and the nearest in a of each face of b, up to `near_bits` bits away.

    a and b are pixel hashes [N, 16] and perceptual hashes [N, 32]. `within` says that they are the same set: then only
    pairs count of which the face of a comes before that of b. Of several as near it is the first.
    """
    of_a, of_b = np.full(len(a[0]), NONE << 40, np.int64), np.full(len(b[0]), NONE << 40, np.int64)
    words, others = as_words(a[1]), as_words(b[1])
    chunk = max(1, _PAIRS_AT_ONCE // max(1, len(of_b)))
    for start in range(0, len(of_a), chunk):
        i, j, bits = compare(words[:, start : start + chunk], others, near_bits)
        i += start
        if within:
            i, j, bits = i[i < j], j[i < j], bits[i < j]
        np.minimum.at(of_a, i, bits << 40 | j)
        np.minimum.at(of_b, j, bits << 40 | i)
    found = tuple(Nearest(np.where(code >> 40 < NONE, code & (1 << 40) - 1, -1), code >> 40) for code in (of_a, of_b))
    _put_exact(found[0], found[1], a[0], b[0], within)
    return found[0], found[1]


def _put_exact(of_a: Nearest, of_b: Nearest, a: Bytes, b: Bytes, within: bool) -> None:
    """What has the same pixels wins over what is near."""
    _, group = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    group = group.reshape(-1)
    mine, theirs = group[: len(a)], group[len(a) :]
    place_a, place_b = (np.full(len(group), -1, np.int64) for _ in "ab")
    np.put(place_a, mine[::-1], np.arange(len(a))[::-1])  # of a group its first: the last that is put stays
    turn = 1 if within else -1  # within a set the last of a group comes after all others
    np.put(place_b, theirs[::turn], np.arange(len(b))[::turn])
    for nearest_, other in ((of_a, place_b[mine]), (of_b, place_a[theirs])):
        same = other >= 0
        if within:
            own = np.arange(len(other))
            same &= other > own if nearest_ is of_a else other < own
        nearest_.at[same], nearest_.bits[same] = other[same], EXACT


def sheet(pairs: Sequence[tuple[Sample, Sample, str]], file: Path) -> None:
    """Write a picture of pairs side by side, each with its caption."""
    width, height = 2 * _TILE_PX + _GAP_PX, _TILE_PX + _CAPTION_PX
    rows = max(1, -(-len(pairs) // _COLUMNS))
    drawn = Image.new("RGB", (_COLUMNS * width, rows * height), "white")
    for number, (one, other, caption) in enumerate(pairs):
        left, top = number % _COLUMNS * width, number // _COLUMNS * height
        for place, sample in enumerate((one, other)):
            face = Image.fromarray(decode(sample.image)).resize((_TILE_PX, _TILE_PX))
            drawn.paste(face, (left + place * _TILE_PX, top))
        ImageDraw.Draw(drawn).text((left, top + _TILE_PX), caption, fill="black")
    drawn.save(file)
