"""How much memory packing takes, however many images there are, and how many it packs a second.

    python tests/benchmarks/pack_memory.py FOLDER [--images 1000000] [-- options of fer-scale pack ...]

Fills FOLDER/faces with links to a few drawn pictures of 112 px, packs them, and prints the peak resident memory of the
packer and of each of its processes. Remove FOLDER afterwards.

Measured (2026-11-25, a million images, --px 24, two processes): packer 305 MB, processes 273 MB each; with --duplicates
drop, where nearly all are copies and each is named, 414 MB and 42 MB.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

LINKS = 30_000  # of one file: below the limits of file systems
IDENTITY = 100  # images a person


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--px", type=int, default=112)
    args, options = parser.parse_known_args()
    if not (args.folder / "faces").exists():
        fill(args.folder, args.images, args.px)
    command = [
        sys.executable,
        "-m",
        "fer_scale",
        "pack",
        args.folder / "faces",
        args.folder / "set",
        "--source",
        "folder",
    ]
    began = time.monotonic()
    packer = subprocess.Popen(
        [str(word) for word in [*command, *(o for o in options if o != "--")]], stdout=subprocess.DEVNULL
    )
    peaks = dict[int, int]()
    while packer.poll() is None:
        for process in family(packer.pid):
            peaks[process] = max(peaks.get(process, 0), peak_mb(process))
        time.sleep(0.2)
    assert packer.returncode == 0, packer.returncode
    seconds = time.monotonic() - began
    others = sorted((mb for process, mb in peaks.items() if process != packer.pid), reverse=True)
    print(json.dumps({"images": args.images, "seconds": round(seconds), "images_per_s": round(args.images / seconds),
                      "packer_mb": peaks[packer.pid], "processes_mb": others}))  # fmt: skip


def fill(folder: Path, images: int, px: int) -> None:
    """A folder of faces for the packer: smooth noise, a file for every LINKS images and links to it."""
    (folder / "drawn").mkdir(parents=True)
    for number in range(images):
        drawn = folder / "drawn" / f"{number // LINKS}.jpg"
        if number % LINKS == 0:
            noise = np.random.default_rng(number).integers(0, 256, (px // 4, px // 4, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(noise).resize((px, px), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
            drawn.write_bytes(file.getvalue())
        if number % IDENTITY == 0:
            (folder / "faces" / f"person-{number // IDENTITY:07d}").mkdir(parents=True)
        os.link(drawn, folder / "faces" / f"person-{number // IDENTITY:07d}" / f"{number:09d}.jpg")


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []
    return [process, *(one for child in children for one in family(int(child)))]


def peak_mb(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak[0]) // 1024 if peak else 0


if __name__ == "__main__":
    main()
