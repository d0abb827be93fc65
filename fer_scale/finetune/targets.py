"""What a labeled face is trained towards: one expression, or the annotators' votes as a distribution.

Classes are the expressions that occur among the labels, in the order of EXPRESSIONS, and by name everywhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fer_scale.finetune.recipe import Target
from shards.errors import UserError
from shards.expressions import EXPRESSIONS
from shards.sample import Face

FEWEST_VOTES = 2  # a single vote is taken for a slip, as in the FERPlus paper's own script


class TargetError(UserError):
    """Labels that cannot be trained on."""


def label_names(counts: Mapping[str, int]) -> list[str]:
    """The classes: the expressions of which there are labels (`counts` of a split's list), in the one order."""
    names = [name for name in EXPRESSIONS if counts.get(name)]
    if len(names) < 2:
        raise TargetError(f"labels of {len(names)} expression(s) ({', '.join(names)}); at least two are needed")
    return names


def classes(faces: Sequence[Face | None], names: list[str]) -> NDArray[np.int64]:
    """The class number of each face's expression; -1 for one that is not among `names`."""
    return np.array([names.index(f.expression) if f and f.expression in names else -1 for f in faces], np.int64)


def matrix(faces: Sequence[Face | None], names: list[str], target: Target) -> NDArray[np.float32]:
    """Targets [N, K], each row summing to 1. Every face must carry an expression of `names`."""
    hard = np.eye(len(names), dtype=np.float32)[classes(faces, names)]
    if target == "argmax":
        return hard
    return np.stack([_votes(face, names, row) for face, row in zip(faces, hard, strict=True)])


def _votes(face: Face | None, names: list[str], otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
    """The votes for `names`, single ones left out, as shares; the expression where nothing is left."""
    if face is None or face.votes is None:
        raise TargetError("supervised.target = votes, but faces of this set carry no votes; use argmax")
    votes = np.array([face.votes.get(name, 0.0) for name in names], np.float32)
    votes[votes < FEWEST_VOTES] = 0
    return votes / votes.sum() if votes.any() else otherwise
