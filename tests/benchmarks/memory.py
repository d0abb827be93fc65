"""The memory of real ranks at each ZeRO stage, against what cost.py foretells.

    python tests/benchmarks/memory.py [--ranks 1 2 4] [--stages 0 1 2 3] [--micro 48] [--accumulation 1] [overrides]

Ranks are processes of this machine, without a GPU. A rank's memory is the most that was resident through three steps,
less what was resident before the model was built, and less the same of a model of hardly any weights, which is what
DeepSpeed's code takes. So that this counts what a GPU would, malloc gives back every large block at once, and torch
fills what torch.empty returns, which is not resident before it is written.

Measured (2026-11-26, two slow cores; 32 M weights, 48 images): MB, and how many times what is foretold

    ranks  stage 0     1           2           3
    1      647 (1.01)  845 (1.01)  973 (1.01)  1039 (1.01)
    2      649 (1.01)  652 (1.01)  780 (1.01)  880 (0.98)
    4      650 (1.01)  556 (1.01)  684 (1.01)  718 (0.97)

The formulas were worked out on this model, stage 3 last, after 1.17 on four ranks (measured again since: 0.97). Not
measured: bf16, accumulation, buckets smaller than the model. Code takes 31 MB at stage 0, 79 to 82 MB at the others.
"""

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "pretrain" / "faces_cpu.toml"
LARGE = ["model.encoder=512x10x8", "model.decoder_width=128", "model.decoder_heads=4"]  # 32 M weights
TINY = ["model.encoder=16x1x2", "model.decoder_width=16", "model.decoder_heads=2", "model.decoder_depth=1"]
ENV = {"DS_ACCELERATOR": "cpu", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
MALLOPT = {-1: 65536, -2: 0, -3: 65536}  # malloc.h: trim threshold, top pad, mmap threshold


def resident(line: str) -> int:
    """Bytes of this process now (VmRSS) or at most (VmHWM)."""
    [found] = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(line)]
    return int(found.split()[1]) * 1024


def be_a_rank(stage: int, micro: int, accumulation: int, overrides: list[str]) -> None:
    """Some steps at one stage; prints a line of JSON."""
    import torch

    from fer_scale import config
    from fer_scale.pretrain import cost, setup, world
    from fer_scale.pretrain.engine import Engine
    from fer_scale.pretrain.layout import layout_for, overlaps
    from fer_scale.pretrain.recipe import Plan, Pretrain

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills torch.empty
    ranks = int(os.environ["WORLD_SIZE"])
    layout_file = f"run.deepspeed={ROOT}/configs/deepspeed/zero{stage}.json"
    size = micro * accumulation * ranks
    keys = ["data.shards=none", layout_file, f"batch.size={size}", f"batch.micro={micro}", *overrides]
    rec = config.load(Pretrain, RECIPE, keys)
    us = world.join(600)
    for option, value in MALLOPT.items():
        ctypes.CDLL(None).mallopt(option, value)
    plan = Plan(
        ranks=ranks, accumulation=accumulation, images=1, steps=1, views=1, epochs=(1.0,), lr=1e-4, warmup_steps=0
    )
    px = rec.model.image_px
    batch = [(torch.rand(micro, 3, px, px), torch.arange(micro)) for _ in range(accumulation)]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM is VmRSS again
    before = resident("VmRSS")
    engine = Engine(setup.build(rec), rec, plan, us)
    for _ in range(3):
        engine.step(iter(batch), 1e-4)
    grown = resident("VmHWM") - before
    shape, layout = setup.shape_of(rec), layout_for(rec.run.deepspeed, setup.shape_of(rec).trained)
    foretold = cost.memory(
        shape, stage=stage, ranks=ranks, micro=micro, precision=rec.run.precision, recompute=rec.run.recompute,
        bucket=layout["reduce_bucket_size"], overlap=overlaps(layout),
        accumulation=accumulation,
    )  # fmt: skip
    print(json.dumps({"grown": grown, "foretold": foretold.total}), flush=True)
    us.leave()


def measured(ranks: int, stage: int, args: argparse.Namespace, micro: int, sizes: list[str]) -> tuple[float, float]:
    """Bytes that the largest rank grew by, and what was foretold."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", __file__]
    command += [f"--stages={stage}", f"--micro={micro}", f"--accumulation={args.accumulation}", *sizes, *args.overrides]
    done = subprocess.run(command, env=os.environ | ENV, capture_output=True, text=True)
    said = [json.loads(text) for text in re.findall(r'{"grown".*?}', done.stdout)]  # two may share a line
    if len(said) < ranks:
        raise SystemExit(done.stderr)
    return max(rank["grown"] for rank in said), said[0]["foretold"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--micro", type=int, default=48)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if "RANK" in os.environ:
        return be_a_rank(args.stages[0], args.micro, args.accumulation, args.overrides)
    for ranks in args.ranks:
        for stage in args.stages:
            code, _ = measured(ranks, stage, args, 1, TINY)
            whole, foretold = measured(ranks, stage, args, args.micro, LARGE)
            mb = [round(size / 1e6) for size in (whole - code, foretold, code)]
            quotient = (whole - code) / foretold
            print(
                f"{ranks} ranks, stage {stage}: {mb[0]} MB, foretold {mb[1]}: {quotient:.2f} (code {mb[2]} MB)",
                flush=True,
            )


if __name__ == "__main__":
    main()
