"""What will lie where in a packed set, decided before the first byte is written.

A seeded random order of all images, cut into shards by size. In a set packed in a random order any shard is
a fair sample of the whole, so reading it needs no shuffle buffer.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from shards.order import Ints, key, permutation
from shards.sources.listing import Listing
from shards.tar import BLOCK, padded


@dataclass(frozen=True, slots=True)
class Plan:
    """Entry order[i] of the listing becomes sample i; shard k holds the samples cuts[k] .. cuts[k+1] - 1."""

    order: Ints
    cuts: list[int]
    bytes: int  # of all tars together, nearly
    digest: str  # of all that decides the bytes: unfinished work goes on under the same plan only

    @property
    def shards(self) -> int:
        return len(self.cuts) - 1


def make_plan(listing: Listing, *, name: str, shard_mb: float, seed: int) -> Plan:
    """The plan for a listing: shards of about `shard_mb` MB (10**6 bytes), in the random order of `seed`."""
    sha256 = hashlib.sha256(json.dumps([name, shard_mb, seed]).encode())
    sizes = np.empty(len(listing.entries), np.int64)
    for i, entry in enumerate(listing.entries):
        about = f"{entry.origin}\n{entry.size_bytes}\n{entry.face}\n"
        sha256.update(about.encode("utf-8", "surrogateescape"))
        sizes[i] = BLOCK + padded(entry.size_bytes) + (2 * BLOCK if entry.face else 0)
    order = permutation(key(seed), len(sizes))
    ends = np.cumsum(sizes[order])
    number = (ends - 1) // max(1, int(shard_mb * 10**6))  # a sample is in the shard in which it ends
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return Plan(order, cuts, int(ends[-1]), sha256.hexdigest())
