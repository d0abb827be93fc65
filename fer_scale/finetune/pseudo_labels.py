"""What the teacher's probabilities on unlabeled faces are worth as targets of the student.

    fixed       the most likely expression, where its probability reaches a threshold (FixMatch, Sohn et al. 2020)
    softmatch   the most likely expression, weighed by a Gaussian below the running mean of the highest probabilities
                (SoftMatch, Chen et al. 2023): no threshold to choose, which matters since one has no fixed meaning
                after FaceMix's smoothing: 0.95 keeps 49 % of a plainly trained teacher's labels, 0.2 % of a mixed one's
    soft        the probabilities themselves, all with weight 1

Before that the probabilities are aligned to the labeled prior: divided by their own running mean and multiplied by
the share of each expression among the labels, so that frequent expressions do not grow at the expense of rare ones.

Shape letters: B unlabeled images on this process, K expressions. What is averaged, is averaged over all processes:
`total` sums a tensor over them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fer_scale.finetune.ema import decay_at
from fer_scale.finetune.recipe import Labeler

Total = Callable[[Tensor], Tensor]

DECAY = 0.999  # of the running statistics (SoftMatch, section 4.1); reached slowly, see `decay_at`
NO_LABEL = -1  # of a face whose expression nobody knows
SIGMAS = 2.0  # the Gaussian falls off over half a standard deviation (SoftMatch's code: n_sigma = 2)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the labeler remembers: running means over the unlabeled images, as plain numbers that JSON keeps exactly."""

    updates: int
    mean: tuple[float, ...]  # probability of each expression
    top_mean: float  # of the highest aligned probability
    top_variance: float

    @classmethod
    def fresh(cls, classes: int) -> "Statistics":
        """Before the first image: uniform, and as unsure as can be (SoftMatch's initial values)."""
        return cls(0, (1 / classes,) * classes, 1 / classes, 1.0)

    @property
    def are_finite(self) -> bool:
        return all(map(math.isfinite, (*self.mean, self.top_mean, self.top_variance)))


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    targets_BK: Tensor
    weights_B: Tensor
    statistics: Statistics


def label(
    probabilities_BK: Tensor,
    statistics: Statistics,
    *,
    labeler: Labeler,
    threshold: float,
    prior: tuple[float, ...] | None,
    total: Total,
) -> PseudoLabels:
    """Targets and weights for the student, and the statistics with this batch in them. `prior` None: no alignment."""
    p_BK = probabilities_BK.double()
    decay = decay_at(statistics.updates, DECAY)
    sums = total(torch.cat([p_BK.sum(dim=0), p_BK.new_tensor([len(p_BK)])]))
    mean_K = decay * p_BK.new_tensor(statistics.mean) + (1 - decay) * sums[:-1] / sums[-1]
    if prior is not None:
        p_BK = align(p_BK, p_BK.new_tensor(prior) / mean_K.clamp(min=1e-6))
    top_B, best_B = p_BK.max(dim=1)
    statistics = replace(
        _with_tops(statistics, top_B, decay, total), updates=statistics.updates + 1, mean=tuple(mean_K.tolist())
    )
    hard_BK = torch.nn.functional.one_hot(best_B, p_BK.shape[1])
    if labeler == "fixed":
        targets_BK, weights_B = hard_BK, top_B >= threshold
    elif labeler == "softmatch":
        targets_BK, weights_B = hard_BK, gaussian(top_B, statistics.top_mean, statistics.top_variance)
    else:
        targets_BK, weights_B = p_BK, torch.ones_like(top_B)
    return PseudoLabels(targets_BK.float(), weights_B.float(), statistics)


def align(probabilities_BK: Tensor, ratio_K: Tensor) -> Tensor:
    """Probabilities times `ratio_K`, each row summing to 1 again."""
    scaled_BK = probabilities_BK * ratio_K
    return scaled_BK / scaled_BK.sum(dim=1, keepdim=True)


def gaussian(top_B: Tensor, mean: float, variance: float) -> Tensor:
    """1 at and above `mean`, below it exp(-(top - mean)^2 / (2 variance / SIGMAS^2)) (SoftMatch, eq. 6)."""
    below_B = (top_B - mean).clamp(max=0)
    return torch.exp(-below_B.square() / (2 * max(variance, 1e-12) / SIGMAS**2))


def _with_tops(statistics: Statistics, top_B: Tensor, decay: float, total: Total) -> Statistics:
    """The running mean and (unbiased) variance of the highest probabilities, with those of this batch."""
    n, s, squares = total(top_B.new_tensor([len(top_B), top_B.sum(), top_B.square().sum()])).tolist()
    mean = s / n
    variance = max(0.0, squares - n * mean**2) / max(1.0, n - 1)
    return replace(
        statistics,
        top_mean=decay * statistics.top_mean + (1 - decay) * mean,
        top_variance=decay * statistics.top_variance + (1 - decay) * variance,
    )


def tally(best_B: Tensor, weights_B: Tensor, hidden_B: Tensor, classes: int) -> Tensor:
    """Sums over pseudo-labels of each class, float64 [4, K], to be added up over processes.

    Their number; their weights; of these, the weights where the hidden label is known; where it is the same.
    `hidden_B` has the hidden labels: class numbers, `classes` for any other expression, or NO_LABEL.
    """
    weights_B = weights_B.double()
    known_B = hidden_B != NO_LABEL
    values = [torch.ones_like(weights_B), weights_B, weights_B * known_B, weights_B * (hidden_B == best_B)]
    return torch.stack([weights_B.new_zeros(classes).index_add(0, best_B, value_B) for value_B in values])


def told(tally_4K: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """What the log says of a batch's pseudo-labels; None where there is nothing to divide by.

    kept, kept_by_class              mean weight of all, and of those of each class
    predicted                        their number by class
    precision, precision_by_class    share of the weight that lies on faces with that hidden label
    """
    number_K, kept_K, known_K, right_K = tally_4K
    by_class = [dict(zip(names, _shares(*pair), strict=True)) for pair in ((kept_K, number_K), (right_K, known_K))]
    [kept] = _shares(kept_K.sum()[None], number_K.sum()[None])
    [precision] = _shares(right_K.sum()[None], known_K.sum()[None])
    predicted = dict(zip(names, map(int, number_K.tolist()), strict=True))
    return {
        "kept": kept,
        "predicted": predicted,
        "kept_by_class": by_class[0],
        "precision": precision,
        "precision_by_class": by_class[1],
    }


def _shares(part: Tensor, whole: Tensor) -> list[float | None]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [a / b if b and math.isfinite(a / b) else None for a, b in pairs]
