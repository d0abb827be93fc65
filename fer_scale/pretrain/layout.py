"""The DeepSpeed JSON: how ZeRO lays its state out, and nothing that changes the mathematics.

DeepSpeed ignores a top-level key that it does not know: `zero_optimizaton` trains at stage 0 without a word, and
clips at 1.0 by default. So only known keys pass.
"""

import difflib
import json
from pathlib import Path
from typing import Any

from fer_scale import shipped
from fer_scale.config import ConfigError
from fer_scale.pretrain.recipe import Run

ZERO = {  # key -> type
    "stage": int,
    "reduce_bucket_size": int,
    "allgather_bucket_size": int,
    "overlap_comm": bool,
    "contiguous_gradients": bool,
    "reduce_scatter": bool,
    "sub_group_size": int,
    "stage3_prefetch_bucket_size": int,
    "stage3_param_persistence_threshold": int,
    "stage3_max_live_parameters": int,
    "stage3_max_reuse_distance": int,
}
RECIPE_OWNS = {
    "train_batch_size": "batch.size",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.size and batch.micro",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "the section [optim]",
    "scheduler": "the section [optim]",
    "fp16": "run.precision",
    "bf16": "run.precision",
    "torch_autocast": "run.precision",
    "communication_data_type": "run.reduce_dtype",
    "activation_checkpointing": "run.recompute",
}

_BUCKET = 500_000_000  # DeepSpeed's default, in elements


def layout_for(file: Path, weights: int) -> dict[str, Any]:
    """The layout of a model of so many trained weights.

    DeepSpeed takes the memory of a bucket as a whole, 2 GB by default, however small the model is; and twice that where
    it overlaps computing and traffic.
    """
    return {"reduce_bucket_size": min(_BUCKET, weights)} | zero_layout(file)


def overlaps(layout: dict[str, Any]) -> bool:
    """Whether traffic goes on beside backward: DeepSpeed's default at stage 3, and never at stage 0."""
    return layout["stage"] > 0 and bool(layout.get("overlap_comm", layout["stage"] == 3))


def refuse(run: Run, stage: int) -> None:
    """Refuse what DeepSpeed does badly at a stage."""
    if stage == 3 and run.compile:
        raise ConfigError("run.compile: not at ZeRO stage 3, where the model breaks into many graphs; use stage 2")
    if stage == 3 and run.reduce_dtype == "bf16" and run.precision == "bf16":
        raise ConfigError(
            "run.reduce_dtype: bf16 at ZeRO stage 3 needs run.precision=fp32: with bf16 DeepSpeed would round the "
            "weights that it gathers, too; use stage 2, or fp32"
        )


def zero_layout(file: Path) -> dict[str, Any]:
    """The `zero_optimization` block of a layout file; every mistake in it at once."""
    try:
        layout = json.loads(shipped.find(file).read_text())
    except FileNotFoundError:
        raise ConfigError(f"run.deepspeed: {file}: no such file; ours are deepspeed/zero0 to deepspeed/zero3") from None
    except ValueError as error:
        raise ConfigError(f"run.deepspeed: {file}: not JSON: {error}") from None
    if not isinstance(layout, dict):
        raise ConfigError(f"run.deepspeed: {file}: must be an object; see configs/deepspeed/")
    mistakes = []
    for key in layout:
        if key in RECIPE_OWNS:
            mistakes.append(f"{key}: is set in the recipe, by {RECIPE_OWNS[key]}; remove it here")
        elif key != "zero_optimization":
            mistakes.append(_unknown(key, ["zero_optimization"]))
    block = layout.get("zero_optimization")
    if not isinstance(block, dict):
        mistakes.append('zero_optimization: missing; the least is {"zero_optimization": {"stage": 1}}')
        block = {}
    for key, value in block.items():
        if key not in ZERO:
            mistakes.append(_unknown(key, list(ZERO), "zero_optimization."))
        elif type(value) is not ZERO[key]:
            mistakes.append(f"zero_optimization.{key}: must be of type {ZERO[key].__name__}, not {value!r}")
    if "stage" in block and block["stage"] not in (0, 1, 2, 3):
        mistakes.append(f"zero_optimization.stage: must be 0, 1, 2 or 3, not {block['stage']!r}")
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ConfigError(f"{file}: {count}\n" + "\n".join(f"  {line}" for line in mistakes))
    return {"stage": 0} | block


def _unknown(key: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"keys here: {', '.join(known)}"
    return f"{prefix}{key}: not a layout key; {hint}"
