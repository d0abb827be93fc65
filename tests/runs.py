"""What tests of runs share: the recipe of pre-training, how DeepSpeed lays a run out, its curve and its events."""

import json
from pathlib import Path
from typing import Any

from fer_scale import config, log
from fer_scale.pretrain.recipe import Pretrain

RECIPE = Path(__file__).parent / "ranks" / "pretrain.toml"
NOWHERE = Path("/nowhere")


def recipe(*overrides: str, out: Path = NOWHERE) -> Pretrain:
    """RECIPE, of a set that is not there."""
    return config.load(Pretrain, RECIPE, [f"data.shards={NOWHERE}", f"run.out={out}", *overrides])


def layout(folder: Path, stage: int) -> str:
    """The override by which a run has this ZeRO stage; the file that it names is written into `folder`."""
    # Threshold 0: at stage 3 even the smallest parameter is cut, as in a large model.
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    (folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": zero}))
    return f"run.deepspeed={folder / f'zero{stage}.json'}"


def losses(run: Path) -> list[float]:
    """Those of all logged steps."""
    return [row["loss"] for row in log.rows(run / "metrics.jsonl")]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Those of one kind, in their order."""
    return [row for row in log.rows(run / "events.jsonl") if row["event"] == kind]
