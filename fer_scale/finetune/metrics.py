"""What a classifier of expressions is measured by. Pure numpy: probabilities and true classes in, numbers out.

Shape letters: N images, K expressions. The confusion matrix has a row a true and a column a predicted expression.
Confidence is the probability of the expression that is predicted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

BINS = 15  # of the confidence, as in Guo et al. 2017
_TINIEST = np.finfo(np.float64).tiny  # stands for a probability that underflowed to 0


def confusion(true_N: Ints, predicted_N: Ints, classes: int) -> Ints:
    """How many images of each true expression (row) were taken for each expression (column): [K, K]."""
    return np.bincount(true_N * classes + predicted_N, minlength=classes**2).reshape(classes, classes)


def accuracy(matrix: Ints) -> Floats:
    """The share of images whose expression was found; leading axes of [..., K, K] are kept."""
    hits = np.trace(matrix, axis1=-2, axis2=-1)
    return hits / np.maximum(matrix.sum(axis=(-2, -1)), 1)


def recall(matrix: Ints) -> Floats:
    """The share found of each true expression [..., K]; NaN for one without an image."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1))


def precision(matrix: Ints) -> Floats:
    """The share of right ones among the images taken for each expression [..., K]; NaN for one never predicted."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-2))


def uar(matrix: Ints) -> Floats:
    """Unweighted average recall: the mean of `recall` over the expressions that have images."""
    return np.nanmean(recall(matrix), axis=-1)


def macro_f1(matrix: Ints) -> Floats:
    """The mean F1 over the expressions that have images; an expression never predicted counts 0."""
    true, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    f1 = 2 * np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(true + predicted, 1)
    return np.nanmean(np.where(true > 0, f1, np.nan), axis=-1)


def reliability(probabilities_NK: Floats, true_N: Ints, bins: int = BINS) -> list[dict[str, float]]:
    """Confidence and accuracy in `bins` equal bins of the confidence: {from, to, count, confidence, accuracy}."""
    confidence = probabilities_NK.max(axis=1)
    right = probabilities_NK.argmax(axis=1) == true_N
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for number in range(bins):
        here = which == number
        count = int(here.sum())
        rows.append(
            {
                "from": number / bins,
                "to": (number + 1) / bins,
                "count": count,
                "confidence": float(confidence[here].mean()) if count else 0.0,
                "accuracy": float(right[here].mean()) if count else 0.0,
            }
        )
    return rows


def ece(bins: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3) of `reliability`'s bins: the mean |confidence - accuracy|."""
    total = sum(row["count"] for row in bins)
    return sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / max(1, total)


def adaptive_ece(probabilities_NK: Floats, true_N: Ints, bins: int = BINS) -> float:
    """Calibration error as `ece`, but in bins of equally many images, so that no bin's gap rests on a few of them.

    The adaptive ranges of Nixon et al. 2019, of the predicted expression alone.
    """
    confidence_N, hits_N = _ranked(probabilities_NK, true_N)
    parts = zip(np.array_split(confidence_N, bins), np.array_split(hits_N, bins), strict=True)
    return float(sum(abs(confidence.sum() - hits.sum()) for confidence, hits in parts) / len(true_N))


def nll(probabilities_NK: Floats, true_N: Ints) -> float:
    """The mean negative log likelihood of the true expressions, in nats."""
    said_N = probabilities_NK[np.arange(len(true_N)), true_N]
    return float(-np.log(np.maximum(said_N, _TINIEST)).mean())


def brier(probabilities_NK: Floats, true_N: Ints) -> float:
    """The mean squared distance of the probabilities from the truth, summed over the expressions: 0..2 (Brier 1950)."""
    truth_NK = np.eye(probabilities_NK.shape[1])[true_N]
    return float(((probabilities_NK - truth_NK) ** 2).sum(axis=1).mean())


