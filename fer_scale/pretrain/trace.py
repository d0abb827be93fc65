"""Where a step's time goes: some steps of the main rank under torch's profiler, for a browser's trace viewer."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from fer_scale import log

T = TypeVar("T")
_SETTLED = 3  # steps before: the first ones compile, choose kernels and fill caches


def traced(steps: Iterator[T], count: int, file: Path) -> Iterator[T]:
    """The steps as they are; what is done with `count` of them, after the first few, is written to `file`."""
    recorder, number = None, -1
    try:
        for number, step in enumerate(steps):
            if number == _SETTLED:
                activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
                recorder = profile(activities=activities)
                recorder.start()
            if number == _SETTLED + count and recorder:
                _write(recorder, file)
                recorder = None
            yield step
    finally:
        if recorder:
            _write(recorder, file)  # the run ended before
        elif number < _SETTLED:
            log.say(f"nothing profiled: the first {_SETTLED} steps of a start are not, and there were {number + 1}")


def _write(recorder: profile, file: Path) -> None:
    recorder.stop()
    recorder.export_chrome_trace(str(file))
    log.say(f"profiled: {file}, for a trace viewer such as Perfetto")
