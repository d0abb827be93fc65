"""Two steps of an engine at every ZeRO stage, with gradients that travel as fp32 and as bf16: a line of JSON for each.

FOLDER/zero0.json and so on are the layouts. Bytes a weight and step that are given to collectives are DeepSpeed's own
count.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import deepspeed
import torch

from fer_scale import config
from fer_scale.config import ConfigError
from fer_scale.pretrain import setup, world
from fer_scale.pretrain.engine import Engine
from fer_scale.pretrain.recipe import Plan, Pretrain

HERE = Path(__file__).parent
STEPS = 5


def measured(layout: Path, stage: int, precision: str, reduce_dtype: str, us: world.World) -> dict[str, Any]:
    given = ["data.shards=none", "run.out=none", f"run.deepspeed={layout}", "batch.size=24"]
    given += [f"run.precision={precision}", f"run.reduce_dtype={reduce_dtype}"]
    rec = config.load(Pretrain, HERE / "pretrain.toml", given)
    plan = Plan(ranks=us.ranks, accumulation=2, images=1, steps=1, views=1, epochs=(1.0,), lr=1e-3, warmup_steps=0)
    try:
        engine = Engine(setup.build(rec), rec, plan, us)
    except ConfigError as error:
        return {"refused": str(error)}
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(us.rank))
    keys = torch.arange(12) + 12 * us.rank
    batches = [(images[:6], keys[:6]), (images[6:], keys[6:])]
    engine.step(iter(batches), 1e-3)
    deepspeed.comm.configure(enabled=True, prof_all=True)
    for _ in range(STEPS):
        loss = engine.step(iter(batches), 1e-3).loss
    deepspeed.comm.configure(enabled=False)
    logged, sent = deepspeed.comm.comm.comms_logger.comms_dict, Counter[str]()
    for name, sizes in logged.items():
        kind = "gathered" if "gather" in name else "reduced"
        sent[kind] += sum(size * found[0] for size, found in sizes.items())
    logged.clear()
    held = hashlib.sha256()
    if stage < 3:
        for p in engine.module.parameters():
            held.update(p.detach().numpy().tobytes())
    prints = us.collect(held.hexdigest())
    return {"loss": us.sum(loss)[0] / 24, "alike": len(set(prints)) == 1,
            "sent": {kind: n / STEPS / engine.numel_trained for kind, n in sent.items()}}  # fmt: skip


def main(folder: Path) -> None:
    us = world.join(60)
    for precision in ("fp32", "bf16"):  # in this order: DeepSpeed's autocast stays on for the process
        for stage in range(4):
            for reduce_dtype in ("fp32", "bf16"):
                found = measured(folder / f"zero{stage}.json", stage, precision, reduce_dtype, us)
                if us.is_main:
                    case = {"precision": precision, "stage": stage, "reduce_dtype": reduce_dtype}
                    print(json.dumps(case | found), flush=True)
    us.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
