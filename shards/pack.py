"""A dataset becomes a shard set: listed, planned, written by many processes, put in place when it is whole.

A set is made in a folder beside its place (unfinished.py), so OUT is whole or absent. A packer that was killed, or
found the disk full, is simply started again: what is finished is kept, and the set is the same to the last byte.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards import copies
from shards.boxing import Boxing, check_boxing
from shards.describe import Row, describe, left_out_of, to_text
from shards.detector import DETECTOR
from shards.errors import ShardError
from shards.index import FORMAT, HASH_BYTES, INDEX, ShardSet, sha256, size_fault
from shards.place import check_place
from shards.plan import Chosen, Plan, make_plan, survey
from shards.prepare import UNREADABLE, Rules, is_readable
from shards.sources import SOURCES, entries
from shards.sources.listing import Listing
from shards.unfinished import Unfinished
from shards.workers import spread
from shards.writer import Task, to_disk, write_shard

Progress = Callable[[int, int], None]  # images done, of how many


@dataclass(frozen=True, slots=True)
class _Work:
    """A packing under way: where it happens, and what is to be made."""

    at: Unfinished
    name: str
    listing: Listing
    plan: Plan
    boxing: Boxing
    rules: Rules

    def task(self, shard: int) -> Task:
        start, stop = self.plan.cuts[shard : shard + 2]
        return Task(
            set_name=self.name,
            name=f"{self.name}-{shard:06d}",
            first=start,
            entries=Chosen(self.listing.entries, self.plan.order[start:stop]),
            place=self.at.set,
            row_file=self.at.row_file(shard),
            parts=self.at.parts,
            boxing=self.boxing,
            rules=self.rules,
        )


def pack(
    src: Path | str,
    out: Path | str,
    *,
    source: str,
    name: str | None = None,
    split: str | None = None,
    protocol: str = "argmax",
    shard_mb: float = 256,
    seed: int = 0,
    workers: int | None = None,
    max_left_out: str = "1%",
    licence: str = "unknown",
    transcode: bool = False,
    max_px: int | None = None,
    decode_check: bool = True,
    duplicates: str = "keep",
    boxes: str = "auto",
    detector: Path | str | None = None,
    progress: Progress | None = None,
) -> ShardSet:
    """Pack the dataset at `src` into a shard set at `out`; returns the set.

    `max_left_out` is a count, or a percentage of the images. The number of `workers` (None: one a core)
    changes the time and nothing else. `transcode`, `max_px` and `decode_check` are those of prepare.Rules,
    `duplicates` one of copies.MODES, `boxes` one of boxing.MODES, and `detector` the model file that finds faces
    (detector.py). ShardError says what is wrong with source, settings or disk.
    """
    src, out = Path(src), Path(os.path.abspath(out))
    name = name or name_of(src) or source
    _check_settings(source=source, name=name, split=split, protocol=protocol, shard_mb=shard_mb)
    rules = Rules(transcode, max_px, decode_check)
    _check_rules(rules, duplicates)
    boxing = Boxing(boxes, Path(detector) if detector else None)
    check_boxing(boxing, decode_check=decode_check)
    _check_places(src, out)
    listing = entries(source, src, split=split, protocol=protocol)
    budget = _budget(max_left_out, images := len(listing.entries))
    settings = [FORMAT, name, shard_mb, seed, transcode, max_px, decode_check, duplicates, boxes, bool(detector)]
    sizes, digest = survey(listing.entries, settings, all_known=bool(detector), most_bytes=rules.most_bytes)
    workers, progress = workers or len(os.sched_getaffinity(0)), progress or (lambda done, total: None)
    at, before = Unfinished(out), 0
    with at.claimed(name, digest, int(sizes.sum())):
        if duplicates in ("drop", "conflicts"):
            before, total = images, 2 * images
            hashes = copies.hash_all(listing.entries, rules, at, workers, lambda done: progress(done, total))
            kept, dropped = copies.choose(listing.entries, hashes, duplicates)
            at.go_on_with(kept.tobytes())
            listing = replace(listing, entries=Chosen(listing.entries, kept), left_out=listing.left_out + dropped)
            sizes = sizes[kept]
        work = _Work(at, name, listing, make_plan(sizes, shard_mb=shard_mb, seed=seed), boxing, rules)
        rows = _make(work, workers, budget, lambda done, total: progress(before + done, before + total))
        about = {"name": name, "source": source, "split": split, "licence": licence, "seed": seed}
        about |= {"decode_check": decode_check, "detector": DETECTOR if detector else None}
        index = describe(about, listing, work.plan, rows)
        _finish(work, rows, index, report=duplicates == "report")
    return ShardSet.open(out)


def name_of(src: Path) -> str:
    """A set's name from its source's: "my faces.tar.gz" gives "my-faces"."""
    base = re.sub(r"\.(tar|tar\.gz|tgz|rec|parquet|csv)$", "", os.path.basename(os.path.abspath(src)))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", base).strip("-_")


def _check_settings(*, source: str, name: str, split: str | None, protocol: str, shard_mb: float) -> None:
    """ShardError for what cannot be meant."""
    if source not in SOURCES:
        raise ShardError(f"unknown source {source!r}; sources are {', '.join(SOURCES)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ShardError(f"name {name!r}: use letters, digits, - and _, a letter or digit first; tars are called so")
    if split not in (None, "train", "valid", "test"):
        raise ShardError(f"unknown split {split!r}; splits are train, valid, test")
    if protocol not in ("argmax", "majority"):
        raise ShardError(f"unknown protocol {protocol!r}; protocols are argmax, majority")
    if not 0 < shard_mb < math.inf:
        raise ShardError(f"shard_mb {shard_mb}: shards need a size above 0 MB, and a finite one")


def _check_rules(rules: Rules, duplicates: str) -> None:
    """ShardError for what cannot be meant."""
    if rules.max_px is not None and rules.max_px < 1:
        raise ShardError(f"max_px {rules.max_px}: an image needs a side of at least 1 px")
    if duplicates not in copies.MODES:
        raise ShardError(f"unknown duplicates {duplicates!r}; say {', '.join(copies.MODES)}")
    if duplicates != "keep" and not rules.decode_check:
        raise ShardError(f"duplicates {duplicates!r}: copies are found by their pixels, which needs the decode check")


def _check_places(src: Path, out: Path) -> None:
    """ShardError where there is nothing to read, or something where we would write."""
    if not src.exists():
        raise ShardError(f"{src}: not there; SRC, where the dataset lies, comes before OUT")
    if src.is_dir() and src.resolve() in out.resolve().parents:
        raise ShardError(f"{out}: lies inside of SRC; what is written there would be packed itself, choose another OUT")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds a shard set" if (out / INDEX).exists() else "is not an empty folder"
        raise ShardError(f"{out} {what} already; choose another OUT, or remove it first")
    check_place(out)


def _budget(max_left_out: str, images: int) -> int:
    """How many of `images` may be left out: "25" or "1%"."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", str(max_left_out).strip())
    if not found:
        raise ShardError(f"--max-left-out {max_left_out}: give a count, 25, or a percentage, 1%")
    return int(found[1]) if found[1] else int(float(found[2]) * images / 100)


