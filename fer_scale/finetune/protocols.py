"""The field's protocols as data: which faces are tested on, how many labels there are, and what was published of them.

Counts of labels and of faces as SSFER (arXiv 2410.17622) and the makers of the sets have them: 5 % of FERPlus is 1,419
of 28,386 labels. Balanced draws of 4, 25 and 100 labels of each expression are written 4/class, 25/class, 100/class.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from fer_scale.finetune.drawing import SplitError
from shards.index import ShardSet

_README, _WEIGHTS = "SSFER, README", "SSFER, its released weights"  # github.com/SSFER; the second by its test.ipynb
_AFFECTNET = r"val_set/|.*#validation:"  # the crops of 2021; the full release


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a set is used in papers. Origins of its official test faces match `official`."""

    name: str
    source: str  # layout of the set, as of `pack --source`
    votes: str | None = None  # as of `pack --protocol`, where the set has votes
    classes: int
    official: str
    train: int
    test: int
    labels: dict[str, int] = field(default_factory=dict)  # share -> how many
    published: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by whom -> accuracy in % for each share
    published_test: int = 0  # how many faces it was measured on; 0: `test`


PROTOCOLS = (
    Protocol(
        name="RAF-DB basic", source="rafdb", classes=7, official=r"(.*/)?test_\d", train=12271, test=3068,
        labels={"5%": 613, "10%": 1226, "25%": 3067},
        published={_README: (80.96, 85.07, 88.23), _WEIGHTS: (81.29, 85.37, 88.89)},
    ),
    Protocol(
        name="FERPlus argmax", source="ferplus", votes="argmax", classes=8, official=r"FER2013(Valid|Test)/",
        train=28386, test=7098, labels={"5%": 1419, "10%": 2839, "25%": 7097},
        published={_README: (81.77, 83.95, 85.82), _WEIGHTS: (81.94, 83.90, 85.81)}, published_test=7099,
    ),
    Protocol(
        name="FERPlus majority", source="ferplus", votes="majority", classes=8, official=r"FER2013Test/",
        train=25060, test=3153, labels={"5%": 1253, "10%": 2506, "25%": 6265},
    ),
    Protocol(
        name="AffectNet-7", source="affectnet", classes=7, official=_AFFECTNET, train=283901, test=3500,
        labels={"1%": 2840, "5%": 14195, "10%": 28390},
        published={_README: (59.08, 64.02, 65.37), _WEIGHTS: (59.83, 64.06, 65.34)},
    ),
    Protocol(
        name="AffectNet-8", source="affectnet", classes=8, official=_AFFECTNET, train=287651, test=4000,
        labels={"1%": 2878, "5%": 14383, "10%": 28765},
        published={_README: (53.85, 60.17, 61.65), _WEIGHTS: (53.93, 60.15, 61.70)},
    ),
)  # fmt: skip


def protocol_of(shard_set: ShardSet) -> Protocol | None:
    """The protocol by which papers use this set: by its layout, how votes became labels, and its expressions."""
    index = shard_set.index
    for protocol in PROTOCOLS:
        same = protocol.source == index["source"] and protocol.votes in (None, index["protocol"])
        if same and protocol.classes == len(index["expressions"]):
            return protocol
    return None


def official_test(shard_set: ShardSet) -> frozenset[str]:
    """The keys of the set's official test faces, by where they came from."""
    protocol = protocol_of(shard_set)
    if protocol is None:
        names = ", ".join(known.name for known in PROTOCOLS)
        raise SplitError(f"--test official: no official test faces are known of {shard_set.path}, but of {names}")
    found = set()
    for shard in range(len(shard_set.counts)):
        for key, origin in zip(shard_set.keys(shard), shard_set.origins(shard), strict=True):
            if re.match(protocol.official, origin.partition(":")[2]):
                found.add(key)
    if not found:
        raise SplitError(
            f"--test official: {shard_set.path} holds none of the test faces of {protocol.name}, "
            f"whose origins match {protocol.official}; pack it again, all parts into one set, without --split"
        )
    return frozenset(found)


def published(name: str | None, labels: dict[str, list[int | None]], official: bool) -> list[dict[str, Any]]:
    """What was published by the protocol of this name for these numbers of labels, asked for as the keys say.

    A figure stands under a number of labels, or a share, that is the protocol's. "other_test_faces" says that what
    stands beside it was not measured on the same faces.
    """
    rows = []
    protocol = next((known for known in PROTOCOLS if known.name == name), None)
    for whose, accuracies in protocol.published.items() if protocol else ():
        assert protocol is not None
        found: dict[str, float] = {}
        for (share, count), accuracy in zip(protocol.labels.items(), accuracies, strict=True):
            found |= {asked: accuracy / 100 for asked, drawn in labels.items() if count in drawn or asked == share}
        if found:
            test = protocol.published_test or protocol.test
            same = {"labels": protocol.labels, "test_faces": test, "other_test_faces": not official}
            rows.append({"name": whose, "protocol": protocol.name, "accuracy": found} | same)
    return rows
