"""How fast one core packs, with and without the decode check, against libjpeg alone decoding the same images.

    python tests/benchmarks/packing.py FOLDER --images IMAGES [--rounds 5]

IMAGES is a folder of JPEGs. Processor time of one process, the three by turns; FOLDER holds a set for a moment.

Measured (2026-11-26, LFW at 112 px, nine rounds, two cores with AVX-512): libjpeg 82 us an image; without the check
59 us, 17,000 images/s a core; with it 255 us, 32 % of libjpeg's rate (31-34 %).
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg

from shards.pack import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    files = [file.read_bytes() for file in sorted(args.images.rglob("*.jpg"))]

    def decode() -> None:
        for data in files:
            simplejpeg.decode_jpeg(data, colorspace="RGB")

    def packed(decode_check: bool) -> Callable[[], None]:
        def work() -> None:
            pack(args.images, args.folder / "set", source="folder", workers=1, decode_check=decode_check)

        return work

    turns = {"libjpeg": decode, "with the check": packed(True), "without": packed(False)}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(args.rounds):
        for name, work in turns.items():
            began = time.process_time()
            work()
            taken[name].append((time.process_time() - began) / len(files))
            shutil.rmtree(args.folder / "set", ignore_errors=True)
    for name, seconds in taken.items():
        ratios = sorted(libjpeg / mine for libjpeg, mine in zip(taken["libjpeg"], seconds, strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<15} {middle * 1e6:4.0f} us, {1 / middle:6.0f} images/s a core, "
              f"{statistics.median(ratios):.0%} of libjpeg's rate ({ratios[0]:.0%}-{ratios[-1]:.0%})")  # fmt: skip


if __name__ == "__main__":
    main()
