"""Larger and larger micro-batches on this device, until one does not fit: `fer-scale check --try` starts this file.

Real steps of one rank, with random images; a line of JSON for each size that it got through. In a process of its own,
so that the device's memory, a limit of this account or the kernel may end it.
"""

import itertools
import json
import sys
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from fer_scale import config, memory
from fer_scale.pretrain import setup, start, world
from fer_scale.pretrain.engine import Engine
from fer_scale.pretrain.recipe import Plan, Pretrain

_TIMED, _LONG_S = 3, 4.0  # steps, after one that is not; fewer where they take so long
_HEAP_GROWS_BY = 2**26  # bytes on the host, kept free: a run lacked 8 MB in its tenth step, where these few had fitted


def sizes(most: int) -> list[int]:
    """Powers of two and what lies halfway between them, up to `most`, and `most`."""
    both = itertools.chain.from_iterable((2**k, 3 * 2 ** (k - 1)) for k in range(1, 31))
    return [1, *itertools.takewhile(lambda size: size < most, both), most] if most > 1 else [1]


def main(recipe_file: str, most: str, *overrides: str) -> None:
    rec = config.load(Pretrain, Path(recipe_file), list(overrides))
    us = world.join(rec.run.waiting_s)
    one = Plan(ranks=1, accumulation=1, images=1, steps=1, views=1, epochs=(1.0,), lr=1e-4, warmup_steps=0)
    model = setup.build(rec)
    if rec.model.start_from:  # what is wrong with them is better said here than by the job
        start.begin(model, rec.model, us)
    engine = Engine(model, rec, one, us)
    beside = _beside(engine)
    px = rec.model.image_px
    wanted = sizes(int(most))
    name = torch.cuda.get_device_name() if us.device.type == "cuda" else "cpu"
    print(json.dumps({"sizes": len(wanted), "device": name}), flush=True)
    for micro in wanted:
        images, keys = torch.rand(micro, 3, px, px, device=us.device), torch.arange(micro, device=us.device)
        taken = list[float]()
        while len(taken) < 2 or (len(taken) <= _TIMED and sum(taken) < _LONG_S):
            began = time.perf_counter()
            engine.step(iter([(images, keys)]), 1e-4).loss.item()
            taken.append(time.perf_counter() - began)
        print(json.dumps({"micro": micro, "seconds": min(taken[1:])}), flush=True)
    del beside


def _beside(engine: Engine) -> Tensor:
    """What a run has on the host beside these steps: a copy of the state, threads that save and watch, a worn heap."""
    for _ in range(3):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return torch.ones(2 * engine.numel_trained + engine.numel + _HEAP_GROWS_BY // 4)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (RuntimeError, MemoryError) as error:
        if not memory.is_short(error):
            raise
        print(json.dumps({"memory": str(error)}), flush=True)
