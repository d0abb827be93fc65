"""fer-scale, and which samples each rank reads for which step: a line of JSON for each in RECORD/START-RANK.jsonl."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disturbed import as_a_driver

from fer_scale import loader
from fer_scale.__main__ import main
from fer_scale.loader import Batch

batches = loader.batches


def recorded(*args: Any, start_step: int, rank: int, **more: Any) -> Iterator[list[Batch]]:
    with (Path(os.environ["RECORD"]) / f"{os.environ['START']}-{rank}.jsonl").open("w", buffering=1) as file:
        read = batches(*args, start_step=start_step, rank=rank, **more)
        for step, found in enumerate(read, start_step):
            ids = [number for batch in found for number in batch.ids.tolist()]
            file.write(json.dumps({"step": step, "rank": rank, "ids": ids}) + "\n")
            yield found


if __name__ == "__main__":
    as_a_driver()
    loader.batches = recorded
    sys.exit(main())
