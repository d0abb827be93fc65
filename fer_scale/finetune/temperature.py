"""One temperature that makes a classifier's confidence honest (Guo et al. 2017), folded into the weights of its head.

Fitted on faces that nothing was trained on and nothing will be tested on: a split's list `valid`. It changes no
prediction.
"""

import torch
from torch import Tensor, nn

from fer_scale.config import ConfigError

_LOW, _HIGH = 0.05, 20.0
_SECTION = (5**0.5 - 1) / 2  # golden


def fit(logits_NK: Tensor, classes_N: Tensor) -> float:
    """The temperature whose probabilities make the true classes likeliest, by golden section on its logarithm.

    The loss has one minimum in 1 / T, in which it is convex.
    """
    logits_NK = logits_NK.double()

    def loss(log_temperature: float) -> float:
        scaled = logits_NK / float(torch.tensor(log_temperature, dtype=torch.float64).exp())
        return float(nn.functional.cross_entropy(scaled, classes_N))

    low, high = (float(torch.tensor(x, dtype=torch.float64).log()) for x in (_LOW, _HIGH))
    for _ in range(60):
        left, right = high - _SECTION * (high - low), low + _SECTION * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())


@torch.no_grad()
def fold(model: nn.Module, temperature: float) -> None:
    """Divide the logits of `model` by `temperature`, for every program that will ever load it."""
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"no temperature can be folded into a {type(head).__name__}; split without --valid")
    head.weight.div_(temperature)
    if head.bias is not None:
        head.bias.div_(temperature)
