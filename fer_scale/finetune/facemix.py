"""FaceMix (Song et al. 2024): mixup of faces, its loss weighed by how well the two faces lie on each other.

Two faces that overlap badly make a bad virtual face, so the loss then leans on the two real ones.

Shape letters: N images of a batch, K expressions, C H W channels and pixels. The partner of image i is always
N - 1 - i, so a batch is mixed with itself backwards; a part of a batch is mixed alike as long as it is symmetric
(`pairs.py` cuts only such parts), and then gives the rows of the whole batch's result.

Nothing here changes its input. The authors' code mixes in place, so that its loss of "real" images sees the mixed ones,
against the hard label of one parent each: `facemix.real = "mixed"` computes that, with the boxes of the clean images.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fer_scale.finetune.recipe import Real, Weighting


def iou(first_N4: Tensor, second_N4: Tensor) -> Tensor:
    """Intersection over union [N] of boxes (x1, y1, x2, y2), row by row; 0 where both are empty."""
    top_left = torch.maximum(first_N4[:, :2], second_N4[:, :2])
    bottom_right = torch.minimum(first_N4[:, 2:], second_N4[:, 2:])
    common_N = (bottom_right - top_left).clamp(min=0).prod(dim=1)
    union_N = _area(first_N4) + _area(second_N4) - common_N
    return common_N / union_N.clamp(min=torch.finfo(union_N.dtype).tiny)


def _area(box_N4: Tensor) -> Tensor:
    return (box_N4[:, 2:] - box_N4[:, :2]).prod(dim=1)


def mix(values: Tensor, share: float) -> Tensor:
    """`share` of each row and 1 - `share` of its partner, in new memory."""
    return share * values + (1 - share) * values.flip(0)


def smooth(targets_NK: Tensor, smoothing: float) -> Tensor:
    """Targets with `smoothing` of their weight spread over all K expressions."""
    return (1 - smoothing) * targets_NK + smoothing / targets_NK.shape[1]


def cross_entropy(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """Cross entropy [N] with a distribution as target, in float32 whatever the logits are in."""
    return -(targets_NK * functional.log_softmax(logits_NK.float(), dim=1)).sum(dim=1)


def losses(
    weighting: Weighting,
    *,
    real_NK: Tensor | None,
    mixed_NK: Tensor | None,
    targets_NK: Tensor,
    iou_N: Tensor,
    share: float,
    smoothing: float,
    real: Real = "clean",
) -> Tensor:
    """The loss [N] of each image; the loss of the batch is their mean.

    `real_NK` and `mixed_NK` are the logits of the clean and the mixed images, None where `needs` asks for none.

    none       CE(f(x_i), s(y_i))
    mixup      CE(f(x~_i), y~_i)
    additive   CE(f(x~_i), y~_i) + (1 - IoU_i) (CE(f(x_i), y_i) + CE(f(x_j), y_j))     the authors' code's formula
    convex     IoU_i CE(f(x~_i), y~_i) + (1 - IoU_i) (share CE(f(x_i), y_i) + (1 - share) CE(f(x_j), y_j))

    with j = N - 1 - i, x~ = share x_i + (1 - share) x_j, y~ = share s(y_i) + (1 - share) s(y_j), s = label smoothing.
    With `real` = "mixed" the x_i and x_j of additive and convex are x~_i and x~_j; their labels stay.
    """
    smoothed_NK = smooth(targets_NK, smoothing)
    if weighting == "none":
        assert real_NK is not None
        return cross_entropy(real_NK, smoothed_NK)
    assert mixed_NK is not None
    mixed_N = cross_entropy(mixed_NK, mix(smoothed_NK, share))
    if real == "mixed":
        real_NK = mixed_NK
    if weighting == "mixup" or real_NK is None:
        return mixed_N
    real_N = cross_entropy(real_NK, targets_NK)
    if weighting == "additive":
        return mixed_N + (1 - iou_N) * (real_N + real_N.flip(0))
    return iou_N * mixed_N + (1 - iou_N) * mix(real_N, share)


def needs(weighting: Weighting, iou_N: Tensor, real: Real = "clean") -> tuple[bool, bool]:
    """(clean images, mixed images): which of the two forward passes the loss asks for.

    Where all faces lie exactly on each other the clean images have weight 0, and FaceMix is mixup at half the cost.
    """
    if weighting == "none":
        return True, False
    return weighting != "mixup" and real == "clean" and bool((iou_N < 1).any()), True
