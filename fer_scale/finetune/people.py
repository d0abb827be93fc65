"""Who a face shows, where its origin tells: the same person in training and in test is a leak where frames are alike.

Papers split posed sets by subject: CK+ has three frames of each sequence, JAFFE twenty of each of its ten women.
"""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fer_scale.finetune.drawing import SplitError
from shards.index import ShardSet

PEOPLE = {"ckplus": r"S\d{3}(?=_)", "jaffe": r"[^/.]+(?=\.[A-Z]{2}\d)"}  # by layout: what names somebody in an origin


def people_of(shard_set: ShardSet, pattern: str | None) -> tuple[str | None, list[str] | None]:
    """The pattern, if none is given that of the set's layout, and who each sample shows; (None, None): nobody knows.

    `pattern` is a regular expression; what it finds in an origin is the person. Whom it does not find is alone.
    """
    pattern = PEOPLE.get(shard_set.index["source"] or "") if pattern is None else pattern
    if not pattern:
        return None, None
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise SplitError(f"--people {pattern}: no regular expression ({error}); as S[0-9]+") from None
    origins = [origin for shard in range(len(shard_set.counts)) for origin in shard_set.origins(shard)]
    found = [wanted.search(origin.partition(":")[2]) for origin in origins]
    if not any(match and match[0] for match in found):
        raise SplitError(f"--people {pattern}: is in no origin of {shard_set.path}, as {origins[0].partition(':')[2]}")
    names = [match[0] if match and match[0] else origin for match, origin in zip(found, origins, strict=True)]
    return pattern, names


def joined(groups: NDArray[np.int64], people: Iterable[str], apart: set[int]) -> NDArray[np.int64]:
    """Of N samples the number of their persons, those joined who share a group that is not in `apart`; N by N.

    Samples in `apart` keep the number of their group.
    """
    parent: dict[int | str, int | str] = {}

    def root(of: int | str) -> int | str:
        while (up := parent.setdefault(of, of)) != of:
            parent[of] = of = parent[up]
        return of

    pairs = list(zip(groups.tolist(), people, strict=True))
    for group, person in pairs:
        if group not in apart:
            parent[root(person)] = root(group)
    return np.array([int(root(group)) for group, _ in pairs], np.int64)
