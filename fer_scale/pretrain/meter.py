"""How fast a run is: what a line of its metrics says of the steps since the last one."""

import math
from typing import Any

import torch
from torch import Tensor

from fer_scale.pretrain import cost, setup
from fer_scale.pretrain.engine import Stepped
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.world import World


class Meter:
    """Sums since the last line of metrics."""

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.images = self.steps = 0
        self.waited = self.seconds = 0.0
        self.grad_norm = float("nan")

    def add(self, stepped: Stepped, images: int, waited: float, seconds: float) -> None:
        self.loss = stepped.loss if self.loss is None else self.loss + stepped.loss
        self.grad_norm = stepped.grad_norm
        self.images += images
        self.steps += 1
        self.waited += waited
        self.seconds += seconds

    def row(self) -> dict[str, Any]:
        """Images/s over all ranks, the share of the time that this rank waited for images, the last gradient's norm."""
        return {
            "images_per_s": round(self.images / self.seconds, 1),
            "data_wait": round(self.waited / self.seconds, 4),
            "grad_norm": self.grad_norm if math.isfinite(self.grad_norm) else None,
        }


def on_a_gpu(rec: Pretrain, us: World, images_per_s: float) -> dict[str, Any]:
    """The most memory so far; where the GPU's peak rate is known, MFU by the FLOPs that `fer-scale check` counts."""
    if us.device.type != "cuda":
        return {}
    row: dict[str, Any] = {"memory_mb": round(torch.cuda.max_memory_allocated(us.device) / 1e6)}
    if device := cost.device_called(torch.cuda.get_device_name(us.device)):
        done = images_per_s / us.ranks * setup.shape_of(rec).step_flops()
        row["mfu"] = round(done / device.flops[rec.run.precision], 4)
    return row
