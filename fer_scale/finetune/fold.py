"""What a published model must do by itself is folded into its weights, so that every loader gets it.

A temperature makes the classifier's confidence honest (Guo et al. 2017). It is fitted on faces that nothing was trained
on and nothing will be tested on, a split's list `valid`, and changes no prediction. Who has no labels to spare for
that reads it from a development run and gives it to the final one (run.temperature).

A model that has seen grey pictures alone would be surprised by a colour photo: its three input channels were never told
apart. Folded, it sees every photo as its grey version; to grey pictures it says what it said before.
"""

import math

import torch
from torch import Tensor, nn

from fer_scale.config import ConfigError

_LOW, _HIGH = math.log(0.05), math.log(20.0)
_SECTION = (5**0.5 - 1) / 2  # golden
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as images.grey and PIL


def fit_temperature(logits_NK: Tensor, classes_N: Tensor) -> float:
    """The temperature whose probabilities make the true classes likeliest, by golden section on its logarithm.

    The loss has one minimum: it is convex in 1 / T.
    """
    logits_NK = logits_NK.double()

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits_NK / math.exp(log_temperature), classes_N))

    low, high = _LOW, _HIGH
    for _ in range(60):
        left, right = high - _SECTION * (high - low), low + _SECTION * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def is_bound(temperature: float) -> bool:
    """Whether `fit_temperature` would have gone on in the direction in which it found this one."""
    return not _LOW + 0.01 < math.log(temperature) < _HIGH - 0.01


@torch.no_grad()
def temperature(model: nn.Module, value: float) -> None:
    """Divide the logits of `model` by `value`."""
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"no temperature can be folded into a {type(head).__name__}; split without --valid, and give none"
        )
    head.weight.div_(value)
    if head.bias is not None:
        head.bias.div_(value)


@torch.no_grad()
def grey(model: nn.Module) -> bool:
    """Let the first layer look at the luma of its input, which must be normalised alike in all channels; whether done.

    The kernel of a channel becomes the sum over the channels times the channel's share of the luma.
    """
    name = getattr(model, "pretrained_cfg", {}).get("first_conv")
    first = model.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(first, nn.Conv2d) or first.in_channels != len(_LUMA) or first.groups != 1:
        return False
    shares = first.weight.new_tensor(_LUMA)[None, :, None, None]
    first.weight.copy_(first.weight.sum(dim=1, keepdim=True) * shares)
    return True
