"""What a checkpoint costs the training: how long it holds up the loop, and how much slower the steps beside it are.

    python tests/benchmarks/saving.py --out FOLDER [--ranks 1 2] [--stages 0 1] [--rounds 3] [overrides]

Ranks are processes of this machine, without a GPU, that share its cores. The state is that of the MAE of a ViT-B
(112 M weights, 1.34 GB); its pictures are small, so that steps are short. A round saves once in the loop's thread
(`run.checkpoint_async=false`), and once beside steps; the first round, in which the memory for the copies is taken,
counts by itself.

Measured (2026-11-27, two slow cores, alone), in seconds; range in brackets, where it is large:

    ranks  stage   save waited for   save beside steps   its stall           a step alone   and beside it
    1      0       3.35              3.31 (3.25-3.55)    0.11, 3.2 %         0.79           1.21
    1      1       3.47 (2.96-3.90)  5.15 (4.47-5.28)    0.19, 4.0 %         1.34           1.78
    2      0       1.61              3.26 (2.53-4.40)    0.10, 3.4 %         1.58           3.21
    2      1       1.93              2.93 (2.04-3.55)    0.16 (0.14-0.17),   2.59           4.64
                                                         5.9 %

The rows of one rank are of before what is saved was compared with the live weights beside the steps. Here training uses
all cores, of which the thread that writes takes a share. At stages 1 and 2 what lies across two ranks goes over gloo in
the loop's thread, as no collective may run beside those of a step.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "pretrain" / "faces_cpu.toml"
VIT_B = [
    "model.encoder=vit_base", "model.decoder_width=512", "model.decoder_depth=8", "model.decoder_heads=16",
    "model.image_px=64", "model.patch_px=16", "run.precision=fp32", "run.keep_checkpoints=1",
]  # fmt: skip
MICRO = 8  # images of a rank in a step
COLUMNS = ("waited for", "beside steps", "stall", "step alone", "step beside")


def be_a_rank(stage: int, rounds: int, out: Path, overrides: list[str]) -> None:
    """Save and step by turns; the main rank prints a line of JSON with the seconds of each round."""
    import torch

    from fer_scale import config, ending
    from fer_scale.pretrain import setup, world
    from fer_scale.pretrain.begin import Begun
    from fer_scale.pretrain.engine import Engine
    from fer_scale.pretrain.publishing import Publisher
    from fer_scale.pretrain.recipe import Plan, Pretrain
    from fer_scale.pretrain.saving import Saver

    ranks = int(os.environ["WORLD_SIZE"])
    keys = [f"run.deepspeed={ROOT}/configs/deepspeed/zero{stage}.json", f"run.out={out}", f"batch.micro={MICRO}"]
    keys += ["data.shards=none", f"batch.size={MICRO * ranks}"]
    rec = config.load(Pretrain, RECIPE, [*keys, *overrides])
    us = world.join(600)
    plan = Plan(ranks=ranks, accumulation=1, images=1, steps=1, views=1, epochs=(1.0,), lr=1e-4, warmup_steps=0)
    engine = Engine(setup.build(rec), rec, plan, us)
    attempt = us.tell(ending.claim(out) if us.is_main else None)
    begun = Begun(attempt, out / "log", list(range(ranks)), [us.name], [us.host])
    saver = Saver(engine, us, rec.run, begun, Publisher(rec, attempt, is_main=us.is_main))
    px = rec.model.image_px
    batch = [(torch.rand(MICRO, 3, px, px), torch.arange(MICRO))]

    def took(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        us.agree(0)
        return time.perf_counter() - began

    def step() -> float:
        return took(lambda: engine.step(iter(batch), 1e-4))

    table: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for _ in range(2):
        step()
    for number in range(rounds + 1):
        table["step alone"].append(statistics.median(step() for _ in range(3)))
        table["waited for"].append(took(lambda: (saver.begin({"step": 2 * number}), saver.finish())))  # noqa: B023
        step()
        saver.begin({"step": 2 * number + 1})
        beside, saved = [], None
        while not saved:
            beside.append(step())
            [writing] = us.agree(saver.writing)
            saved = None if writing else saver.settle()
        table["beside steps"].append(saved.seconds)
        table["stall"].append(saved.stall_s)
        table["step beside"].append(statistics.median(beside[:-1] or beside))
    if us.is_main:
        print(json.dumps({"table": table, "bytes": saved.bytes}), flush=True)
    us.leave()


def measured(ranks: int, stage: int, args: argparse.Namespace) -> None:
    shutil.rmtree(args.out, ignore_errors=True)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", __file__]
    command += [f"--stages={stage}", f"--rounds={args.rounds}", f"--out={args.out}", *VIT_B, *args.overrides]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    shutil.rmtree(args.out, ignore_errors=True)
    if not (said := re.search(r'{"table".*', done.stdout)):
        raise SystemExit(done.stdout + done.stderr)
    table = json.loads(said[0])["table"]
    print(f"{ranks:>5}  {stage:>5}", end="")
    for name in COLUMNS:
        first, *others = table[name]
        print(f"   {statistics.median(others):6.3f} ({min(others):.3f}-{max(others):.3f}; {first:.3f})", end="")
    shares = [stall / whole for stall, whole in zip(table["stall"], table["beside steps"], strict=True)][1:]
    print(f"   {statistics.median(shares):.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="a folder that is not there yet")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if "RANK" in os.environ:
        return be_a_rank(args.stages[0], args.rounds, args.out, args.overrides)
    print("seconds: median of the rounds (range; the first round)")
    print("ranks  stage", *(f"   {name:<24}" for name in COLUMNS), "   stall / save", sep="")
    for ranks in args.ranks:
        for stage in args.stages:
            measured(ranks, stage, args)


if __name__ == "__main__":
    main()
