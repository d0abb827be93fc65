"""Which parameters decay, how fast each layer learns, and how fast to learn at a step.

Pure functions, shared by both loops.
"""

import math
import re
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, layers: int = 0
) -> list[dict[str, Any]]:
    """AdamW's parameter groups, each with `weight_decay` and `lr_scale`.

    Matrices decay; biases, norms, tokens and positions do not (Touvron et al. 2021; the reference MAE lets its
    two tokens decay). With `layer_decay` < 1 the layer `i` of a ViT with `layers` blocks learns at
    layer_decay ** (layers + 1 - i) (BEiT, MAE fine-tuning): embeddings are layer 0, the head is layers + 1.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = _layer(name, layers) if layer_decay != 1.0 else layers + 1
        decays = parameter.squeeze().ndim >= 2 and not name.endswith("pos_embed")
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": layer_decay ** (layers + 1 - layer),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _layer(name: str, layers: int) -> int:
    if block := re.match(r"blocks\.(\d+)\.", name):
        return int(block.group(1)) + 1
    return 0 if name.startswith(("patch_embed", "cls_token", "pos_embed")) else layers + 1


def lr_at(step: int, *, peak: float, warmup_steps: int, steps: int, start: float = 0.0, end: float = 0.0) -> float:
    """Linear from `start` to `peak` over the warm-up, then half a cosine down to `end` at `steps`, then flat."""
    if step < warmup_steps:
        return start + (peak - start) * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * done))
