"""A dataset becomes a shard set: listed, planned, written by many processes, and put in place when whole.

    OUT.unfinished/plan.json     what is being made: packing goes on under the same plan only
    OUT.unfinished/rows/         a JSON a finished shard
    OUT.unfinished/set/          the shards; becomes OUT in one rename

So OUT is whole or absent. A packer that was killed, or found the disk full, is simply started again: finished
shards are kept, and the result is the same to the last byte.
"""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.boxes import TEMPLATES
from shards.errors import ShardError
from shards.expressions import EXPRESSIONS
from shards.index import FORMAT, INDEX, ShardSet, size_fault
from shards.plan import Plan, make_plan
from shards.sources import SOURCES, entries
from shards.sources.listing import LeftOut, Listing
from shards.writer import Task, write_shard

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, slots=True)
class _Work:
    """A packing under way: all that its parts need to know."""

    out: Path
    name: str
    source: str
    split: str | None
    seed: int
    licence: str
    listing: Listing
    plan: Plan
    budget: int  # files that may be left out
    progress: Progress

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + ".unfinished")

    @property
    def set(self) -> Path:
        return self.folder / "set"

    def row_file(self, shard: int) -> Path:
        return self.folder / "rows" / f"{shard:06d}.json"

    def task(self, shard: int) -> Task:
        start, stop = self.plan.cuts[shard : shard + 2]
        images = [self.listing.entries[i] for i in self.plan.order[start:stop].tolist()]
        name = f"{self.name}-{shard:06d}"
        return Task(self.name, name, self.set, self.row_file(shard), start, images)


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

    `max_left_out` is a count or a percentage of the images. `workers` processes (None: one a core) change
    the time only. ShardError says what is wrong with the source, the settings or the place.
    """
    src, out = Path(src), Path(os.path.abspath(out))
    name = name or re.sub(r"[^A-Za-z0-9_-]+", "-", Path(os.path.abspath(src)).stem).strip("-") or source
    _check(src, out, source=source, name=name, split=split, protocol=protocol, shard_mb=shard_mb)
    listing = entries(source, src, split=split, protocol=protocol)
    budget = _budget(max_left_out, len(listing.entries))
    plan = make_plan(listing, name=name, shard_mb=shard_mb, seed=seed)
    report = progress or (lambda done, total: None)
    work = _Work(out, name, source, split, seed, licence, listing, plan, budget, report)
    with _claimed(work):
        rows = _make_shards(work, workers or len(os.sched_getaffinity(0)))
        _finish(work, rows)
    return ShardSet.open(out)


def _check(
    src: Path, out: Path, *, source: str, name: str, split: str | None, protocol: str, shard_mb: float
) -> None:
    """ShardError for settings that cannot be meant."""
    if source not in SOURCES:
        raise ShardError(f"unknown source {source!r}; sources are {', '.join(SOURCES)}")
    if not src.exists():
        raise ShardError(f"{src}: not there; SRC is the dataset's folder")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ShardError(
            f"name {name!r}: use letters, digits, - and _ (it names the tars, which know no dots)"
        )
    if split not in (None, "train", "valid", "test"):
        raise ShardError(f"unknown split {split!r}; splits are train, valid, test")
    if protocol not in ("argmax", "majority"):
        raise ShardError(f"unknown protocol {protocol!r}; protocols are argmax, majority")
    if not shard_mb > 0:
        raise ShardError(f"shard_mb {shard_mb}: a shard needs more than 0 MB")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ShardError(f"{out}: not an empty folder; choose another OUT, or remove it first")


def _budget(max_left_out: str, images: int) -> int:
    """How many of `images` may be left out: "25", or "1%"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", max_left_out.strip())
    if not found or ("." in found[1] and not found[2]):
        raise ShardError(f"max_left_out {max_left_out!r}: give a count (25) or a percentage (1%)")
    return int(float(found[1]) * images / 100) if found[2] else int(found[1])


