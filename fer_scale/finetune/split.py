"""Which faces carry a label, which are tested on, and which do neither: a file, made once, that every run reads.

    split-ferplus-n1419-seed0.json
        labeled, unlabeled, valid, test, excluded     lists of keys; every sample of the set stands in exactly one
        rule, group_rule                              in words, how they were drawn
        fingerprint                                   of the shard set; a split fits no other one
        class_counts, seed, labels, sha256

What must not happen is that a face is trained on and tested on. Web-scraped sets hold copies (8 % of a random quarter
of FERPlus has one in the rest), so exact and near copies form groups, and a group is never torn over two lists.

The order of drawing is test, valid, labeled; a share is of the labeled faces that are left at its turn.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import duplicates
from shards.errors import UserError
from shards.expressions import EXPRESSIONS
from shards.index import ShardSet
from shards.order import key, permutation
from shards.remote import open_set

FORMAT = 1
LISTS = ("labeled", "unlabeled", "valid", "test", "excluded")
DRAWN = ("test", "valid", "labeled")  # in this order; also the streams of the seed, so it is frozen

RULE = (
    "drawn in the order test, valid, labeled, a share being of the labeled faces left at its turn; each stratified by "
    "expression (largest remainder, at least one of each) over whole groups in a seeded order; a group belongs to the "
    "expression most of its faces have; the rest is unlabeled"
)
GROUP_RULE = (
    "exact copies (same decoded pixels) and near copies (perceptual hashes) form groups, and no group is torn over two "
    "lists; near copies keep their own labels; a group in which exact copies carry different expressions is "
    "excluded, and so are faces without an expression in a group that was drawn"
)


class SplitError(UserError):
    """A split that cannot be drawn, or that was made for something else."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split file that was read and checked."""

    path: Path
    sha256: str
    lists: dict[str, list[str]]
    facts: dict[str, Any]


