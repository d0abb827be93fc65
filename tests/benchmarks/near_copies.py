"""How long it takes to find the near copies among N images, by their hashes: the part of `fer-scale split` that grows.

    python tests/benchmarks/near_copies.py [8000 28386 100000]
    python tests/benchmarks/near_copies.py 1000000x10000    between two sets, as `fer-scale overlap` does

The hashes are random, so nothing is near anything: all candidates are looked at.
"""

import resource
import sys
import time

import numpy as np

from shards.duplicates import groups
from shards.overlap import nearest


def main(counts: list[int]) -> None:
    for count in counts:
        rng = np.random.default_rng(count)
        pixels, perceptual = (rng.integers(0, 256, (count, width), dtype=np.uint8) for width in (16, 32))
        began = time.process_time()
        groups(pixels, perceptual)
        print(f"{count:>9,} images  {time.process_time() - began:.2f} s of one core", flush=True)


def between(count: int, others: int) -> None:
    rng = np.random.default_rng(count)
    one, other = ([rng.integers(0, 256, (n, width), dtype=np.uint8) for width in (16, 32)] for n in (count, others))
    began = time.process_time()
    nearest((one[0], one[1]), (other[0], other[1]), 18)
    spent_s, most_mb = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>9,} x {others:,} images  {spent_s:.1f} s of one core, {most_mb:.0f} MB", flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    for word in words:
        if "x" in word:
            between(*map(int, word.split("x")))
    if not any("x" in word for word in words):
        main([int(word) for word in words] or [8_000, 28_386, 100_000])
