"""Whether faces of one set lie in another: copies that make a test flatter a model, found before it is trained.

    OUT/report.json     how many faces of each side have a copy on the other, by kind
        pairs.csv       a line a pair: each such face with its nearest one
        pairs.png       some of them side by side, and the first that do not count; faces of real people
        exclude.json    the keys to leave out, for data.exclude = ["OUT/exclude.json#copies"]

Kinds, of which a face counts by its strongest: exact (the same pixels), near (perceptual hashes that differ in a few
bits), similar (nearest by an encoder's features, which finds what was cut or mirrored; neighbours.py).

Set a is what is trained on, b what is tested on. A list of b stands for the whole set; where a is the same set, it is
what is not on that list. One set twice without a list is compared with itself, and the first of its copies stays.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_scale import log
from fer_scale.finetune import neighbours, overlap_files
from fer_scale.finetune import split as splits
from fer_scale.finetune.neighbours import Alike, Eye, Neighbours
from fer_scale.finetune.overlap_files import FORMAT, KINDS, NOT, Found, Side
from shards import overlap
from shards.duplicates import NEAR_BITS, Bytes, near_pairs
from shards.errors import UserError
from shards.index import ShardSet
from shards.overlap import EXACT, NONE
from shards.remote import open_set

_KNOWN_AMONG = 30_000  # faces among which near copies are looked for, to take the threshold from


class OverlapError(UserError):
    """Sets that cannot be compared as it was asked for."""


def find(
    set_a: Path | str,
    set_b: Path | str,
    out: Path,
    *,
    split_file: Path | None = None,
    list_name: str = "test",
    encoder: str | None = None,
    near_bits: int = NEAR_BITS,
    cosine: float | None = None,
    key: Path | None = None,
) -> dict[str, Any]:
    """Compare the sets, write all files to `out`, and return the report.

    The encoder must be signed by the owner of the public key in `key`, if one is given.
    """
    _refuse(encoder, near_bits, cosine)
    a, b, within = _sides(set_a, set_b, split_file, list_name)
    eye = Eye.open(encoder, key) if encoder else None
    by_hash = overlap.nearest(a.hashes, b.hashes, near_bits, within=within)
    by_eye = _seen(eye, a, b, within, near_bits, cosine) if eye else None
    threshold = by_eye.threshold if by_eye else 1.0
    of_a = _found(by_hash[0], by_eye.a if by_eye else None, threshold)
    of_b = _found(by_hash[1], by_eye.b if by_eye else None, threshold)
    dropped, side = (of_b, b) if within else (of_a, a)
    pairs = _pairs(of_a, of_b)
    report = {
        "format": FORMAT,
        "a": a.said() | ({} if within else {"with_copies": _counts(of_a.kind)}),
        "b": b.said() | {"with_copies": _counts(np.minimum(of_a.kind, of_b.kind) if within else of_b.kind)},
        "within": within,
        "near_bits": near_bits,
        "encoder": _said(eye, by_eye) if eye and by_eye else None,
        "pairs": len(pairs),
        "excluded": int((dropped.kind < NOT).sum()),
    }
    overlap_files.write(out, report, pairs, a, b, by_eye, overlap_files.exclude(side, dropped))
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """The report as lines for a person."""
    lines = []
    for name in ("b",) if report["within"] else ("b", "a"):
        side, other = report[name], report["a" if name == "b" else "b"]
        where = "itself" if report["within"] else other["set"] + (" (its other faces)" * _same(report))
        found = side["with_copies"]
        kinds = ", ".join(f"{found[kind]:,} {kind}" for kind in KINDS)
        of = f"{side['faces']:,} faces of {side['set']}" + (f", {side['list']['name']}" if side["list"] else "")
        lines.append(f"{of}: {found['any']:,} ({100 * found['share']:.2f} %) have a copy in {where}: {kinds}")
    if said := report["encoder"]:
        lines.append(f"similar: cosine of {said['cosine']:.3f} or more ({said['chosen_by']})")
    other = report["other_expressions"]
    lines.append(f"{log.plural(report['pairs'], 'pair')}, {other:,} of them with different expressions")
    lines.append(f"{report['excluded']:,} keys to leave out in exclude.json")
    return lines


def _same(report: dict[str, Any]) -> bool:
    return bool(report["a"]["fingerprint"] == report["b"]["fingerprint"])


def _refuse(encoder: str | None, near_bits: int, cosine: float | None) -> None:
    if not 0 <= near_bits <= 64:
        raise OverlapError(f"--near-bits {near_bits}: 0 to 64 of 256 bits; 18 is measured, at 40 strangers are near")
    if cosine is not None and not encoder:
        raise OverlapError("--cosine: is of features; give the encoder that sees them with --encoder")
    if cosine is not None and not 0 < cosine <= 1:
        raise OverlapError(f"--cosine {cosine}: above 0, up to 1")


def _sides(set_a: Path | str, set_b: Path | str, split_file: Path | None, list_name: str) -> tuple[Side, Side, bool]:
    """Both sides, and whether one set is compared with itself."""
    one, other = open_set(set_a), open_set(set_b)
    same = one.fingerprint == other.fingerprint
    keys, hashes = _keys(other), other.hashes()
    if split_file is None:
        b = Side(other, keys, hashes, np.arange(len(keys)), None)
        return (b if same else _whole(one)), b, same
    drawn = splits.read(split_file, other)
    if not drawn.lists.get(list_name):
        full = ", ".join(name for name in splits.LISTS if drawn.lists[name])
        raise OverlapError(f"--list {list_name}: give a list of {split_file} that is not empty: {full}")
    wanted = set(drawn.lists[list_name])
    chosen = np.array([key in wanted for key in keys], bool)
    if same and chosen.all():
        raise OverlapError(f"--list {list_name}: is the whole set, so there is no other face to compare with")
    b = _part(other, keys, hashes, chosen, {"sha256": drawn.sha256, "name": list_name})
    return (_part(other, keys, hashes, ~chosen, None) if same else _whole(one)), b, False


def _keys(shard_set: ShardSet) -> list[str]:
    return [key for shard in range(len(shard_set.counts)) for key in shard_set.keys(shard)]


def _whole(shard_set: ShardSet) -> Side:
    return Side(shard_set, _keys(shard_set), shard_set.hashes(), np.arange(shard_set.samples), None)


def _part(
    shard_set: ShardSet,
    keys: list[str],
    hashes: tuple[Bytes, Bytes],
    chosen: NDArray[np.bool_],
    of_list: dict[str, str] | None,
) -> Side:
    places = np.flatnonzero(chosen)
    return Side(shard_set, [keys[i] for i in places], (hashes[0][places], hashes[1][places]), places, of_list)


# ---- what is found


def _seen(eye: Eye, a: Side, b: Side, within: bool, near_bits: int, cosine: float | None) -> Neighbours:
    pixels, perceptual = (some[:_KNOWN_AMONG] for some in b.hashes)
    known = near_pairs(perceptual, near_bits)
    known = known[(pixels[known[:, 0]] != pixels[known[:, 1]]).any(axis=1)]
    with log.progress(f"looking at {b.shard_set.name}" + ("" if within else f" and {a.shard_set.name}")) as tick:
        return neighbours.nearest(eye, None if within else a.pool(), b.pool(), known, cosine, tick)


def _found(by_hash: overlap.Nearest, by_eye: Alike | None, threshold: float) -> Found:
    """The strongest kind of each face, and who shows it."""
    kind = np.where(by_hash.bits == EXACT, 0, np.where(by_hash.bits < NONE, 1, NOT))
    at = by_hash.at.copy()
    if by_eye:
        similar = (kind == NOT) & (by_eye.cosine >= threshold)
        kind[similar], at[similar] = KINDS.index("similar"), by_eye.at[similar]
    return Found(kind, at)


def _pairs(of_a: Found, of_b: Found) -> list[tuple[int, int, int]]:
    """(kind, place in a, place in b) of all witnesses, the strongest kind first, each pair once."""
    found = {(int(of_a.kind[i]), int(i), int(of_a.at[i])) for i in np.flatnonzero(of_a.kind < NOT)}
    found |= {(int(of_b.kind[j]), int(of_b.at[j]), int(j)) for j in np.flatnonzero(of_b.kind < NOT)}
    return sorted(found)


def _counts(kinds: NDArray[np.int64]) -> dict[str, float]:
    """How many faces have a copy, by their strongest kind, and which share that is."""
    found: dict[str, float] = {name: int((kinds == number).sum()) for number, name in enumerate(KINDS)}
    some = int((kinds < NOT).sum())
    return found | {"any": some, "share": some / max(1, len(kinds))}


def _said(eye: Eye, seen: Neighbours) -> dict[str, Any]:
    """What the report says of the features: quantiles tell how far from the threshold other faces are."""
    shares = (0.5, 0.9, 0.99, 0.999, 1.0)
    return {
        "address": eye.address,
        "cosine": seen.threshold,
        "chosen_by": seen.chosen_by,
        "unreadable": seen.unreadable,
        "nearest_of_b": {f"{share:g}": float(np.quantile(seen.b.cosine, share)) for share in shares},
    }