def _make(work: _Work, workers: int, budget: int, progress: Progress) -> list[Row]:
    """The rows of all shards in order; makes the shards that are not there yet."""
    rows = {shard: row for shard in range(work.plan.shards) if (row := _finished(work, shard))}
    todo = [shard for shard in range(work.plan.shards) if shard not in rows]
    _check_room(work, len(todo))
    _check_budget(work, rows, budget)
    total, before = len(work.listing.entries), sum(work.plan.cuts[i + 1] - work.plan.cuts[i] for i in rows)
    tasks = (work.task(shard) for shard in todo)
    for task, row in spread(write_shard, tasks, min(workers, len(todo)), lambda done: progress(before + done, total)):
        rows[int(task.row_file.stem)] = row
        _check_budget(work, rows, budget)
    progress(total, total)
    return [rows[shard] for shard in range(work.plan.shards)]


def _finished(work: _Work, shard: int) -> Row | None:
    """The row of a shard that is there already, unless an image that it could not read can be read now."""
    file = work.at.row_file(shard)
    row: Row | None = json.loads(file.read_text()) if file.exists() else None
    if not row or size_fault(work.at.set, row["shard"]):
        return None
    unread = [work.plan.order[place] for place, _, reason in row["left_out"] if reason.startswith(UNREADABLE)]
    return None if any(is_readable(work.listing.entries[int(i)]) for i in unread) else row


def _check_room(work: _Work, todo: int) -> None:
    needed = work.plan.bytes * todo // work.plan.shards
    free = shutil.disk_usage(work.at.set).free
    if needed > free:
        raise ShardError(
            f"{work.at.out}: {needed / 1e9:.2f} GB are to be written and {free / 1e9:.2f} GB are free there; make room "
            "and run the same command again"
        )


def _check_budget(work: _Work, rows: dict[int, Row], budget: int) -> None:
    """ShardError as soon as more is left out than may be; it is listed in a file."""
    by_source = sum(left.counts for left in work.listing.left_out)
    if by_source + sum(len(row["left_out"]) for row in rows.values()) <= budget:
        return
    lost = [left for left in left_out_of(work.listing, rows.values()) if left.counts]
    file = work.at.folder / "left_out.jsonl"
    file.write_text("".join(left.line() for left in lost))
    few = "".join(f"\n  {left.path}: {left.reason}" for left in lost[:5])
    raise ShardError(
        f"{len(lost)} of {len(work.listing.entries)} images cannot be packed, {budget} may be left out "
        f"(--max-left-out):{few}\n{file} lists them; allow more, or make them readable, and run again. A changed "
        f"picture makes another packing: remove {work.at.folder} first"
    )


def _finish(work: _Work, rows: list[Row], index: dict[str, Any], *, report: bool) -> None:
    """Write what stands beside the shards, and let the set appear."""
    left_out = left_out_of(work.listing, rows)
    beside: dict[str, Iterator[str]] = {"left_out.jsonl": (left.line() for left in left_out)}
    if report:
        beside[copies.REPORT] = copies.report(work.listing.entries, _hashes(work, rows))
    index["files"] = {name: _write(work.at.set / name, lines) for name, lines in beside.items()}
    _write(work.at.set / INDEX, [to_text(index)])
    work.at.put_in_place()


def _write(file: Path, lines: Iterable[str]) -> str:
    """Write lines, of which there may be as many as images, through to the disk; returns the file's sha256."""
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(lines)
        to_disk(opened)
    return sha256(file)


def _hashes(work: _Work, rows: list[Row]) -> copies.Bytes:
    """The pixel hashes of the listing's images as they were packed; zeros for those left out."""
    left_out = [place for row in rows for place, _, _ in row["left_out"]]
    packed = np.delete(work.plan.order, left_out)
    found = np.zeros((len(work.plan.order), HASH_BYTES[0]), np.uint8)
    files = [np.fromfile(work.at.set / f"{row['shard']['name']}.hashes", np.uint8) for row in rows]
    found[packed] = np.concatenate(files).reshape(-1, sum(HASH_BYTES))[:, : HASH_BYTES[0]]
    return found
