"""How long it takes to find the near copies among N images, by their hashes: the part of `fer-scale split` that grows.

    python tests/benchmarks/near_copies.py [8000 28386 100000]

The hashes are random, so nothing is near anything: all candidates are looked at.
"""

import sys
import time

import numpy as np

from shards.duplicates import groups


def main(counts: list[int]) -> None:
    for count in counts:
        rng = np.random.default_rng(count)
        pixels, perceptual = (rng.integers(0, 256, (count, width), dtype=np.uint8) for width in (16, 32))
        began = time.process_time()
        groups(pixels, perceptual)
        print(f"{count:>9,} images  {time.process_time() - began:.2f} s of one core", flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [8_000, 28_386, 100_000])
