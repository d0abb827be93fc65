"""What tests of pre-training runs share: how DeepSpeed lays one out, and its curve."""

import json
from pathlib import Path

from fer_scale import log


def layout(folder: Path, stage: int) -> str:
    """The override by which a run has this ZeRO stage; the file that it names is written into `folder`."""
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    (folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": zero}))
    return f"run.deepspeed={folder / f'zero{stage}.json'}"


def losses(run: Path) -> list[float]:
    """Those of all logged steps."""
    return [row["loss"] for row in log.rows(run / "metrics.jsonl")]
