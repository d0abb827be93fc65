"""The teacher: an exponential moving average of the student, whose memory grows with the run."""

import copy

import torch
from torch import nn


def decay_at(updates: int, decay: float) -> float:
    """How much of the average is kept at an update: (1 + t) / (10 + t), until that reaches `decay`.

    A constant 0.999 over the thousand steps of a few-label run keeps 37 % of the random head it began with.
    """
    return min(decay, (1 + updates) / (10 + updates))


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy that takes no gradients and is always in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move `teacher` towards `student`: floating-point tensors by 1 - `decay`, counters (integers) are copied."""
    live = student.state_dict()
    for name, average in teacher.state_dict().items():
        if average.is_floating_point():
            average.lerp_(live[name].to(average.dtype), 1 - decay)
        else:
            average.copy_(live[name])
