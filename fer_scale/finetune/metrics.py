"""What a classifier of expressions is measured by. Pure numpy: probabilities and true classes in, numbers out.

Shape letters: N images, K expressions. The confusion matrix has a row a true and a column a predicted expression.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


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


def reliability(probabilities_NK: Floats, true_N: Ints, bins: int = 15) -> list[dict[str, float]]:
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


def measure(probabilities_NK: Floats, true_N: Ints, names: list[str], *, seed: int = 0) -> dict[str, Any]:
    """All of it as plain JSON values; `names` are the K expressions, in the order of the columns."""
    matrix = confusion(true_N, probabilities_NK.argmax(axis=1), len(names))
    bins = reliability(probabilities_NK, true_N)
    columns = zip(names, recall(matrix), precision(matrix), matrix.sum(axis=1), matrix.sum(axis=0), strict=True)
    return {
        "samples": len(true_N),
        "accuracy": float(accuracy(matrix)),
        "uar": float(uar(matrix)),
        "macro_f1": float(macro_f1(matrix)),
        "ece": ece(bins),
        "intervals_95": intervals(matrix, seed=seed),
        "per_class": {
            name: {"count": int(n), "predicted": int(p), "recall": _number(found), "precision": _number(right)}
            for name, found, right, n, p in columns
        },
        "label_names": names,
        "confusion": matrix.tolist(),
        "reliability": bins,
    }


def _share(part: Ints, whole: Ints) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _number(value: float) -> float | None:
    """NaN is no JSON."""
    return None if np.isnan(value) else float(value)
