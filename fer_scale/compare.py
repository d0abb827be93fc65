"""In what two checkpoints differ, on any machine: `fer-scale checkpoint diff A B`.

Two tensors are in memory at a time. Differences are computed in fp64; values that are not finite on either side are
counted where they are not the same, and left out of the rest.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint, config
from fer_scale.checkpoints import Tick, counted, find, refuse_damaged, size_of, stored
from fer_scale.log import Ticker
from fer_scale.tensors import Stored

Row = dict[str, Any]
_FEW = 10  # names in a line
_VALUES = 1 << 18  # compared at a time, in a processor's cache


@dataclass(kw_only=True, slots=True)
class Group:
    """Tensors of one kind in one part of the model."""

    name: str
    tensors: int = 0
    values: int = 0
    differ: int = 0  # values
    largest: float = 0.0  # |b - a|
    at: str = ""  # the tensor that has it
    not_finite: int = 0  # values that differ and are not finite on one side
    square: float = 0.0  # sum of (b - a) squared
    norm: float = 0.0  # sum of a squared

    def add(self, name: str, a: Tensor, b: Tensor) -> None:
        self.tensors += 1
        self.values += a.numel()
        for piece, other in zip(a.flatten().split(_VALUES), b.flatten().split(_VALUES), strict=True):
            if piece.numel():
                self._add(name, piece, other)

    def _add(self, name: str, a: Tensor, b: Tensor) -> None:
        apart = (a != b) & ~(a.isnan() & b.isnan())
        before, difference = a.double(), b.double() - a.double()
        finite = difference.isfinite()
        self.differ += int(apart.sum())
        self.not_finite += int((apart & ~finite).sum())
        difference = difference.where(finite, 0.0)
        self.square += float(difference.square().sum())
        self.norm += float(before.where(before.isfinite(), 0.0).square().sum())
        if (largest := float(difference.abs().max())) > self.largest:
            self.largest, self.at = largest, name

    def row(self) -> Row:
        """`relative` is the norm of the difference, divided by that of `a`; None where that is 0."""
        relative = math.sqrt(self.square / self.norm) if self.norm else None
        told = asdict(self) | {"relative": relative}
        return {name: value for name, value in told.items() if name not in ("square", "norm")}


def diff(place_a: Path, place_b: Path, progress: Ticker) -> Row:
    """The differences of two checkpoints; of a run its newest one is taken. CheckpointError where one is damaged."""
    a, b = find(place_a), find(place_b)
    tick = counted(progress, 2 * size_of(a) + 2 * size_of(b))  # each is hashed, then compared
    for folder in (a, b):
        refuse_damaged(folder, tick)
    told = [(checkpoint.progress_of(place), place) for place in (a, b)]
    recipes = [_flat(config.of_checkpoint({"recipe": ""} | facts, place)) for facts, place in told]
    others = [_flat({name: value for name, value in facts.items() if name != "recipe"}) for facts, _ in told]
    at_a, at_b = stored(a), stored(b)
    both = [name for name in at_a if name in at_b]
    reshaped = [name for name in both if at_a[name].kind != at_b[name].kind]
    groups = _groups([(name, at_a[name], at_b[name]) for name in both if name not in reshaped], tick)
    return {
        "a": str(a),
        "b": str(b),
        "recipe": _differences(*recipes),
        "progress": _differences(*others),
        "only in a": sorted(at_a.keys() - at_b.keys()),
        "only in b": sorted(at_b.keys() - at_a.keys()),
        "other shapes": {name: [at_a[name].kind, at_b[name].kind] for name in reshaped},
        "groups": [group.row() for group in groups],
        "equal": at_a.keys() == at_b.keys() and not reshaped and not any(group.differ for group in groups),
    }


def _flat(values: Row, prefix: str = "") -> Row:
    """{"optim": {"lr": 1}} as {"optim.lr": 1}."""
    flat: Row = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _differences(a: Row, b: Row) -> dict[str, list[Any]]:
    names = [*a, *(name for name in b if name not in a)]
    return {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}


def _groups(pairs: list[tuple[str, Stored, Stored]], tick: Tick) -> list[Group]:
    groups: dict[str, Group] = {}
    for name, a, b in pairs:
        groups.setdefault(_group(name), Group(name=_group(name))).add(name, a.read(), b.read())
        tick(a.end - a.begin + b.end - b.begin)
    return sorted(groups.values(), key=lambda group: "wmvfbe".find(group.name[0]))


def _group(name: str) -> str:
    """w.encoder.blocks.3.attn.qkv.weight -> w.encoder.blocks; w.mask_token -> w.mask_token."""
    head, _, _ = name.rpartition(".")
    return re.sub(r"\.\d+(\..*)?$", "", head) if "." in head else name


def lines(found: Row) -> Iterator[str]:
    """What `fer-scale checkpoint diff` prints."""
    yield f"{'a':<9} {found['a']}"
    yield f"{'b':<9} {found['b']}"
    for part in ("recipe", "progress"):
        for number, (name, (a, b)) in enumerate(found[part].items()):
            yield f"{'' if number else part:<9} {name} {_short(a)} -> {_short(b)}"
    for part in ("only in a", "only in b"):
        if names := found[part]:
            more = f" and {len(names) - _FEW:,} more" if len(names) > _FEW else ""
            yield f"{part:<9} {' '.join(names[:_FEW])}{more}"
    for name, (a, b) in found["other shapes"].items():
        yield f"{'shape':<9} {name} {a} -> {b}"
    if found["equal"]:
        yield f"{'tensors':<9} {sum(group['tensors'] for group in found['groups']):,}, all equal"
    else:
        yield from _table(found["groups"])


def _table(groups: list[Row]) -> Iterator[str]:
    width = max([len(group["name"]) for group in groups], default=0)
    yield f"{'tensors':<9} {'':<{width}} {'count':>6} {'values':>13} {'differ':>7} {'largest':>8} {'relative':>8}  in"
    for group in groups:
        part = group["differ"] / group["values"] if group["values"] else 0
        share = "<1%" if 0 < part < 0.005 else f"{part:.0%}"
        largest, relative = (_small(group[name]) for name in ("largest", "relative"))
        strange = f"{group['not_finite']:,} values are not finite on one side  " if group["not_finite"] else ""
        numbers = f"{group['tensors']:>6,} {group['values']:>13,} {share:>7} {largest:>8} {relative:>8}"
        yield f"{'':<9} {group['name']:<{width}} {numbers}  {strange}{group['at']}".rstrip()


def _small(value: float | None) -> str:
    """None is a change of what was nothing: there is no relative one."""
    return "-" if value is None else f"{value:.1e}" if value else "0"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
