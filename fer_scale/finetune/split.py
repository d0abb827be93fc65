"""Which faces carry a label, which are tested on, and which do neither: a file, made once, that every run reads.

    split-ferplus-n1419-seed0.json
        labeled, unlabeled, valid, test, excluded     lists of keys; every sample of the set stands in exactly one
        rule, group_rule                              in words, how they were drawn
        fingerprint                                   of the shard set; a split fits no other one
        class_counts, seed, test_seed, labels, sha256

What must not happen is that a face is trained on and tested on. Web-scraped sets hold copies (8 % of a random quarter
of FERPlus has one in the rest), so exact and near copies form groups, and a group is never torn over two lists. Where
who is shown is known (people.py), nobody in test or valid is in another list.

The order of drawing is test, valid, labeled; a share is of the labeled faces that are left at its turn.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_scale import disk
from fer_scale.finetune.drawing import LISTS as LISTS
from fer_scale.finetune.drawing import SplitError as SplitError
from fer_scale.finetune.drawing import class_counts, contradictory, draw
from fer_scale.finetune.people import joined, people_of
from fer_scale.finetune.protocols import official_test
from shards import duplicates
from shards.boxes import Box, faces_apart
from shards.index import ShardSet
from shards.remote import open_set

FORMAT = 1
OFFICIAL = "official"
RULE = (
    "drawn in the order test, valid, labeled, a share being of the labeled faces left at its turn; each stratified by "
    "expression (largest remainder, at least one of each) over whole groups in a seeded order; a group belongs to the "
    "expression most of its faces have; the rest is unlabeled"
)
_RULES = {  # what is added to the rule where a size is of this form
    "/class": "; of a size N/class N of each expression, from groups that hold no other",
    "#": "; test is a list of the split with this sha256; what else is in its groups is excluded",
    OFFICIAL: "; test is the set's official one; what else is in its groups is excluded",
}
GROUP_RULE = (
    "exact copies (same decoded pixels) and near copies (perceptual hashes) form groups, and no group is torn over two "
    "lists; near copies keep their own labels; a group in which exact copies carry different expressions is "
    "excluded, and so are faces without an expression in a group that was drawn"
)
PEOPLE_RULE = (
    "; test and valid are of whole persons, named by what the pattern finds in an origin, not stratified; who is in "
    "one of them is in no other list"
)


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
    test_seed: int | None = None,
    people: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw a split of the set and write it to `out`; its content.

    Sizes are counts ("1419"), shares ("5%") or counts of each expression ("25/class"). `test` may be FILE#LIST, a list
    of another split of this set, or "official" (protocols.py). `test_seed` draws `test` where that is not to go by
    `seed`: several draws of the labels for the same test faces. `people` is the pattern of people.py: who is in test or
    valid is in no other list.
    """
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
    shown = _faces(copies.ravel(), [face.box if face else None for _, face in samples])
    excluded = contradictory(expressions, groups, shown)
    if test_seed is not None and (test is None or is_given(test)):
        raise SplitError("--test-seed: draws the list test; give its size, as --test 25%")
    sizes, frozen = sizes_of(test, valid, labels, shard_set)
    if people is None and test and "#" in test:  # as of the split that its test faces are from
        people = read(Path(test.rpartition("#")[0]), shard_set).facts.get("people")
    people, shows = people_of(shard_set, people)
    whole = None if shows is None else joined(groups, shows, excluded)
    kept = {number for number, (key, _) in enumerate(samples) if key in frozen} if frozen else None
    lists = draw(expressions, groups, excluded, sizes, seed, test_seed=test_seed, test=kept, people=whole)
    if len(lists["test"]) < len(frozen):
        raise SplitError(f"--test {test}: holds faces without an expression; give a list of labeled ones")
    content = {
        "format": FORMAT,
        "set": shard_set.name,
        "fingerprint": shard_set.fingerprint,
        "rule": RULE + "".join(text for mark, text in _RULES.items() if any(mark in (s or "") for s in sizes.values())),
        "group_rule": GROUP_RULE + (PEOPLE_RULE if people else ""),
        "sizes": sizes,
        "labels": len(lists["labeled"]),
        "seed": seed,
        **({"test_seed": test_seed} if test_seed not in (None, seed) else {}),
        "groups": len(np.unique(groups)),
        **({"people": people, "persons": len({*shows})} if shows else {}),
        **{name: [samples[i][0] for i in lists[name]] for name in LISTS},
        "class_counts": {name: class_counts([expressions[i] for i in lists[name]]) for name in LISTS},
    }
    content["sha256"] = digest(content)
    _put(out, content)
    return content


def _faces(copies: NDArray[np.int64], boxes: list[Box | None]) -> NDArray[np.int64]:
    """A number for each face that is shown: of copies of one picture there may be several, each with its own box."""
    members: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.bincount(copies)[copies] > 1).tolist():
        members.setdefault(int(copies[number]), []).append(number)
    face = np.zeros(len(copies), np.int64)
    for group in members.values():
        face[group] = faces_apart([boxes[number] for number in group])
    return np.unique(np.stack([copies, face], axis=1), axis=0, return_inverse=True)[1].ravel()


def sizes_of(
    test: str | None, valid: str | None, labels: str, shard_set: ShardSet
) -> tuple[dict[str, str | None], frozenset[str]]:
    """The sizes as the file says them, and the keys of the list that `test` names, if it names one.

    A list is written down by its split's sha256: where that file lies says nothing about the split.
    """
    frozen: frozenset[str] = frozenset()
    if test == OFFICIAL:
        frozen = official_test(shard_set)
    elif test is not None and is_given(test):
        file, _, name = test.rpartition("#")
        other = read(Path(file), shard_set)
        if not other.lists.get(name):
            full = ", ".join(name for name in LISTS if other.lists[name])
            raise SplitError(f"--test {test}: write FILE#LIST with one of its lists that are not empty: {full}")
        test, frozen = f"{other.sha256}#{name}", frozenset(other.lists[name])
    return {"test": test, "valid": valid, "labeled": labels}, frozen


def is_given(test: str) -> bool:
    """Whether the test faces are those of a list that is there already, and not to be drawn."""
    return test == OFFICIAL or "#" in test


def drawn_as(facts: dict[str, Any], wish: dict[str, Any], shard_set: ShardSet) -> bool:
    """Whether a split's facts are what `split` would write for `wish`: labels, seed, test, valid, test_seed."""
    sizes, _ = sizes_of(wish["test"], wish["valid"], wish["labels"], shard_set)
    test_seed = wish["seed"] if wish.get("test_seed") is None else wish["test_seed"]
    was = (facts["sizes"], facts["seed"], facts.get("test_seed", facts["seed"]))
    return bool(was == (sizes, wish["seed"], test_seed))


def is_other(trained: dict[str, Any], shard_set: ShardSet, drawn: Split | None) -> bool:
    """Whether a training, as a model's config tells of it, was on this set by another split (None: any split is)."""
    same = trained.get("fingerprint") == shard_set.fingerprint
    return same and (drawn is None or trained.get("split") != drawn.sha256)


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


def _put(out: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.put(out, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise SplitError(f"{out}: cannot be written ({error.strerror}); give another file") from None
