"""How the lists of a split are drawn: expressions and groups of copies in, numbers of samples out; no file is read.

A size is a count ("1419"), a share of the labels that are left ("5%"), or a count of each expression ("25/class").
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.errors import UserError
from shards.expressions import EXPRESSIONS
from shards.order import key, permutation

LISTS = ("labeled", "unlabeled", "valid", "test", "excluded")
DRAWN = ("test", "valid", "labeled")  # in this order; also the streams of the seed, so it is frozen

Worth = dict[str, dict[int, int]]  # of each expression its groups, and how many labels each is


class SplitError(UserError):
    """A split that cannot be drawn, or that was made for something else."""


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
    *,
    test_seed: int | None = None,
    test: set[int] | None = None,
    people: NDArray[np.int64] | None = None,
) -> dict[str, list[int]]:
    """The numbers of the samples of each of LISTS, ascending. Pure: expressions and groups in, numbers out.

    `test_seed` draws the list `test` where it is not to be drawn by `seed`; `test` is that list where it is given.
    `people`: the person of each sample, of whole groups; who is in `test` or `valid` is in no other list.
    """
    members = _members(groups)
    strata = _strata(expressions, members, excluded)
    lists: dict[str, list[int]] = {name: [] for name in LISTS}
    wanted = [name for name in DRAWN if sizes[name] is not None]
    for name in wanted:
        if name == "test" and test is not None:
            taken = set(groups[sorted(test)].tolist())
        else:
            later = len(wanted) - wanted.index(name) - 1
            by = key(seed if name != "test" or test_seed is None else test_seed, DRAWN.index(name))
            worth = {c: {g: _labels_in(members[g], expressions) for g in gs} for c, gs in strata.items()}
            if people is not None and name != "labeled":
                taken = _take_people(worth, members, people, sizes[name] or "", name, later, by)
            else:
                several = {g for gs in strata.values() for g in gs if len(_labels(members[g], expressions)) > 1}
                taken = set(_take(worth, several, sizes[name] or "", name, later, by))
        if people is not None and name != "labeled":  # all that shows them, so also what has no label
            shown = {people[members[group][0]] for group in taken}
            taken |= {group for group in members if people[members[group][0]] in shown} - excluded
        for number in (number for group in taken for number in members[group]):
            fits = expressions[number] is not None and (name != "test" or test is None or number in test)
            lists[name if fits else "excluded"].append(number)
        strata = {c: [g for g in gs if g not in taken] for c, gs in strata.items()}
    drawn = {number for chosen in lists.values() for number in chosen}
    for number, group in enumerate(groups.tolist()):
        if number not in drawn:
            lists["excluded" if group in excluded else "unlabeled"].append(number)
    return {name: sorted(chosen) for name, chosen in lists.items()}


def size_of(text: str | None, of: int, name: str) -> int:
    """How many faces "1419" or "5%" of `of` faces are."""
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text or "")
    if not match and (text or "").endswith(".json"):
        raise SplitError(f"--{_flag(name)} {text}: which of its lists? write it behind the file, as {text}#test")
    if not match:
        raise SplitError(
            f"--{_flag(name)} {text}: write a count, as 1419, or a share, as 5%, or a count of each, as 25/class"
        )
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
        raise SplitError("no face of this set carries an expression; pack a labeled source, or one with a labels.jsonl")
    return strata


def _members(groups: NDArray[np.int64]) -> dict[int, list[int]]:
    """The numbers of the samples of each group."""
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(number)
    return members


def _labels(numbers: list[int], expressions: Sequence[str | None]) -> set[str]:
    return {label for n in numbers if (label := expressions[n]) is not None}


def _labels_in(numbers: list[int], expressions: Sequence[str | None]) -> int:
    return sum(expressions[n] is not None for n in numbers)


def _take_people(
    worth: Worth, members: dict[int, list[int]], people: NDArray[np.int64], size: str, name: str, later: int, seed: int
) -> set[int]:
    """The groups of whole persons of `size` labels in all, at least one person, leaving one for each later list.

    Not stratified: a person shows many expressions.
    """
    if "/class" in size:
        raise SplitError(
            f"--{_flag(name)} {size}: is of whole persons, who show what they show; give a count or a share"
        )
    labels: dict[int, int] = {}
    for group, count in (pair for of in worth.values() for pair in of.items()):
        person = int(people[members[group][0]])
        labels[person] = labels.get(person, 0) + count
    if len(labels) <= later:
        raise SplitError(f"--{_flag(name)}: {len(labels)} person(s) left, but {later + 1} list(s) need one each")
    taken = set(_take({"person": labels}, set(), size, name, later, seed))
    return {group for of in worth.values() for group in of if people[members[group][0]] in taken}


def _take(worth: Worth, mixed: set[int], size: str, name: str, later: int, seed: int) -> list[int]:
    """Whole groups of `size` labels in all; of each expression at least one group, leaving one for each later list.

    Where `size` is a count of each expression, groups in `mixed`, of several expressions, are left where they are.
    """
    each = re.fullmatch(r"(\d+)/class", size)
    if each:
        worth = {c: {g: n for g, n in groups.items() if g not in mixed} for c, groups in worth.items()}
    for expression, groups in worth.items():
        if len(groups) <= later:
            raise SplitError(
                f"--{_flag(name)}: {len(groups)} group(s) of copies left with {expression}, but {later + 1} list(s) "
                f"need one each; leave out --test or --valid, or drop {expression} from the set"
            )
    have = {c: sum(of.values()) for c, of in worth.items()}
    count = 0 if each else size_of(size, sum(have.values()), name)
    quotas = _equal_quotas(have, int(each[1]), name) if each else _quotas(have, count, name)
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
    # What whole groups left open is filled where most is missing; of counts of each expression (0 in all) nothing is.
    rest.sort(key=lambda c: got[c[0]] / quotas[c[0]])
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


def _equal_quotas(have: dict[str, int], each: int, name: str) -> dict[str, int]:
    """`each` of every expression, which must have as many."""
    rarest = min(have, key=have.__getitem__)
    if not 0 < each <= have[rarest]:
        raise SplitError(f"--{_flag(name)} {each}/class: {have[rarest]} of {rarest} are left; give another number")
    return dict.fromkeys(have, each)


def _flag(name: str) -> str:
    return "labels" if name == "labeled" else name
