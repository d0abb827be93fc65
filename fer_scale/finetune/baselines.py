"""What every accuracy must be read against: the most frequent expression, and logistic regression on small pixels.

Both learn from the labeled list of the same split as the model they are compared with. They are classifiers like any
other to evaluate.py: a network, and how it wants its input.
"""

import numpy as np
import torch
from torch import Tensor, nn

from fer_scale.finetune import views
from fer_scale.finetune.pool import Pool
from fer_scale.finetune.steps import Input
from fer_scale.images import grey
from fer_scale.log import progress, say

NAMES = ("baseline:majority", "baseline:pixels")
SIDE_PX = 24
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the squared weights; by cross-validation within the labels
FOLDS = 3
_AT_ONCE = 256  # large pictures are many numbers


def train(name: str, pool: Pool, classes_N: Tensor, count: int) -> tuple[nn.Module, Input]:
    """The baseline `name` for `count` classes, trained on the faces of `pool`, and how it wants its input."""
    shares_K = torch.bincount(classes_N, minlength=count).double() / len(classes_N)
    if name == "baseline:majority":
        return Majority(shares_K.log().clamp(min=-30).float()), Input(1, (0.0,) * 3, (1.0,) * 3)
    pixels_ND, ids_N = _pixels(pool)
    classes_N = classes_N[ids_N]
    penalty = max(PENALTIES, key=lambda p: _cross_validated(pixels_ND, classes_N, count, p))
    say(f"logistic regression on {SIDE_PX}x{SIDE_PX} grey pixels of {len(pool):,} faces, penalty {penalty:g}")
    return _fit(pixels_ND, classes_N, count, penalty), Input(SIDE_PX, (0.0,) * 3, (1.0,) * 3)


class Majority(nn.Module):
    """Says the prior to every picture."""

    def __init__(self, log_prior_K: Tensor):
        super().__init__()
        self.log_prior_K = nn.Buffer(log_prior_K)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.log_prior_K.expand(len(pictures), -1)


class Pixels(nn.Module):
    """Logistic regression on standardised grey pixels [N, 3, p, p] -> [N, K]."""

    def __init__(self, pixels_ND: Tensor, count: int):
        super().__init__()
        self.mean, self.std = nn.Buffer(pixels_ND.mean(0)), nn.Buffer(pixels_ND.std(0, correction=0).clamp(min=1e-3))
        self.linear = nn.Linear(pixels_ND.shape[1], count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.of_pixels(_luma(pictures))

    def of_pixels(self, pixels_ND: Tensor) -> Tensor:
        return self.linear((pixels_ND - self.mean) / self.std)


def _luma(pictures: Tensor) -> Tensor:
    every = torch.ones(len(pictures), dtype=torch.bool).numpy()
    return grey(pictures, every)[:, 0].flatten(1)


def _pixels(pool: Pool) -> tuple[Tensor, Tensor]:
    """The faces of the pool as rows of grey pixels [N, SIDE_PX ** 2] in 0..1, and their numbers [N].

    A face that cannot be read is replaced by another one.
    """
    rows, numbers = [], []
    with progress("reading labeled faces") as tick:
        for start in range(0, len(pool), _AT_ONCE):
            batch = pool.batch(np.arange(start, min(start + _AT_ONCE, len(pool))))
            rows.append(_luma(views.middle(batch.pixels, batch.sizes, SIDE_PX)))
            numbers.append(torch.from_numpy(batch.ids))
            for line in batch.bad:
                say(f"unreadable, replaced: {line}")
            tick(start + len(batch.ids), len(pool))
    return torch.cat(rows), torch.cat(numbers)


def _cross_validated(pixels_ND: Tensor, classes_N: Tensor, count: int, penalty: float) -> float:
    """How many of the labels are found by models that were trained without them, a third at a time."""
    fold_N = torch.arange(len(classes_N)) % FOLDS  # sets lie in a random order
    right = 0
    for fold in range(FOLDS):
        out = fold_N == fold
        model = _fit(pixels_ND[~out], classes_N[~out], count, penalty)
        with torch.no_grad():
            right += int((model.of_pixels(pixels_ND[out]).argmax(1) == classes_N[out]).sum())
    return right / len(classes_N)


def _fit(pixels_ND: Tensor, classes_N: Tensor, count: int, penalty: float) -> Pixels:
    """The model of least cross entropy + penalty / 2 * squared weights; there is one."""
    model = Pixels(pixels_ND, count)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.of_pixels(pixels_ND), classes_N)
        loss = loss + penalty / 2 * model.linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model
