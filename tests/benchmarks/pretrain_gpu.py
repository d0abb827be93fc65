"""Pre-training on one GPU: images/s, MFU, waiting for data and memory, over models, sizes, ZeRO stages and compilation.

    python tests/benchmarks/pretrain_gpu.py OUT --set SHARDS [--seconds 540] [--only vit_base vit_large] [--dry]

Every row is a run of `fer-scale pretrain` from shards, ended by a kill when it is measured: the median over the lines
of its log after the first, each of LINE steps. MFU is what forward and backward take (cost.py, nothing for cropping)
over the peak that --tflops says. The row of the reference is the MAE repository's loop with its own batch and precision
(reference_loop.py); it is to be compared with "as the recipe". Rows that no longer fit into --seconds are named. --dry
runs every row with two images a step, to see on a machine without a GPU that all of them start and are measured; its
figures mean nothing.

Measured (2026-11-26, H100, 16 slow cores, torch 2.11, FERPlus): vit_small 48 px 17,639 images/s, compiled 20,097,
waiting 1 % of the time, 4.8 and 4.5 GB. No other row: the next did not start within 60 s, and the time was over.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fer_scale import config, log
from fer_scale.pretrain import setup
from fer_scale.pretrain.recipe import Pretrain

ROOT = Path(__file__).parents[2]
BASE, SMALL = "configs/pretrain/ssfer_vit_base.toml", "configs/pretrain/vit_small_112.toml"
FACES = "configs/pretrain/faces_gpu.toml"
LARGE_BATCH = ["batch.size=512", "batch.micro=512"]
LARGE = ["model.encoder=vit_large", "batch.size=512", "batch.micro=256"]
REFERENCE = "vit_base 224 px, the reference's loop"
LINE, LINES = 10, 6  # steps in a line of the log, lines that are measured
ROWS: dict[str, tuple[str, list[str]]] = {  # name -> recipe, overrides
    "vit_small 48 px": (FACES, []),
    "vit_small 48 px, compiled": (FACES, ["run.compile=true"]),
    "vit_base 224 px, zero 1": (BASE, LARGE_BATCH),
    "vit_base 224 px, compiled": (BASE, [*LARGE_BATCH, "run.compile=true"]),
    "vit_large 224 px": (BASE, LARGE),
    "vit_base 224 px, as the recipe": (BASE, []),
    REFERENCE: (BASE, []),
    "vit_small 112 px": (SMALL, ["batch.micro=1024"]),
    "vit_base 224 px, zero 3": (BASE, [*LARGE_BATCH, "run.deepspeed=configs/deepspeed/zero3.json"]),
    "vit_base 224 px, zero 2": (BASE, [*LARGE_BATCH, "run.deepspeed=configs/deepspeed/zero2.json"]),
    "vit_base 224 px, zero 0": (BASE, [*LARGE_BATCH, "run.deepspeed=configs/deepspeed/zero0.json"]),
    "vit_large 224 px, compiled": (BASE, [*LARGE, "run.compile=true"]),
    "vit_small 112 px, compiled": (SMALL, ["batch.micro=1024", "run.compile=true"]),
    "vit_base 112 px": (SMALL, ["model.encoder=vit_base", "batch.micro=512"]),
}  # fmt: skip


def measure(out: Path, recipe: str, overrides: list[str], seconds: float, line: int) -> dict[str, Any]:
    """The row of one run, with `line` steps in a line of its log; {"failed": ...} where it did not come so far."""
    out.mkdir(parents=True)
    keys = [f"run.out={out}", f"run.log_every_steps={line}", "run.checkpoint_every_steps=1000000"]
    schedule = ["run.epochs=none", "run.steps=1000000", "optim.warmup_epochs=none", "optim.warmup_steps=1000"]
    command = [sys.executable, "-m", "fer_scale", "pretrain", recipe, *overrides, *keys, *schedule]
    ends = time.monotonic() + seconds
    with (out / "said.txt").open("w") as said:
        run = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        rows: list[dict[str, Any]] = []
        while len(rows) <= LINES and run.poll() is None and time.monotonic() < ends:
            time.sleep(0.2)
            rows = log.rows(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    if len(rows) < 3:
        return {"failed": (out / "said.txt").read_text()[-600:]}
    middle = {name: statistics.median(row[name] for row in rows[1:]) for name in ("images_per_s", "data_wait")}
    return middle | {"memory_gb": round(rows[-1].get("memory_mb", 0) / 1e3, 1), "lines": len(rows) - 1}


def reference(out: Path, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The row of the MAE repository's loop: one set as files in a folder."""
    out.mkdir(parents=True)
    shards = json.loads(args.set)[0] if args.set.startswith("[") else args.set
    size = ["--batch", "2", "--steps", "3", "--workers", "1"] if args.dry else []
    command = [sys.executable, str(ROOT / "tests/benchmarks/reference_loop.py"), str(out / "images"), "--set", shards]
    try:
        done = subprocess.run([*command, *size], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not measured within {seconds:.0f} s"}
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.stderr[-600:]}


def flops(recipe: str, overrides: list[str]) -> float:
    """Of forward and backward, an image."""
    rec = config.load(Pretrain, ROOT / recipe, overrides)
    return setup.shape_of(rec).step_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", required=True, help="a shard set, or the list that data.shards takes")
    parser.add_argument("--seconds", type=float, default=540, help="in all (540)")
    parser.add_argument("--each", type=float, default=90, help="the most for a row (90)")
    parser.add_argument("--tflops", type=float, default=989, help="the device's peak in bf16 (989: H100 SXM, H200)")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name begins so")
    parser.add_argument("--dry", action="store_true", help="two images a step")
    args = parser.parse_args()
    ends = time.monotonic() + args.seconds
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    wanted = [name for name in ROWS if not args.only or name.startswith(tuple(args.only))]
    for name in wanted:
        left = ends - time.monotonic()
        if left < 25:
            print(f"{name}: no time left", flush=True)
            continue
        recipe, overrides = ROWS[name]
        given = [*overrides, f"data.shards={args.set}", f"data.workers={args.workers}"]
        given += ["batch.size=2", "batch.micro=2"] if args.dry else []
        folder, seconds = args.out.resolve() / name.replace(" ", "_").replace(",", ""), min(args.each, left)
        if name == REFERENCE:
            row = reference(folder, args, seconds)
        else:
            row = measure(folder, recipe, given, seconds, 1 if args.dry else LINE)
        if "failed" not in row:
            row["gflop"] = round(flops(recipe, given) / 1e9, 2)
            row["mfu"] = round(row["images_per_s"] * row["gflop"] / 1e3 / args.tflops, 3)
        found[name] = row
        (args.out / "pretrain_gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name:34s} {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
