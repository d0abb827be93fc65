"""A dataset becomes a shard set: listed, planned, written by many processes, put in place when it is whole.

    OUT.unfinished/plan.json    what is being made; packing goes on under the same plan only
    OUT.unfinished/set/         finished shards; becomes OUT in one rename
    OUT.unfinished/rows/        a JSON for each of them
    OUT.unfinished/parts/       what was being written

So OUT is whole or absent. A packer that was killed, or found the disk full, is simply started again: finished
shards are kept, and the set is the same to the last byte.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.boxes import Box
from shards.describe import Row, describe, left_out_of, to_text
from shards.errors import ShardError
from shards.index import INDEX, UNFINISHED, ShardSet, size_fault
from shards.plan import Plan, make_plan
from shards.sources import SOURCES, entries
from shards.sources.listing import Listing
from shards.workers import make_shards
from shards.writer import Task

Progress = Callable[[int, int], None]  # images done, of how many
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class _Work:
    """A packing under way: where it happens, and what is to be made."""

    out: Path
    name: str
    listing: Listing
    plan: Plan
    template: Box

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + UNFINISHED)

    @property
    def set(self) -> Path:
        return self.folder / "set"

    def row_file(self, shard: int) -> Path:
        return self.folder / "rows" / f"{shard:06d}.json"

    def task(self, shard: int) -> Task:
        start, stop = self.plan.cuts[shard : shard + 2]
        images = [self.listing.entries[i] for i in self.plan.order[start:stop].tolist()]
        return Task(
            set_name=self.name,
            name=f"{self.name}-{shard:06d}",
            first=start,
            entries=images,
            place=self.set,
            row_file=self.row_file(shard),
            parts=self.folder / "parts",
            template=self.template,
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
    progress: Progress | None = None,
) -> ShardSet:
    """Pack the dataset at `src` into a shard set at `out`; returns the set.

    `max_left_out` is a count, or a percentage of the images. The number of `workers` (None: one a core)
    changes the time and nothing else. ShardError says what is wrong with source, settings or disk.
    """
    src, out = Path(src), Path(os.path.abspath(out))
    name = name or name_of(src) or source
    _check_settings(source=source, name=name, split=split, protocol=protocol, shard_mb=shard_mb)
    _check_places(src, out)
    listing = entries(source, src, split=split, protocol=protocol)
    budget = _budget(max_left_out, len(listing.entries))
    plan = make_plan(listing, name=name, shard_mb=shard_mb, seed=seed)
    work = _Work(out, name, listing, plan, SOURCES[source].template)
    with _claimed(work):
        rows = _make(work, workers or len(os.sched_getaffinity(0)), budget, progress or (lambda done, total: None))
        about = {"name": name, "source": source, "split": split, "licence": licence, "seed": seed}
        _put_in_place(work, rows, describe(about, listing, work.plan, rows))
    return ShardSet.open(out)


def name_of(src: Path) -> str:
    """A set's name from its source's: "my faces.tar" gives "my-faces"."""
    base = os.path.basename(os.path.abspath(src)).removesuffix(".tar")
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
    if not shard_mb > 0:
        raise ShardError(f"shard_mb {shard_mb}: shards need a size above 0 MB")


def _check_places(src: Path, out: Path) -> None:
    """ShardError where there is nothing to read, or something where we would write."""
    if not src.exists():
        raise ShardError(f"{src}: not there; SRC is where the dataset lies")
    if src.is_dir() and src.resolve() in out.resolve().parents:
        raise ShardError(f"{out}: lies inside of SRC; what is written there would be packed itself, choose another OUT")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds a shard set" if (out / INDEX).exists() else "is not an empty folder"
        raise ShardError(f"{out} {what} already; choose another OUT, or remove it first")


def _budget(max_left_out: str, images: int) -> int:
    """How many of `images` may be left out: "25" or "1%"."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", str(max_left_out).strip())
    if not found:
        raise ShardError(f"max_left_out {max_left_out!r}: give a count, 25, or a percentage, 1%")
    return int(found[1]) if found[1] else int(float(found[2]) * images / 100)


