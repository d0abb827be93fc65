"""What publishing while training costs the training: runs with publish.every_steps beside runs without, in turns.

    python tests/benchmarks/publishing.py OUT [--rounds 5] [--steps 120] [--every 60] [overrides]

One rank with one thread, so that a core is left for the publisher, as on a machine with GPUs; the Hub is the loopback
one of tests/hub, in this process. A step's time is that from its beginning to the beginning of the next one: what lies
between steps counts too. Told apart are the steps during which a process was publishing, against the other steps of
the same run: the worst case, of a run that publishes without a pause. A ratio below 1 says that publishing costs time.

Measured (2026-11-27, two slow cores, alone) with `--rounds 4 --steps 100 --every 25`, median of the rounds and range,
44 % of the steps beside a publication: whole run 1.028 (1.016-1.084), beside a publication 1.009 (0.989-1.050). The
runs differ by more than publishing costs. Not measured: a GPU, and ranks on all cores, which the publisher would share.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/pretrain/faces_cpu.toml"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # `hub` is tests/hub, fer_scale is not tests/fer_scale


def be_a_run(overrides: list[str]) -> None:
    """Train, and print when each step began and whether a process was publishing then."""
    from fer_scale.pretrain import loop
    from fer_scale.pretrain.engine import Engine
    from fer_scale.pretrain.publishing import Publisher

    began: list[tuple[float, bool]] = []
    publishers: list[Publisher] = []
    make, step = Publisher.__init__, Engine.step

    def noted(self: Publisher, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        publishers.append(self)

    def timed(self: Engine, *args: Any) -> Any:
        began.append((time.perf_counter(), publishers[0]._running is not None))
        return step(self, *args)

    Publisher.__init__, Engine.step = noted, timed  # type: ignore[method-assign,assignment]
    loop.pretrain(RECIPE, overrides, [])
    print(json.dumps({"began": began}), flush=True)


def run(out: Path, environment: dict[str, str], *overrides: str) -> list[tuple[float, bool]]:
    """(seconds, whether a process was publishing) of each step but the first five."""
    command = [sys.executable, __file__, "--run", str(out), f"run.out={out}", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if not (said := re.search(r'{"began".*', done.stdout)):
        raise SystemExit(done.stdout + done.stderr)
    began = json.loads(said[0])["began"]
    steps = [(b - a, beside and after) for (a, beside), (b, after) in itertools.pairwise(began)]
    return steps[5:]


def packed(out: Path) -> Path:
    """A set of a thousand smooth pictures."""
    from shards.pack import pack

    rng = np.random.default_rng(0)
    (out / "pictures/a").mkdir(parents=True)
    for number in range(1000):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(out / f"pictures/a/{number}.jpg")
    pack(out / "pictures", out / "set", source="folder", name="smooth", workers=1, licence="cc0-1.0")
    return out / "set"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=60, help="steps between checkpoints, and publications")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.run:
        return be_a_run(args.overrides)

    from hub.server import Hub

    server = Hub(args.out / "hub")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_ENDPOINT": server.url}
    environment |= {"HF_HOME": str(args.out / "cache"), "HF_TOKEN": "hf_alicewritestolab", "HF_HUB_DISABLE_XET": "1"}
    keys = [f"data.shards={packed(args.out)}", "data.workers=0", f"run.steps={args.steps}", "card.license=mit"]
    keys += [f"run.checkpoint_every_steps={args.every}"]
    publish = ["publish.to=hf://lab/faces", f"publish.every_steps={args.every}"]
    ratios: dict[str, list[float]] = {"whole run": [], "beside a publication": []}
    for number in range(args.rounds):
        arms = {"without": [], "with": publish}
        steps = {
            name: run(args.out / f"{name}{number}", environment, *keys, *arms[name], *args.overrides)
            for name in (arms if number % 2 else reversed(arms))
        }
        without, whole, beside = (
            statistics.mean([s for s, _ in steps["without"]]),
            statistics.mean([s for s, _ in steps["with"]]),
            [s for s, publishing in steps["with"] if publishing],
        )
        ratios["whole run"].append(without / whole)
        others = [s for s, publishing in steps["with"] if not publishing]
        ratios["beside a publication"].append(statistics.median(others) / statistics.median(beside))
        share = len(beside) / len(steps["with"])
        said = f"{1000 * without:.1f} ms a step without, {1000 * whole:.1f} with, {share:.0%} of them beside"
        print(f"round {number}: {said}", flush=True)
    for name, found in ratios.items():
        print(f"{name:<22} ratio {statistics.median(found):.4f} ({min(found):.4f}-{max(found):.4f})")
    print(f"{len(server.store.repos['lab/faces'].commits) - 1} commits")
    server.stop()


if __name__ == "__main__":
    main()
