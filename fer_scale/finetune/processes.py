"""Who this process is among its peers, and the few things that they do together.

The only file that imports accelerate. `accelerate launch`, torchrun, or nobody starts us (then we are alone).
"""

import os
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import Tensor, nn

from fer_scale.finetune.recipe import Precision
from fer_scale.peers import not_met
from shards.errors import UserError


@dataclass(frozen=True, slots=True)
class Processes:
    """`rank` of `ranks`; methods must be called by all of them together, in one order (but for `autocast`)."""

    rank: int
    ranks: int
    device: torch.device
    precision: Precision
    scaler: torch.amp.GradScaler  # of losses in fp16; in other precisions it does nothing
    accelerator: Accelerator

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def host(self) -> str:
        return socket.gethostname()

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host}"

    @property
    def device_name(self) -> str:
        """Of this process's device: "cpu", or as NVIDIA calls its card."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def autocast(self) -> AbstractContextManager[None]:
        """In which matrix products have the precision of the run."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, in fp16 times the scale at which small ones do not vanish."""
        self.scaler.scale(loss).backward()

    def settle(self, model: nn.Module) -> nn.Module:
        """`model` on this process's device, its attention as is fast there.

        On a CPU the backward pass of torch's fused attention in bf16 takes 27 ms a block, where products and softmax
        one by one take 3 (32 faces of 37 tokens, 6 heads; one thread, torch 2.14.1, 2026-11-27).
        """
        if self.device.type == "cpu" and self.precision != "fp32":
            for module in model.modules():
                if hasattr(module, "fused_attn"):  # timm's name of the choice
                    module.fused_attn = False  # type: ignore[assignment]
        return model.to(self.device)

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return self.accelerator.reduce(values, "sum")

    def tell(self, value: Any, *, of: int = 0) -> Any:
        """What rank `of` has."""
        [told] = broadcast_object_list([value], from_process=of)
        self.accelerator.wait_for_everyone()  # who ends now must not do so while gloo's thread lets go of what was sent
        return told

    def collect(self, value: Any) -> list[Any]:
        """What every rank has, in the order of the ranks."""
        everything = gather_object([value])
        self.accelerator.wait_for_everyone()
        return list(everything)

    def broadcast(self, tensor: Tensor, *, of: int) -> Tensor:
        """Rank `of`'s tensor, on the CPU; the others give an empty one of its shape."""
        told: Tensor = broadcast(tensor.to(self.device), from_process=of)
        return told.cpu()


def join(precision: Precision) -> Processes:
    """Meet the other processes; `precision` is run.precision."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "WORLD_SIZE" not in os.environ:  # each would believe itself alone, and end the others' run
        raise UserError(f"fine-tuning in {tasks} tasks of Slurm: it takes one, with --nodes 1 --ntasks-per-node 1")
    try:
        accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    except RuntimeError as error:  # gloo has no type for it
        if "WORLD_SIZE" not in os.environ or isinstance(error, torch.AcceleratorError):  # the latter is of a GPU
            raise
        raise not_met(error) from error
    here = accelerator.process_index, accelerator.num_processes, accelerator.device
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=precision == "fp16")
    return Processes(*here, precision, scaler, accelerator)
