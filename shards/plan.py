"""What will lie where in a packed set, decided before the first byte is written.

A seeded random order of all images, cut into shards by size. Sets packed in a random order need no shuffle
buffer when they are read: any shard is a fair sample of the whole.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from shards.order import Ints, key, permutation
from shards.sources.listing import Listing
from shards.tar import BLOCK


@dataclass(frozen=True, slots=True)
class Plan:
    """Entry order[i] becomes sample i; shard k holds samples cuts[k] .. cuts[k+1] - 1."""

    order: Ints
    cuts: list[int]
    bytes: int  # about as many as the tars will have
    digest: str  # of all that decides the bytes: unfinished work goes on only under the same plan

    @property
    def shards(self) -> int:
        return len(self.cuts) - 1


def make_plan(listing: Listing, *, name: str, shard_mb: float, seed: int) -> Plan:
    """The plan for a listing: shards of up to `shard_mb` MB (10**6 bytes), in the order of `seed`."""
    sha256 = hashlib.sha256(json.dumps([name, shard_mb, seed, listing.protocol]).encode())
    sizes = np.empty(len(listing.entries), np.int64)
    for i, entry in enumerate(listing.entries):
        about = json.dumps([entry.origin, entry.size_bytes, repr(entry.face)])
        sha256.update(about.encode())
        blocks = 1 - (-entry.size_bytes // BLOCK) + (2 if entry.face else 0)
        sizes[i] = blocks * BLOCK
    order = permutation(key(seed), len(sizes))
    ends = np.cumsum(sizes[order])
    # A sample belongs to the shard in which its last byte falls: none grows past the limit by more than one.
    number = (ends - 1) // int(shard_mb * 1e6)
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return Plan(order, cuts, int(ends[-1]), sha256.hexdigest())
