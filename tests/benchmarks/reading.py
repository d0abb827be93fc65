"""From files to batches that are ready for the device: fer_scale and its rivals (rivals.py), in processor time.

    python tests/benchmarks/reading.py OUT --images FOLDER [--rounds 9] [--batches 5] [--only NAME ...]

FOLDER holds JPEGs of 112 px, as many as the rounds read. Makes below OUT an environment for each rival (on top of the
one this runs in, whose torch they share) and the images in its format, once. Then all loaders run at the same time and
take turns, in another order each round: a turn is so many batches of 256, its cost the processor time of all processes
of that loader. OUT/reading.json has every turn; the table is printed, and README has it.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import psutil
from rivals import READERS

BATCH = 256
PACKAGES = {
    "streaming": ["mosaicml-streaming"],
    "litdata": ["litdata"],
    "energon": ["megatron-energon"],
    "dali": ["nvidia-dali-cuda120"],
    "datasets": ["datasets"],
}
RIVALS = Path(__file__).with_name("rivals.py")


def python(out: Path, name: str) -> Path:
    """The interpreter of a loader's environment, which is made where it is missing."""
    if name not in PACKAGES:
        return Path(sys.executable)
    folder = out / "environments" / name
    found = folder / "bin/python"
    if not (folder / "ready").exists():
        print(f"environment of {name}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        [packages] = folder.glob("lib/python*/site-packages")
        [shared] = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
        subprocess.run([found, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
        (folder / "ready").touch()
    return found


def data(out: Path, name: str, images: Path) -> Path:
    """The images in a loader's format, which are put into it where they are not."""
    prepare = READERS[name][1]
    if isinstance(prepare, str):
        return data(out, prepare, images)
    folder = out / "data" / prepare.__name__.removeprefix("prepare_")
    ready = folder.with_suffix(".ready")
    if not ready.exists():
        print(f"images of {name}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python(out, name), RIVALS, "prepare", name, images, folder], check=True)
        ready.touch()
    return folder


class Loader:
    """A loader's process."""

    def __init__(self, out: Path, name: str, images: Path):
        folder = data(out, name, images)
        command = [str(word) for word in (python(out, name), RIVALS, "read", name, folder, BATCH)]
        log = (out / "log" / f"{name.replace(':', '')}.txt").open("w")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        self.tree = psutil.Process(self.process.pid)

    def answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("ready", "{")):
                return line
        raise SystemExit(f"{self.name} ended ({self.process.wait()}): see its log")

    def seconds(self) -> float:
        """Processor time of the process and all that descend from it, so far."""
        times = [one.cpu_times() for one in [self.tree, *self.tree.children(recursive=True)]]
        return sum(t.user + t.system for t in times)

    def megabytes(self) -> float:
        """Memory of all its processes; what they share counts once."""
        return sum(one.memory_full_info().pss for one in [self.tree, *self.tree.children(recursive=True)]) / 1e6

    def turn(self, batches: int) -> tuple[float, float]:
        """Read so many batches: processor and wall time an image in us."""
        began, before = time.monotonic(), self.seconds()
        assert self.process.stdin is not None
        self.process.stdin.write(f"{batches}\n")
        self.process.stdin.flush()
        images = json.loads(self.answer())["images"]
        passed = time.monotonic() - began
        time.sleep(0.5)  # its readers fill their buffers again, as they were before
        return (self.seconds() - before) / images * 1e6, passed / images * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(READERS))
    args = parser.parse_args()
    have = sum(1 for _ in args.images.rglob("*.jpg"))
    if args.rounds * args.batches * BATCH > have:  # some loaders end with an epoch
        wanted = f"{args.rounds} rounds of {args.batches} batches of {BATCH}"
        parser.error(f"{wanted} are more than the {have} images: ask for fewer, or give more images")
    (args.out / "log").mkdir(parents=True, exist_ok=True)
    loaders = []
    for name in dict.fromkeys(["fer_scale", *args.only]):  # the others are measured against it
        loaders.append(Loader(args.out, name, args.images))
        loaders[-1].answer()
        print(f"ready: {name}", flush=True)
    turns: dict[str, list[tuple[float, float]]] = {loader.name: [] for loader in loaders}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", flush=True)
        for loader in random.Random(number).sample(loaders, len(loaders)):
            turns[loader.name].append(loader.turn(args.batches))
    memory = {loader.name: loader.megabytes() for loader in loaders}
    (args.out / "reading.json").write_text(json.dumps({"us": turns, "mb": memory}, indent=1))
    print("\n".join(table(turns, memory)))
    for loader in loaders:
        for process in [*loader.tree.children(recursive=True), loader.tree]:
            process.kill()


def table(turns: dict[str, list[tuple[float, float]]], memory: dict[str, float]) -> list[str]:
    """Markdown: of each loader the processor time an image, and how many times that of fer_scale it is."""
    ours = [processor for processor, _ in turns["fer_scale"]]
    lines = ["| loader | us an image, processor | times fer_scale's | MB |", "|---|---|---|---|"]
    for name, measured in turns.items():
        processor = [turn[0] for turn in measured]
        ratios = sorted(theirs / our for theirs, our in zip(processor, ours, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        lines.append(f"| {name} | {statistics.median(processor):.0f} | {spread} | {memory[name]:.0f} |")
    return lines


if __name__ == "__main__":
    main()
