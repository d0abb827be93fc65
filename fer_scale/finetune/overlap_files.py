"""The files that tell of an overlap: the report, its pairs as lines and as a picture, and what to leave out."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_scale import disk
from fer_scale.finetune.neighbours import Neighbours
from fer_scale.finetune.pool import SLOT_PX, Pool
from shards import overlap
from shards.duplicates import Bytes, Ints
from shards.index import ShardSet
from shards.sample import Face, Sample

FORMAT = 1
KINDS = ("exact", "near", "similar")
NOT = len(KINDS)  # the kind of a face without a copy
_SHOWN = 32  # pairs of each kind in the picture

Pairs = Sequence[tuple[int, int, int]]  # kind, place in a, place in b


@dataclass(frozen=True, slots=True)
class Side:
    """Some faces of a set, in the order in which they lie in it."""

    shard_set: ShardSet
    keys: list[str]
    hashes: tuple[Bytes, Bytes]
    places: Ints  # [N] of these faces among all of the set
    of_list: dict[str, str] | None  # the split's sha256 and the name of its list

    def pool(self) -> Pool:
        px = min(SLOT_PX, int(max(self.shard_set.index["image_px"]["max"])))
        return Pool(self.shard_set, self.keys, slot_px=px)

    def sample(self, number: int) -> Sample:
        shard, row = self._at(number)
        return self.shard_set.read(shard, row)

    def origin(self, number: int) -> str:
        shard, row = self._at(number)
        return self.shard_set.origins(shard)[row]

    def said(self) -> dict[str, Any]:
        """For the report."""
        one = self.shard_set
        return {"set": one.name, "fingerprint": one.fingerprint, "list": self.of_list, "faces": len(self.keys)}

    def _at(self, number: int) -> tuple[int, int]:
        ends = np.cumsum(self.shard_set.counts)
        shard = int(np.searchsorted(ends, self.places[number], side="right"))
        return shard, int(self.places[number] - (ends[shard] - self.shard_set.counts[shard]))


@dataclass(frozen=True, slots=True)
class Found:
    """Of the faces of one side: kind (an index of KINDS, or NOT) and its witness on the other side (-1: none)."""

    kind: NDArray[np.int64]
    at: Ints


def write(
    out: Path, report: dict[str, Any], pairs: Pairs, a: Side, b: Side, seen: Neighbours | None, left: dict[str, Any]
) -> None:
    """All files of a comparison, and in the report how many pairs carry different expressions; report.json last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").unlink(missing_ok=True)  # of what is replaced now: where it stands the others do
    report["other_expressions"] = _write_pairs(out / "pairs.csv", pairs, a, b, seen)
    _draw(out / "pairs.png", pairs, a, b, seen)
    disk.put(out / "exclude.json", json.dumps(left, indent=1) + "\n")
    disk.put(out / "report.json", json.dumps(report, indent=1) + "\n")


def _write_pairs(file: Path, pairs: Pairs, a: Side, b: Side, seen: Neighbours | None) -> int:
    """pairs.csv; how many of the pairs carry two different expressions."""
    said = [_facts(side, sorted({pair[place] for pair in pairs})) for side, place in ((a, 1), (b, 2))]
    different = 0
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        sides = [f"{name}_{side}" for side in "ab" for name in ("key", "expression", "origin")]
        table.writerow(["kind", "bits", "cosine", *sides])
        for kind, i, j in pairs:
            one, other = said[0][i], said[1][j]
            different += bool(one[1] and other[1] and one[1] != other[1])
            cosine = _cosine(seen, i, j)
            words = "" if cosine is None else f"{cosine:.4f}"
            table.writerow([KINDS[kind], _bits(a, b, i, j), words, *one, *other])
    return different


def _facts(side: Side, numbers: list[int]) -> dict[int, tuple[str, str, str]]:
    """Key, expression and origin of some faces, in the order in which they lie."""
    found = {}
    for number in numbers:
        face = side.sample(number).face or Face()
        found[number] = side.keys[number], face.expression or "", side.origin(number)
    return found


def _bits(a: Side, b: Side, i: int, j: int) -> int:
    return int(np.bitwise_count(a.hashes[1][i] ^ b.hashes[1][j]).sum())


def _cosine(seen: Neighbours | None, i: int, j: int) -> float | None:
    """Of a pair, where it is the nearest of one of the two."""
    if seen and seen.a.at[i] == j:
        return float(seen.a.cosine[i])
    return float(seen.b.cosine[j]) if seen and seen.b.at[j] == i else None


def _draw(file: Path, pairs: Pairs, a: Side, b: Side, seen: Neighbours | None) -> None:
    """pairs.png: of each kind some pairs at equal distances, the weakest last, and then those that just miss."""
    shown: list[tuple[int, int, str]] = []
    for kind, name in enumerate(KINDS):
        rows = [(i, j) for number, i, j in pairs if number == kind]
        rows.sort(key=lambda row: _strength(name, a, b, seen, *row))
        picked = sorted({round(place) for place in np.linspace(0, len(rows) - 1, _SHOWN)}) if rows else []
        shown += [(*rows[n], f"{name} {abs(_strength(name, a, b, seen, *rows[n])):.4g}") for n in picked]
    if seen:
        found = {j for _, _, j in pairs}
        missed = [int(j) for j in np.argsort(-seen.b.cosine, kind="stable") if seen.b.cosine[j] < seen.threshold]
        missed = [j for j in missed if j not in found and seen.b.at[j] >= 0][:_SHOWN]
        shown += [(int(seen.b.at[j]), j, f"not counted {seen.b.cosine[j]:.4g}") for j in missed]
    overlap.sheet([(a.sample(i), b.sample(j), caption) for i, j, caption in shown], file)


def _strength(name: str, a: Side, b: Side, seen: Neighbours | None, i: int, j: int) -> float:
    """What a kind is sorted by, the strongest first: bits, or the cosine."""
    return _bits(a, b, i, j) if name != "similar" else -(_cosine(seen, i, j) or 0.0)


def exclude(side: Side, found: Found) -> dict[str, Any]:
    """Lists of keys of one set: all copies, and each kind by itself."""
    lists = {name: [side.keys[i] for i in np.flatnonzero(found.kind == number)] for number, name in enumerate(KINDS)}
    copies = [side.keys[i] for i in np.flatnonzero(found.kind < NOT)]
    one = side.shard_set
    return {"format": FORMAT, "set": one.name, "fingerprint": one.fingerprint, "copies": copies, **lists}
