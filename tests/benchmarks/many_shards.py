"""What a set of 17,000 shards, 42 million images, asks before its first batch, for a seek and for the next epoch.

    python tests/benchmarks/many_shards.py FOLDER --images IMAGES [--shards 17000] [--batch 4096] [--nodes 8]

IMAGES is a folder of JPEGs: 2,500 of them are packed into FOLDER/one, and FOLDER/many has links to that shard under as
many names. Prints JSON. Files are in the page cache: this is what our own code takes, not a network's file system.

Measured (two slow cores, batches of 4,096): opened in 0.53 s, a rank's first 64 images after 0.56 s and 28 MB (the
median of three, 2026-11-28, when three runs of before the rows were looked at took 0.41 and 0.44 s in turn with them);
the whole batch needs 64 shards of 14 MB; a raw read with its check 9.0 to 12.5 us; a seek 30 ms (37 at most); with
fixed lanes a node of eight meets all of its shards again.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from fer_scale.loader import Faces, batches
from shards.index import KINDS, ShardSet
from shards.order import Order, share
from shards.pack import pack

IMAGES = 2500  # of a shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=17_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--part", choices=("first", "then"))
    args = parser.parse_args()
    many = args.folder / "many"
    if args.part == "first":
        print(json.dumps(first_batch(many, args.batch)))
    elif args.part == "then":
        print(json.dumps(raw(many) | seeks(many, args.batch) | met_again(many, args.batch, args.nodes)))
    else:
        if not (many / "index.json").exists():
            fill(args.folder, args.images, args.shards)
        for part in ("first", "then"):  # each in a process of its own, whose peak of memory is its own
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)


def fill(folder: Path, images: Path, shards: int) -> None:
    chosen = folder / "chosen"
    chosen.mkdir(parents=True)
    for number, file in enumerate(sorted(images.rglob("*.jpg"))[:IMAGES]):
        os.link(file, chosen / f"{number:05d}.jpg")
    one = pack(chosen, folder / "one", source="folder", name="one")
    [row] = one.index["shards"]
    many = folder / "many"
    many.mkdir()
    for number in range(shards):
        for kind in KINDS:
            os.link(one.file(0, kind), many / f"many-{number:06d}.{kind}")
    rows = [row | {"name": f"many-{number:06d}"} for number in range(shards)]
    index = one.index | {"name": "many", "shards": rows, "samples": shards * row["samples"]}
    (many / "index.json").write_text(json.dumps(index))


def first_batch(many: Path, batch: int) -> dict[str, Any]:
    """From nothing to one rank's first micro-batch of 64 images, of 64 ranks."""
    before, began = peak_mb(), time.monotonic()
    shards = ShardSet.open(many)
    opened = time.monotonic()
    faces = Faces([shards], slot_px=112)
    order = Order(faces.counts, seed=0, batch=batch)
    steps = {"start_step": 0, "stop_step": 1, "rank": 0, "ranks": max(1, batch // 64)}
    [[first]] = batches(faces, order, **steps, accumulation=1, workers=0)
    done = time.monotonic()
    needed = order.upcoming(0, 1, 0, batch)
    return {
        "images": shards.samples,
        "opened_s": round(opened - began, 2),
        "first_batch_s": round(done - began, 2),
        "images_in_it": len(first.ids),
        "memory_mb": peak_mb() - before,
        "shards_of_the_first_global_batch": len(needed),
        "their_gb": round(sum(shards.index["shards"][shard]["bytes"] for shard in needed) / 1e9, 2),
    }


def raw(many: Path) -> dict[str, Any]:
    """Reading and checking a sample, no decoding: processor time, the least and most of five times 16,384 samples."""
    shards = ShardSet.open(many)
    order = Order(shards.counts, seed=0, batch=64)
    taken = []
    for turn in range(6):
        slots = [order.slots(step, 0, 64) for step in range(256 * turn, 256 * (turn + 1))]
        wanted = [place for s in slots for place in zip(s.shard.tolist(), s.row.tolist(), strict=True)]
        began = time.process_time()
        for shard, row in wanted:
            shards.read(shard, row)
        taken.append((time.process_time() - began) / len(wanted) * 1e6)
    return {"raw_read_us": [round(min(taken[1:]), 1), round(max(taken[1:]), 1)]}  # the first turn opens the shards


def seeks(many: Path, batch: int) -> dict[str, Any]:
    """The whole global batch of a random step within 30 epochs, by an order that has read nothing yet."""
    counts = ShardSet.open(many).counts
    taken = []
    for _ in range(20):
        order = Order(counts, seed=0, batch=batch)
        step = random.Random(len(taken)).randrange(order.steps(30))
        began = time.monotonic()
        order.slots(step, 0, batch)
        taken.append(time.monotonic() - began)
    return {"seek_ms": {"median": round(sorted(taken)[10] * 1e3, 1), "most": round(max(taken) * 1e3, 1)}}


def met_again(many: Path, batch: int, nodes: int) -> dict[str, Any]:
    """Of the shards a node reads in an epoch with fixed lanes, the share it had read in the one before: the least."""
    counts = ShardSet.open(many).counts
    order = Order(counts, seed=0, batch=batch, lanes_fixed=True)
    shares = []
    for node in range(nodes):
        mine = share(node, nodes, batch)
        epochs = [set(order.upcoming(order.steps(e), order.steps(1), mine.start, mine.stop)) for e in range(3)]
        shares += [len(now & before) / len(now) for before, now in pairwise(epochs)]
    return {"nodes": nodes, "met_again_at_least": round(min(shares), 3)}


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
