"""fer-scale finetune, but a process, NARROW says which, may take only ROOM MB more than after its set-up."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from fer_scale.__main__ import main
from fer_scale.finetune import begin

set_up = begin.set_up


def narrowed(*args: Any) -> begin.Run:
    run = set_up(*args)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(os.environ["ROOM"]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return run


if __name__ == "__main__":
    if os.environ.get("NARROW", "0") == os.environ.get("RANK", "0"):
        begin.set_up = narrowed
    sys.exit(main())