def split(
    set_path: Path | str,
    *,
    labels: str,
    seed: int,
    out: Path,
    test: str | None = None,
    valid: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw a split of the set and write it to `out`; its content. Sizes are counts ("1419") or shares ("5%")."""
    shard_set = open_set(set_path)
    samples = []
    for sample in shard_set.samples_in_order():
        samples.append((sample.key, sample.face))
        if progress and len(samples) % 1000 in (0, 1):
            progress(len(samples), shard_set.samples)
    expressions = [face.expression if face else None for _, face in samples]
    pixels, perceptual = shard_set.hashes()
    groups = duplicates.groups(pixels, perceptual)
    _, copies = np.unique(pixels, axis=0, return_inverse=True)
    excluded = contradictory(expressions, groups, copies.ravel())
    lists = draw(expressions, groups, excluded, {"test": test, "valid": valid, "labeled": labels}, seed)
    content = {
        "format": FORMAT,
        "set": shard_set.name,
        "fingerprint": shard_set.fingerprint,
        "rule": RULE,
        "group_rule": GROUP_RULE,
        "sizes": {"test": test, "valid": valid, "labeled": labels},
        "labels": len(lists["labeled"]),
        "seed": seed,
        "groups": len(np.unique(groups)),
        **{name: [samples[i][0] for i in lists[name]] for name in LISTS},
        "class_counts": {name: class_counts([expressions[i] for i in lists[name]]) for name in LISTS},
    }
    content["sha256"] = digest(content)
    _put(out, content)
    return content


def read(path: Path, shard_set: ShardSet) -> Split:
    """The split in a file, which must be one of ours, undamaged, and made for `shard_set`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise SplitError(f"{path}: no such split file; make one with `fer-scale split`") from None
    except (OSError, ValueError) as error:
        raise SplitError(f"{path}: not a split file ({error}); make one with `fer-scale split`") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SplitError(f"{path}: not a split file of format {FORMAT}; make one with `fer-scale split`")
    if content.get("sha256") != digest(content):
        raise SplitError(f"{path}: was changed after it was written (its sha256 does not fit); draw it again")
    if content["fingerprint"] != shard_set.fingerprint:
        raise SplitError(
            f"{path}: was made for the set {content['set']!r} ({content['fingerprint'][:12]}), not for "
            f"{shard_set.path} ({shard_set.name!r}, {shard_set.fingerprint[:12]}); draw one for this set"
        )
    facts = {name: value for name, value in content.items() if name not in LISTS}
    return Split(path, content["sha256"], {name: content[name] for name in LISTS}, facts)


def digest(content: dict[str, Any]) -> str:
    """sha256 of everything in a split but the digest itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def contradictory(expressions: Sequence[str | None], groups: NDArray[np.int64], copies: NDArray[np.int64]) -> set[int]:
    """The groups that hold exact copies of one picture under different expressions: no label of theirs can be right."""
    said: dict[int, str] = {}
    found = set()
    for expression, group, copy in zip(expressions, groups.tolist(), copies.tolist(), strict=True):
        if expression is not None and said.setdefault(copy, expression) != expression:
            found.add(group)
    return found


def draw(
    expressions: Sequence[str | None],
    groups: NDArray[np.int64],
    excluded: set[int],
    sizes: dict[str, str | None],
    seed: int,
) -> dict[str, list[int]]:
    """The numbers of the samples of each of LISTS, ascending. Pure: expressions and groups in, numbers out."""
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(number)
    strata = _strata(expressions, members, excluded)
    lists: dict[str, list[int]] = {name: [] for name in LISTS}
    wanted = [name for name in DRAWN if sizes[name] is not None]
    for name in wanted:
        later = len(wanted) - wanted.index(name) - 1
        worth = {c: {g: _labels_in(members[g], expressions) for g in gs} for c, gs in strata.items()}
        count = size_of(sizes[name], sum(sum(of.values()) for of in worth.values()), name)
        taken = set(_take(worth, count, name, later, key(seed, DRAWN.index(name))))
        for number in (number for group in taken for number in members[group]):
            lists[name if expressions[number] is not None else "excluded"].append(number)
        strata = {c: [g for g in gs if g not in taken] for c, gs in strata.items()}
    drawn = {number for chosen in lists.values() for number in chosen}
    for number, group in enumerate(groups.tolist()):
        if number not in drawn:
            lists["excluded" if group in excluded else "unlabeled"].append(number)
    return {name: sorted(chosen) for name, chosen in lists.items()}


def size_of(text: str | None, of: int, name: str) -> int:
    """How many faces "1419" or "5%" of `of` faces are."""
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text or "")
    if not match:
        raise SplitError(f"--{_flag(name)} {text}: write a count, as 1419, or a share, as 5%")
    count = int(match.group(1)) if match.group(1) else round(float(match.group(2)) / 100 * of)
    if not 0 < count <= of:
        raise SplitError(f"--{_flag(name)} {text}: is {count} of {of} labeled faces that are left; give another size")
    return count


def class_counts(expressions: Sequence[str | None]) -> dict[str, int]:
    """How many of each expression there are, in the order of EXPRESSIONS; those without one stand under "none"."""
    counts = {name: sum(e == name for e in expressions) for name in EXPRESSIONS}
    counts["none"] = sum(e is None for e in expressions)
    return {name: count for name, count in counts.items() if count}


def _strata(
    expressions: Sequence[str | None], members: dict[int, list[int]], excluded: set[int]
) -> dict[str, list[int]]:
    """The groups of each expression: the one most of a group's faces have, of equals the first of EXPRESSIONS."""
    strata: dict[str, list[int]] = {name: [] for name in EXPRESSIONS}
    for group, numbers in members.items():
        have = [e for e in (expressions[n] for n in numbers) if e is not None]
        if have and group not in excluded:
            strata[max(EXPRESSIONS, key=have.count)].append(group)
    strata = {name: groups for name, groups in strata.items() if groups}
    if not strata:
        raise SplitError("no face of this set carries an expression; there is nothing to split")
    return strata


def _labels_in(numbers: list[int], expressions: Sequence[str | None]) -> int:
    return sum(expressions[n] is not None for n in numbers)


def _take(worth: dict[str, dict[int, int]], count: int, name: str, later: int, seed: int) -> list[int]:
    """Whole groups of `count` labels in all; of each expression at least one group, leaving one for each later list."""
    for expression, groups in worth.items():
        if len(groups) <= later:
            raise SplitError(
                f"--{_flag(name)}: {len(groups)} group(s) of copies left with {expression}, but {later + 1} list(s) "
                f"need one each; leave out --test or --valid, or drop {expression} from the set"
            )
    quotas = _quotas({c: sum(of.values()) for c, of in worth.items()}, count, name)
    free = {c: len(groups) - later for c, groups in worth.items()}
    got = dict.fromkeys(worth, 0)
    taken: list[int] = []

    def take(expression: str, group: int) -> None:
        taken.append(group)
        got[expression] += worth[expression][group]
        free[expression] -= 1

    rest: list[tuple[str, int]] = []
    for number, (expression, groups) in enumerate(worth.items()):
        names = list(groups)
        order = [names[i] for i in permutation(key(seed, number), len(names))]
        for group in order:
            if free[expression] and got[expression] + groups[group] <= quotas[expression]:
                take(expression, group)
            else:
                rest.append((expression, group))
        if not got[expression]:  # every group is larger than the quota
            smallest = min(order, key=groups.__getitem__)
            take(expression, smallest)
            rest.remove((expression, smallest))
    rest.sort(key=lambda c: got[c[0]] / quotas[c[0]])  # what whole groups left open, where most is missing
    for expression, group in rest:
        if free[expression] and sum(got.values()) + worth[expression][group] <= count:
            take(expression, group)
    return taken


def _quotas(have: dict[str, int], count: int, name: str) -> dict[str, int]:
    """`count` shared out by largest remainder, at least 1 to each."""
    if count < len(have):
        raise SplitError(f"--{_flag(name)}: {count} is fewer than the {len(have)} expressions; each needs one")
    total = sum(have.values())
    exact = {c: count * n / total for c, n in have.items()}
    quotas = {c: max(1, int(x)) for c, x in exact.items()}
    while (rest := count - sum(quotas.values())) != 0:
        step = 1 if rest > 0 else -1
        open_ = [c for c in have if (quotas[c] < have[c] if step > 0 else quotas[c] > 1)]
        chosen = max(open_, key=lambda c: step * (exact[c] - quotas[c]))
        quotas[chosen] += step
    return quotas


def _flag(name: str) -> str:
    return "labels" if name == "labeled" else name


def _put(out: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(f"{out.name}.part")
        beside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(beside, out)
    except OSError as error:
        raise SplitError(f"{out}: cannot be written ({error.strerror}); give another file") from None
