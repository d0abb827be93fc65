"""What our loop costs beside reading, views, forward, backward and the optimizer's step.

    python tests/benchmarks/loop.py --set SHARDS [--batch 8] [--steps 200] [--workers 0] [overrides]

Runs `fer-scale pretrain` with one rank of one thread in this process, and takes the time of the calls that do the work:
of the loader, of the views, of clipping at stage 0, and of DeepSpeed's forward, backward and step. The rest of a step
is ours: agreeing with the other ranks, metrics, the log.

Measured (2026-11-26, two slow cores, alone, batches of 8, medians of 180 steps): 1.0 ms of 51 ms without a reader,
1.9 %, and 1.0 ms of 47 ms with one, 2.1 %; clipping takes 1.5 to 1.7 ms beside that.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

import torch

from fer_scale.pretrain import engine, loop

ROOT = Path(__file__).parents[2]
WARM = 20  # steps before the first that counts

spent = defaultdict[str, float](float)  # seconds since the last step began
steps = list[tuple[float, dict[str, float]]]()  # when each began, and what was spent in the one before it


def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return call


def timed_items(name: str, work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Of a generator: the time that each of its items takes."""

    def items(*args: Any, **kwargs: Any) -> Iterator[Any]:
        given = work(*args, **kwargs)
        take = timed(name, lambda: next(given, None))
        while (item := take()) is not None:
            yield item

    return items


def watch() -> None:
    """Put clocks around what does the work."""
    loop.loader.batches = timed_items("reading", loop.loader.batches)
    loop._views = timed_items("views", loop._views)
    deepspeed = engine.deepspeed.DeepSpeedEngine
    for name in ("forward", "backward", "step"):
        setattr(deepspeed, name, timed(name, getattr(deepspeed, name)))
    engine.nn.utils.clip_grad_norm_ = timed("clipping", engine.nn.utils.clip_grad_norm_)
    step = loop.Engine.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        steps.append((time.perf_counter(), dict(spent)))
        spent.clear()
        return step(*args, **kwargs)

    loop.Engine.step = noted


def measured(args: argparse.Namespace, workers: int) -> None:
    """A run with so many readers; prints the medians of a step."""
    with tempfile.TemporaryDirectory() as out:
        keys = [f"data.shards={args.set}", f"run.out={out}/run", f"run.steps={args.steps}", f"data.workers={workers}"]
        keys += [f"batch.size={args.batch}", f"batch.micro={args.batch}", "optim.warmup_steps=10"]
        keys += ["run.checkpoint_every_steps=1000000", "run.log_every_steps=20"]
        loop.pretrain(ROOT / "configs/pretrain/faces_cpu.toml", [*keys, *args.overrides], [])
    whole = [after - before for (before, _), (after, _) in pairwise(steps[WARM:])]
    parts = [spent for _, spent in steps[WARM + 1 :]]
    ours = statistics.median(all_ - sum(each.values()) for all_, each in zip(whole, parts, strict=True))
    step = statistics.median(whole)
    named = ", ".join(f"{name} {1e3 * statistics.median(p[name] for p in parts):.1f}" for name in parts[0])
    print(f"workers={workers}: {1e3 * step:.1f} ms a step: {named}; ours {1e3 * ours:.2f} ms, {ours / step:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    watch()
    measured(args, args.workers)


if __name__ == "__main__":
    main()
