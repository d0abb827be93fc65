"""A watchdog whose steps may take 1.5 s: many short steps and a long save, then a step that never ends; or that ends.

WATCHED is what it does last: hang, lock (Python's lock is kept by a call) or end.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

import torch

from fer_scale import ending
from fer_scale.pretrain import limits
from fer_scale.pretrain.begin import Begun
from fer_scale.pretrain.watchdog import Watchdog
from fer_scale.pretrain.world import World


def hang() -> None:
    time.sleep(1000)


def main(out: Path) -> None:
    us = World(0, 1, torch.device("cpu"))
    attempt = ending.claim(out)
    begun = Begun(attempt, attempt.folder / "rank-0.log", [0], [us.name], [us.host])
    with Watchdog(limits.of_phases(("step=1.5",)), us, begun) as watchdog:
        for step in range(18):
            watchdog.beat(step)
            time.sleep(0.1)
        with watchdog.phase("save"):
            time.sleep(1.8)
        print("all is well", flush=True)
        if os.environ["WATCHED"] == "lock":
            ctypes.PyDLL(None).pause()
        if os.environ["WATCHED"] == "hang":
            hang()
    time.sleep(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