@contextmanager
def _claimed(work: _Work) -> Iterator[None]:
    """The folder of unfinished work for us alone: a new one, or what a packer under the same plan left."""
    try:
        for folder in (work.set, work.folder / "rows"):
            folder.mkdir(parents=True, exist_ok=True)
        with (work.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ShardError(f"{work.folder}: another packer is at work there; wait for its end") from None
            _begin_or_go_on(work)
            yield
    except OSError as error:
        what = f"{error.filename or work.folder}: {error.strerror}"
        if error.errno in _FULL:
            need = f"the set takes about {work.plan.bytes / 1e9:.2f} GB"
            what += f"; {need}. Make room and run the same command again, finished shards are kept"
        raise ShardError(what) from None


def _begin_or_go_on(work: _Work) -> None:
    shutil.rmtree(work.folder / "parts", ignore_errors=True)
    file = work.folder / "plan.json"
    plan = json.dumps({"name": work.name, "digest": work.plan.digest})
    other = file.exists() and file.read_text() != plan
    if other and any((work.folder / "rows").iterdir()):
        raise ShardError(
            f"{work.folder}: unfinished shards of another packing (other images, name, seed or shard_mb); "
            "remove the folder to begin anew, or finish that one first"
        )
    part = file.with_suffix(".part")
    part.write_text(plan)
    part.replace(file)


def _make(work: _Work, workers: int, budget: int, progress: Progress) -> list[Row]:
    """The rows of all shards in order; makes the shards that are not there yet."""
    rows = {shard: row for shard in range(work.plan.shards) if (row := _finished(work, shard))}
    todo = [shard for shard in range(work.plan.shards) if shard not in rows]
    _check_room(work, len(todo))
    _check_budget(work, rows, budget)
    total, before = len(work.listing.entries), sum(work.plan.cuts[i + 1] - work.plan.cuts[i] for i in rows)
    tasks = (work.task(shard) for shard in todo)
    for task, row in make_shards(tasks, min(workers, len(todo)), lambda done: progress(before + done, total)):
        rows[int(task.row_file.stem)] = row
        _check_budget(work, rows, budget)
    progress(total, total)
    return [rows[shard] for shard in range(work.plan.shards)]


def _finished(work: _Work, shard: int) -> Row | None:
    """The row of a shard that is there already."""
    file = work.row_file(shard)
    row: Row | None = json.loads(file.read_text()) if file.exists() else None
    return row if row and not size_fault(work.set, row["shard"]) else None


def _check_room(work: _Work, todo: int) -> None:
    needed = work.plan.bytes * todo // work.plan.shards
    free = shutil.disk_usage(work.set).free
    if needed > free:
        raise ShardError(
            f"{work.out}: {needed / 1e9:.2f} GB are to be written and {free / 1e9:.2f} GB are free there; make room "
            "and run the same command again"
        )


def _check_budget(work: _Work, rows: dict[int, Row], budget: int) -> None:
    """ShardError as soon as more is left out than may be; it is listed in a file."""
    by_source = sum(left.counts for left in work.listing.left_out)
    if by_source + sum(len(row["left_out"]) for row in rows.values()) <= budget:
        return
    lost = [left for left in left_out_of(work.listing, rows.values()) if left.counts]
    file = work.folder / "left_out.jsonl"
    file.write_text("".join(left.line() for left in lost))
    few = "".join(f"\n  {left.path}: {left.reason}" for left in lost[:5])
    raise ShardError(
        f"{len(lost)} of {len(work.listing.entries)} images cannot be packed, {budget} may be left out "
        f"(--max-left-out):{few}\n{file} lists them; mend them, or allow more and run again"
    )


def _put_in_place(work: _Work, rows: list[Row], index: dict[str, Any]) -> None:
    """Let the set appear."""
    left_out = left_out_of(work.listing, rows)
    (work.set / "left_out.jsonl").write_text("".join(left.line() for left in left_out))
    with (work.set / INDEX).open("w", encoding="utf-8") as file:
        file.write(to_text(index))
        file.flush()
        os.fsync(file.fileno())
    work.set.replace(work.out)
    shutil.rmtree(work.folder)
