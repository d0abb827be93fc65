"""In which proportion the expressions of labeled faces are trained on.

    natural    as they are
    sqrt       an expression with n labels in proportion to sqrt(n), so that rare ones are seen more often

Under sqrt an epoch has rint(sqrt(n * n_most)) rows of an expression, so that the faces of the most frequent one come
once each. An expression's rows are filled by its faces in turn, in one seeded order that goes on from epoch to epoch:
faces of one expression are seen equally often, up to one time. The rows lie in a seeded order, too: who reads them
permutes them within pieces of an epoch, and must find every expression in each. Nothing else is drawn, so the same
batches come on any number of processes and after a resume.
"""

import numpy as np
from numpy.typing import NDArray

from fer_scale.finetune.recipe import Sampling
from shards.order import key, permutation

Ids = NDArray[np.int64]


def rows_of_each(classes: Ids, sampling: Sampling) -> Ids:
    """How many rows of an epoch each class gets, [K]; `classes` [N] are those of the faces."""
    counts = np.bincount(classes)
    if sampling == "natural":
        return counts
    return np.rint(np.sqrt(counts * counts.max())).astype(np.int64)


def shares(classes: Ids, sampling: Sampling) -> NDArray[np.float64]:
    """How often each face is seen, [N], summing to 1."""
    counts, rows = np.bincount(classes), rows_of_each(classes, sampling)
    return (rows / np.maximum(counts, 1) / rows.sum())[classes]


class Sampled:
    """Which face stands in a row of an epoch."""

    def __init__(self, classes: Ids, sampling: Sampling, seed: int):
        self._natural = sampling == "natural"
        rows, self._counts = rows_of_each(classes, sampling), np.bincount(classes)
        self._class = np.repeat(np.arange(len(rows)), rows)  # of each row as they lie here, class after class
        self._place = permutation(key(seed, len(rows)), len(self._class))  # of a row as it is asked for
        self._first = np.concatenate([[0], np.cumsum(rows)[:-1]])  # row of each class
        self._rows = rows
        self._begin = np.concatenate([[0], np.cumsum(self._counts)[:-1]])  # of each class in `_turn`
        of_class = [np.flatnonzero(classes == number) for number in range(len(rows))]
        self._turn = np.concatenate([ids[permutation(key(seed, n), len(ids))] for n, ids in enumerate(of_class)])

    def __len__(self) -> int:
        return len(self._class)

    def faces(self, row: Ids, epoch: Ids) -> Ids:
        """The faces [B] of rows [B] of epochs [B]."""
        if self._natural:
            return row
        row = self._place[row]
        number = self._class[row]
        turn = epoch * self._rows[number] + row - self._first[number]
        return self._turn[self._begin[number] + turn % self._counts[number]]
