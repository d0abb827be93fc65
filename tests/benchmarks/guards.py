"""What a step pays for never losing a run: agreeing about stops, the watchdog, slow ranks, skipped steps.

    torchrun --nproc-per-node 2 tests/benchmarks/guards.py --set SHARDS --out RUN [--steps 300] [overrides]

On processors set DS_ACCELERATOR=cpu and OMP_NUM_THREADS=1. Runs `fer-scale pretrain` and takes the time of every call
of a guard; before ranks agree they wait for one another untimed, as they do in a step anyway. Of a checkpoint the guard
is tests/benchmarks/saving.py's.

Measured (2026-11-26, two ranks on two slow cores, alone) with `--steps 300`: 0.79 ms, of one of 100 ms 0.79 %. Of it
0.63 ms are for the ranks to agree, an all-reduce over gloo, 0.10 for slow ranks, 0.04 to look for a stop.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fer_scale import ending, skips
from fer_scale.pretrain import loop, stragglers, watchdog, world

ROOT = Path(__file__).parents[2]
GUARDS = (
    (ending.StopSignal, "asked"),
    (world.World, "agree"),
    (watchdog.Watchdog, "beat"),
    (skips.Skips, "seen"),
    (stragglers.Stragglers, "after"),
)
STEP_MS = 100.0  # the step that the share is of

spent: dict[str, list[float]] = defaultdict(list)  # seconds of each call


def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in ("agree", "after"):
            dist.barrier()
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name].append(time.perf_counter() - start)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True)
    parser.add_argument("--out", required=True, help="a folder that is not there yet")
    parser.add_argument("--recipe", type=Path, default=ROOT / "tests/ranks/pretrain.toml")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    for owner, name in GUARDS:
        setattr(owner, name, timed(name, getattr(owner, name)))
    never = f"run.checkpoint_every_steps={args.steps}"
    given = [f"data.shards={args.set}", f"run.out={args.out}", f"run.steps={args.steps}", never, *args.overrides]
    loop.pretrain(args.recipe, given, [])
    if os.environ.get("RANK", "0") == "0":
        report(args.steps)


def report(steps: int) -> None:
    whole = 0.0
    for _, name in GUARDS:
        calls = spent[name]
        ms = 1000 * statistics.median(calls) if name != "after" else 1000 * sum(calls) / len(calls)
        whole += ms
        print(f"{name:<8} {len(calls):>5} calls in {steps} steps   {1000 * ms:7.1f} us")
    print(f"{'all':<8} {whole:.3f} ms a step: {whole / STEP_MS:.2%} of one of {STEP_MS:g} ms")


if __name__ == "__main__":
    main()