@contextmanager
def _claimed(work: _Work) -> Iterator[None]:
    """The folder of unfinished work, ours alone: new, or left by a packer that stopped under the same plan."""
    try:
        (work.folder / "rows").mkdir(parents=True, exist_ok=True)
        work.set.mkdir(exist_ok=True)
        with (work.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ShardError(f"{work.folder}: another packer is at work there; wait for it") from None
            _continue_or_start(work)
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ShardError(
                f"{work.folder}: {error.strerror}; make room for about {work.plan.bytes / 1e9:.2f} GB in all "
                "and run the same command again, finished shards are kept"
            ) from None
        raise ShardError(f"{error.filename or work.folder}: {error.strerror}") from None


def _continue_or_start(work: _Work) -> None:
    file = work.folder / "plan.json"
    mine = json.dumps({"set": work.name, "plan": work.plan.digest})
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(mine)
        part.rename(file)
    elif file.read_text() != mine:
        raise ShardError(
            f"{work.folder}: unfinished work of another packing (other source, name, seed or size of shards); "
            "remove it to begin anew"
        )


def _make_shards(work: _Work, workers: int) -> list[dict[str, Any]]:
    """The rows of all shards, in order; makes those that are not there yet."""
    rows = {shard: row for shard in range(work.plan.shards) if (row := _finished(work, shard))}
    todo = [shard for shard in range(work.plan.shards) if shard not in rows]
    done = sum(len(work.task(shard).entries) for shard in rows)
    _within_budget(work, rows)
    free = shutil.disk_usage(work.set).free
    needed = work.plan.bytes * len(todo) // work.plan.shards
    if needed > free:
        raise ShardError(
            f"{work.out}: {needed / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free; make room first"
        )
    run = _here if min(workers, len(todo)) <= 1 else _in_processes
    for shard, row in run(work, todo, workers, done):
        rows[shard] = row
        _within_budget(work, rows)
    return [rows[shard] for shard in range(work.plan.shards)]


def _finished(work: _Work, shard: int) -> dict[str, Any] | None:
    """The row of a shard that an earlier packer finished."""
    file = work.row_file(shard)
    if not file.exists():
        return None
    row = json.loads(file.read_text())
    return None if size_fault(work.set, row["shard"]) else row


def _here(work: _Work, todo: list[int], workers: int, done: int) -> Iterator[tuple[int, dict[str, Any]]]:
    total = len(work.listing.entries)

    def step() -> None:
        nonlocal done
        done += 1
        work.progress(done, total)

    for shard in todo:
        yield shard, write_shard(work.task(shard), step)


_counter: Any = None  # in a packing process: images done, shared by all


def _start_process(counter: Any) -> None:
    global _counter
    _counter = counter


def _step() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _write(task: Task) -> dict[str, Any]:
    return write_shard(task, _step)


def _in_processes(
    work: _Work, todo: list[int], workers: int, done: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Shards as they are finished; a few tasks are sent ahead, for a task carries the list of its images."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.pack"])
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _start_process, (counter,))
    waiting, sent = iter(todo), dict[Any, int]()
    try:
        while True:
            for shard in waiting:
                sent[pool.submit(_write, work.task(shard))] = shard
                if len(sent) >= 2 * workers:
                    break
            if not sent:
                return
            finished, _ = wait(sent, timeout=0.2, return_when=FIRST_COMPLETED)
            work.progress(done + counter.value, len(work.listing.entries))
            for future in finished:
                yield sent.pop(future), future.result()
    except BrokenProcessPool:
        raise ShardError(
            f"{work.folder}: a packing process was killed (out of memory?); run the same command again with fewer "
            "--workers, finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _within_budget(work: _Work, rows: dict[int, dict[str, Any]]) -> None:
    """ShardError as soon as more files are left out than may be."""
    lost = [left for left in work.listing.left_out if left.counts] + _damaged(rows)
    if len(lost) > work.budget:
        few = "\n".join(f"  {left.path}: {left.reason}" for left in lost[:5])
        raise ShardError(
            f"{len(lost)} of {len(work.listing.entries)} images had to be left out, {work.budget} may be "
            f"(--max-left-out):\n{few}\nMend or remove them, or allow more and run again"
        )


def _damaged(rows: dict[int, dict[str, Any]]) -> list[LeftOut]:
    return [LeftOut(path, reason, True) for row in rows.values() for _, path, reason in row["left_out"]]


def _finish(work: _Work, rows: list[dict[str, Any]]) -> None:
    """Write what describes the set as a whole, and put it in its place."""
    left_out = sorted(work.listing.left_out + _damaged(dict(enumerate(rows))), key=lambda left: left.path)
    index = _index(work, rows, left_out)
    if not index["samples"]:
        raise ShardError(
            f"no image could be packed into {work.out}; first: {left_out[0].path}: {left_out[0].reason}"
        )
    lines = [json.dumps({"path": left.path, "reason": left.reason}) + "\n" for left in left_out]
    _write_text(work.set / "left_out.jsonl", "".join(lines))
    _write_text(work.set / INDEX, json.dumps(index, indent=1) + "\n")
    work.set.rename(work.out)
    shutil.rmtree(work.folder)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _index(work: _Work, rows: list[dict[str, Any]], left_out: list[LeftOut]) -> dict[str, Any]:
    """index.json: see the head of index.py."""
    shards = [row["shard"] for row in rows]
    samples = sum(shard["samples"] for shard in shards)
    dropped = {place for row in rows for place, _, _ in row["left_out"]}
    kept = (i for place, i in enumerate(work.plan.order.tolist()) if place not in dropped)
    identities = {work.listing.entries[i].identity for i in kept} - {None}
    return {
        "format": FORMAT,
        "name": work.name,
        "source": work.source,
        "split": work.split,
        "protocol": work.listing.protocol,
        "licence": work.licence,
        "seed": work.seed,
        "order": "random",
        "samples": samples,
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        **_statistics([row["tally"] for row in rows if row["tally"]["pixels"]], samples),
        "identities": len(identities) or None,
        "template_box": list(TEMPLATES[work.source]),
        "left_out": dict(sorted(Counter(left.reason for left in left_out).items())),
    }


def _statistics(tallies: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Sizes, colours and classes over all shards."""
    if not tallies:
        return {}

    def total(name: str) -> list[int]:
        return [sum(column) for column in zip(*(tally[name] for tally in tallies), strict=True)]

    pixels = sum(tally["pixels"] for tally in tallies)
    mean = [value / pixels / 255 for value in total("values")]
    spread = [square / pixels / 255**2 - m**2 for square, m in zip(total("squares"), mean, strict=True)]
    expressions = Counter[str]()
    for tally in tallies:
        expressions.update(tally["expressions"])
    return {
        "image_px": {
            "min": [min(column) for column in zip(*(tally["min_px"] for tally in tallies), strict=True)],
            "max": [max(column) for column in zip(*(tally["max_px"] for tally in tallies), strict=True)],
            "mean": [round(side / samples, 1) for side in total("sum_px")],
        },
        "mean": [round(m, 4) for m in mean],
        "std": [round(max(0.0, s) ** 0.5, 4) for s in spread],
        "expressions": {name: expressions[name] for name in EXPRESSIONS if expressions[name]},
    }
