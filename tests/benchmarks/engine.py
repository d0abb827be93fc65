"""A step of our DeepSpeed engine against one of plain torch DDP: the same model, batches and optimizer, by turns.

    torchrun --nproc-per-node 2 tests/benchmarks/engine.py --set SHARDS [--stage 1] [--rounds 9] [overrides]

On processors set DS_ACCELERATOR=cpu and OMP_NUM_THREADS=1. A turn is so many steps of one of the two, with the views
made in it; printed are the time of a step and how many times as fast as DDP the engine is, median and range over the
rounds.

Measured (2026-11-26, two ranks on two slow cores, FERPlus), four runs at stage 0, which does what DDP does: 0.99
(0.76-1.02), 0.89 (0.82-1.06), 0.99 (0.89-1.45), 0.95 (0.90-1.00); on another machine 0.92 (0.79-1.10). At stage 1,
which sends half as much again, 0.88 (0.85-0.90) and, there, 0.90 (0.83-0.98).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from fer_scale import config, images, loader, optim
from fer_scale.pretrain import recipe, setup, world
from fer_scale.pretrain.engine import Engine
from fer_scale.pretrain.recipe import Pretrain

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs/pretrain/faces_cpu.toml")
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    layout = f"run.deepspeed={ROOT}/configs/deepspeed/zero{args.stage}.json"
    rec = config.load(Pretrain, args.recipe, [f"data.shards={args.set}", "run.out=none", layout, *args.overrides])
    us = world.join(600)
    faces, order, _ = setup.table(rec, setup.opened(rec.data))
    plan = recipe.plan(rec, us.ranks, order)
    steps = loader.batches(
        faces, order, start_step=0, stop_step=plan.steps, rank=us.rank, ranks=us.ranks, accumulation=1, workers=0,
        device=us.device,
    )  # fmt: skip
    read = list(islice(steps, args.steps))
    engine = Engine(setup.build(rec), rec, plan, us)
    plain = DistributedDataParallel(setup.build(rec).to(us.device))
    groups = optim.parameter_groups(plain.module, rec.optim.weight_decay)
    adamw = torch.optim.AdamW(groups, lr=plan.lr, betas=rec.optim.betas, fused=True)

    def view(batches: list[loader.Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        [b] = batches
        seen = images.training_view(b.pixels, b.sizes, b.keys, rec.model.image_px, rec.augment)
        keys = torch.from_numpy(b.keys.view("int64")).to(us.device)
        return images.normalise(seen, rec.model.mean, rec.model.std), keys

    def ours() -> None:
        for batches in read:
            engine.step(iter([view(batches)]), plan.lr)

    def ddp() -> None:
        for batches in read:
            with torch.autocast(us.device.type, torch.bfloat16, enabled=rec.run.precision == "bf16"):
                loss = plain(*view(batches)).sum() * us.ranks / rec.batch.size
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), rec.optim.clip_norm).item()
            adamw.step()
            adamw.zero_grad()

    def turn(work: Callable[[], None]) -> float:
        us.agree(0)
        began = time.perf_counter()
        work()
        us.agree(0)  # a GPU is waited for, too
        return (time.perf_counter() - began) / args.steps

    taken: dict[str, list[float]] = {"engine": [], "ddp": []}
    for number in range(args.rounds + 1):  # the first warms up
        for name, work in (("engine", ours), ("ddp", ddp)) if number % 2 else (("ddp", ddp), ("engine", ours)):
            taken[name].append(turn(work))
    if us.is_main:
        report(taken)
    us.leave()


def report(taken: dict[str, list[Any]]) -> None:
    pairs = list(zip(taken["engine"], taken["ddp"], strict=True))[1:]
    ratios = sorted(ddp / ours for ours, ddp in pairs)
    for name, column in zip(("engine", "ddp"), zip(*pairs, strict=True), strict=True):
        print(f"{name:<7} {1e3 * statistics.median(column):.1f} ms a step")
    print(f"engine / ddp: {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f}-{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
