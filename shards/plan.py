"""What will lie where in a packed set, decided before the first byte is written.

A seeded random order of all images, cut into shards by size. In a set packed in a random order any shard is
a fair sample of the whole, so reading it needs no shuffle buffer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from shards.order import Ints, key, permutation
from shards.sources.listing import Entry
from shards.tar import BLOCK, padded


@dataclass(frozen=True, slots=True)
class Plan:
    """Entry order[i] of those to be packed becomes sample i; shard k holds the samples cuts[k] .. cuts[k+1] - 1."""

    order: Ints
    cuts: list[int]
    bytes: int  # of all tars together, nearly

    @property
    def shards(self) -> int:
        return len(self.cuts) - 1


class Chosen(Sequence[Entry]):
    """Some entries of a listing, made when asked for. To another process they travel as a plain list."""

    def __init__(self, entries: Sequence[Entry], places: Ints) -> None:
        self._entries, self._places = entries, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Entry]: ...
    def __getitem__(self, i: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(i, slice):
            return Chosen(self._entries, self._places[i])
        return self._entries[int(self._places[i])]

    def __reduce__(self) -> Any:
        return list, (), None, iter(self)


def survey(
    entries: Sequence[Entry], settings: list[Any], *, all_known: bool = False, most_bytes: int | None = None
) -> tuple[Ints, str]:
    """What each entry takes in a tar, nearly; and the digest of entries and settings, which decide all bytes of a set.

    Unfinished work goes on under the same digest only. `all_known`: each entry will have a JSON. `most_bytes`: what an
    image takes at most, of those that will be reduced.
    """
    sha256 = hashlib.sha256(json.dumps(settings).encode())
    sizes, reduced = np.empty(len(entries), np.int64), False
    for i, entry in enumerate(entries):
        about = f"{entry.origin}\n{entry.size_bytes}\n{entry.face}\n"
        sha256.update(about.encode("utf-8", "surrogateescape"))
        size = entry.size_bytes if most_bytes is None else min(entry.size_bytes, most_bytes)
        reduced |= size < entry.size_bytes
        sizes[i] = BLOCK + padded(size) + (2 * BLOCK if all_known or entry.face else 0)
    if reduced:  # other shards than the sources' sizes would give, which an older packer may have begun
        sha256.update(f"of at most {most_bytes} bytes".encode())
    return sizes, sha256.hexdigest()


def make_plan(sizes: Ints, *, shard_mb: float, seed: int) -> Plan:
    """The plan for entries of these sizes: shards of about `shard_mb` MB (10**6 bytes), in the random order of `seed`.

    What is encoded anew has another size, so shards of such images may be smaller or larger.
    """
    order = permutation(key(seed), len(sizes))
    ends = np.cumsum(sizes[order])
    number = (ends - 1) // max(1, int(shard_mb * 10**6))  # a sample is in the shard in which it ends
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return Plan(order, cuts, int(ends[-1]))
