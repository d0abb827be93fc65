"""A few real steps of each stage of a recipe on this device: `fer-scale check --try` starts this file.

The loop of a run, on its own faces, left after some steps; a line of JSON for what it took to begin, for each stage and
for the memory. In a process of its own, so that lack of memory may end it, and with a folder that goes with it.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

from fer_scale import config, memory
from fer_scale.finetune import begin, loop, processes
from fer_scale.finetune.again import TooLarge, halve
from fer_scale.finetune.begin import Run
from fer_scale.finetune.recipe import Finetune
from shards.errors import UserError

_UNTIMED, _TIMED = 2, 5  # steps
_LONG_S = 30.0  # after which two timed steps are enough
_ALONE = [  # nothing is logged, saved, measured or stopped while it is timed
    "run.tensorboard=false",
    "run.wandb=",
    f"run.log_every_steps={10**9}",
    "run.checkpoint_every_steps=0",
    "run.evaluate_every_steps=0",
    "run.keep_checkpoints=1",
    "run.stop_after_steps=0",
    "run.max_hours=0",
]


class _Enough(Exception):
    """The steps that were wanted are done."""


class _Clock:
    """What the loop calls after each step."""

    def __init__(self) -> None:
        self.steps_s = list[float]()
        self._at = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        self.steps_s.append(now - self._at)
        self._at = now
        timed = self.steps_s[_UNTIMED:]
        if len(timed) >= _TIMED or (len(timed) >= 2 and sum(self.steps_s) > _LONG_S):
            raise _Enough


def main(recipe_file: str, out: str, *overrides: str) -> None:
    recipe = config.load(Finetune, Path(recipe_file), [*overrides, *_ALONE, f"run.out={out}"])
    here = processes.join(recipe.run.precision)
    began = time.perf_counter()
    run = begin.set_up(recipe, [], here, begin.claim(recipe, [], here))
    print(json.dumps({"setup_s": time.perf_counter() - began, "device": here.device_name}), flush=True)
    for semi in (False, True):
        if (recipe.semi if semi else recipe.supervised).steps:
            run.step = recipe.supervised.steps if semi else 0
            seconds = _of_a_step(run, semi)
            said = {"stage": 3 if semi else 2, "seconds": seconds, "micro": run.recipe.batch.micro}
            print(json.dumps(said), flush=True)
    print(json.dumps({"peak_mb": _peak_mb(here.device)}), flush=True)


def _of_a_step(run: Run, semi: bool) -> float:
    """Seconds of a step of stage 2 or 3: the median of some, after those that are not timed where there are more."""
    clock = _Clock()
    try:
        while again := loop.stage(run, semi, clock):
            if isinstance(again, TooLarge):
                halve(run, str(again))
    except _Enough:
        pass
    return statistics.median(clock.steps_s[_UNTIMED:] or clock.steps_s)


def _peak_mb(device: torch.device) -> float:
    """The most memory that this process held: of a GPU what torch gave out, else all that lay in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with that of who started this process
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, UserError) and not memory.is_short(error):
            raise
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(2)