def coverage(probabilities_NK: Floats, true_N: Ints, levels: int = 20) -> list[dict[str, float]]:
    """What is gained by being silent where unsure: accuracy on the surest 1/levels, 2/levels, ... of the images.

    A row is {coverage, confidence, accuracy}: the share that is answered, the least confidence among it, and the share
    that is right in it.
    """
    confidence_N, hits_N = _ranked(probabilities_NK, true_N)
    total = len(true_N)
    answered = np.unique([-(-total * level // levels) for level in range(1, levels + 1)])
    right = np.cumsum(hits_N)[answered - 1] / answered
    columns = zip((answered / total).tolist(), confidence_N[answered - 1].tolist(), right.tolist(), strict=True)
    return [{"coverage": share, "confidence": least, "accuracy": found} for share, least, found in columns]


def aurc(probabilities_NK: Floats, true_N: Ints) -> float:
    """Area under the risk-coverage curve: the mean error over the surest 1, 2, ... N images (Geifman et al. 2019)."""
    _, hits_N = _ranked(probabilities_NK, true_N)
    return float(1 - (np.cumsum(hits_N) / np.arange(1, len(hits_N) + 1)).mean())


def against_votes(probabilities_NK: Floats, shares_NK: Floats) -> dict[str, float]:
    """How near the probabilities come to the shares of the annotators' votes, in nats: means over the images.

    `kl` is `cross_entropy` less `entropy`, that of the votes themselves, below which no model can come.
    """
    cross_entropy = -(shares_NK * np.log(np.maximum(probabilities_NK, _TINIEST))).sum(axis=1).mean()
    entropy = -(shares_NK * np.log(np.maximum(shares_NK, _TINIEST))).sum(axis=1).mean()
    return {
        "samples": len(shares_NK),
        "cross_entropy": float(cross_entropy),
        "entropy": float(entropy),
        "kl": float(cross_entropy - entropy),
    }


def intervals(matrix: Ints, *, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, list[float]]:
    """Percentile bootstrap intervals of accuracy, uar and macro_f1.

    Images are drawn with replacement, which for these measures is a multinomial draw over the cells of the matrix.
    """
    total = int(matrix.sum())
    cells = np.random.default_rng(seed).multinomial(total, matrix.ravel() / total, size=resamples)
    drawn = cells.reshape(resamples, *matrix.shape)
    ends = [50 * (1 - level), 100 - 50 * (1 - level)]
    measures = {"accuracy": accuracy, "uar": uar, "macro_f1": macro_f1}
    return {name: [float(x) for x in np.percentile(f(drawn), ends)] for name, f in measures.items()}


def figures(probabilities_NK: Floats, true_N: Ints) -> dict[str, Any]:
    """The measures that are one number, and the bootstrap intervals of those that have them."""
    matrix = confusion(true_N, probabilities_NK.argmax(axis=1), probabilities_NK.shape[1])
    return {
        "accuracy": float(accuracy(matrix)),
        "uar": float(uar(matrix)),
        "macro_f1": float(macro_f1(matrix)),
        "ece": ece(reliability(probabilities_NK, true_N)),
        "adaptive_ece": adaptive_ece(probabilities_NK, true_N),
        "nll": nll(probabilities_NK, true_N),
        "brier": brier(probabilities_NK, true_N),
        "aurc": aurc(probabilities_NK, true_N),
        "intervals_95": intervals(matrix),
    }


def measure(probabilities_NK: Floats, true_N: Ints, names: list[str]) -> dict[str, Any]:
    """All of it as plain JSON values; `names` are the K expressions, in the order of the columns."""
    matrix = confusion(true_N, probabilities_NK.argmax(axis=1), len(names))
    columns = zip(names, recall(matrix), precision(matrix), matrix.sum(axis=1), matrix.sum(axis=0), strict=True)
    return {
        "samples": len(true_N),
        **figures(probabilities_NK, true_N),
        "per_class": {
            name: {"count": int(n), "predicted": int(p), "recall": _number(found), "precision": _number(right)}
            for name, found, right, n, p in columns
        },
        "label_names": names,
        "confusion": matrix.tolist(),
        "reliability": reliability(probabilities_NK, true_N),
        "coverage": coverage(probabilities_NK, true_N),
    }


def _ranked(probabilities_NK: Floats, true_N: Ints) -> tuple[Floats, Floats]:
    """Confidence [N] and hits [N] in 0..1, the surest image first; equally sure ones share their hits.

    So that nothing hangs on the order in which equally sure images happen to lie.
    """
    right = probabilities_NK.argmax(axis=1) == true_N
    doubt, which, count = np.unique(-probabilities_NK.max(axis=1), return_inverse=True, return_counts=True)
    hits = np.bincount(which, weights=right) / count
    return np.repeat(-doubt, count), np.repeat(hits, count)


def _share(part: Ints, whole: Ints) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _number(value: float) -> float | None:
    """NaN is no JSON."""
    return None if np.isnan(value) else float(value)
