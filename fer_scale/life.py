"""The life of a run: its starts and how each ended, where its time went, and how it stands: `fer-scale show RUN`.

`wall_s` is the time from the first start's claim (its first event, in runs of before there were claims) to the last
sign of life: an outcome, an event, or something written to metrics.jsonl or to a start's folder. A step counts when the
run goes on from its result: after a death that is up to the newest checkpoint. The same step computed before, by a
start that died, is lost. A step takes what metrics.jsonl says, images a step by images/s: reading and computing, in
fine-tuning with what lies between two lines. Steps without a line, as the last ones before a death, are taken at the
mean speed of their start. `effective` is the time of the steps that count, divided by `wall_s`.

How far a start came that died is known to the last line of its metrics: what is lost is at least what is said.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fer_scale.record import Record, Row, published, seconds_of

_PATIENCE_S = 600.0  # so long a run may say nothing, or five times what lies between two lines of its metrics
_TOLD = ("skipped", "unreadable", "slow", "set_aside", "not_published")
_DEAD = ("failed", "killed", "silent", "superseded", "unknown")  # what it computed after its newest checkpoint is lost


@dataclass(kw_only=True, slots=True)
class Start:
    """One start of the run. Times are seconds since 1970."""

    number: int | None  # of its claim; None before there were any
    began: float
    ended: float
    outcome: str = ""  # done, preempted, failed, superseded, killed, silent, running; unknown, before there were claims
    reason: str = ""
    restart: bool | None = None  # whether the same command may help
    host: str | None = None  # of its main rank
    ranks: int | None = None
    hosts: list[str] = field(default_factory=list)
    stage: int | None = None  # of ZeRO
    first_step: int | None = None  # after which it began; None: it ended before its first step
    last_step: int = 0  # how far it is known to have come
    counted_steps: int = 0
    counted_s: float = 0.0
    lost_steps: int = 0
    lost_s: float = 0.0
    images_per_s: float | None = None  # at its end, where its last steps were computed again
    changed: Row = field(default_factory=dict)  # what is not as in the start before: name -> [before, now]
    changes: list[str] = field(default_factory=list)  # of the recipe, by --change
    stacks: list[str] = field(default_factory=list)  # files that show what hung


def life(record: Record, now: float) -> Row:
    """What `fer-scale show RUN --json` prints: how it stands `now`, where its time went, its starts and events."""
    record = _of_training(record)
    found = starts(record, now)
    row = record.metrics[-1] if record.metrics else {}
    newest = found[-1] if found else Start(number=None, began=now, ended=now, outcome="not begun")
    step = next((start.last_step for start in reversed(found) if start.first_step is not None), 0)
    pace_s = _step_s(record.recipe, row)
    return {
        "kind": "fine-tuning" if "supervised" in record.recipe else "pre-training",
        "state": newest.outcome,
        "reason": newest.reason,
        "restart": newest.restart,
        "process": {True: "there", False: "gone", None: "not seen from here"}[record.alive],
        "step": step,
        "steps": record.steps,
        "loss": row.get("loss"),
        "quiet_s": round(max(0.0, now - newest.ended)),
        "left_s": round((record.steps - step) * pace_s) if pace_s and newest.outcome == "running" else None,
        "goes_on_from_step": max(record.saved, default=0),
        "time": _time(found, record.events),
        "starts": [asdict(start) | {"began": _iso(start.began), "ended": _iso(start.ended)} for start in found],
        "checkpoints": _checkpoints(record),
    } | _events(record)


def starts(record: Record, now: float) -> list[Start]:
    """The run's starts, oldest first, with how each ended and what of it counts."""
    record = _of_training(record)
    found = [_claimed(record, number) for number in sorted(record.claims)]
    _follow(found, record.events)
    found.sort(key=lambda start: start.number or 0)  # not by a clock: it may have jumped
    if found:
        _how_it_stands(found[-1], record, now)
    for start, after in itertools.pairwise(found):
        start.ended = max(start.began, min(start.ended, after.began))
        if not start.outcome:
            killed = ("killed", "without a word") if start.number is not None else ("unknown", "")
            start.outcome, start.reason = killed
    begun = [start for start in found if start.first_step is not None]
    dead = bool(found) and (found[-1].outcome in _DEAD or found[-1] not in begun)  # the newest has not got so far yet
    _count(begun, record, dead=dead)
    return found


def _of_training(record: Record) -> Record:
    """Without the lines of metrics about the list `valid`: they stand beside the others, and know no speed."""
    return replace(record, metrics=[row for row in record.metrics if "valid_accuracy" not in row])


def _claimed(record: Record, number: int) -> Start:
    claim, sign = record.claims[number], record.signs[number]
    began = seconds_of(claim["time"]) if "time" in claim else sign
    start = Start(number=number, began=began, ended=max(began, sign), host=claim.get("host"))
    start.stacks = record.stacks.get(number, [])
    _end(start, record.outcomes.get(number, {}))
    return start


def _end(start: Start, said: Row) -> None:
    """How it ended, by its outcome.json."""
    if said:
        start.outcome, start.reason, start.restart = said["outcome"], said.get("reason", ""), said.get("restart")
        start.ended = max(start.began, seconds_of(said["time"]))
        start.last_step = max(start.last_step, said.get("step") or 0)
        if start.reason.startswith("Superseded"):
            start.outcome, start.reason = "superseded", "a later start took over"


def _follow(found: list[Start], events: Iterable[Row]) -> None:
    """Give each start its events, in their order; events of before there were claims add starts without a number."""
    current: Start | None = None
    for row in events:
        kind, at = row["event"], seconds_of(row["time"])
        if kind in ("start", "resume"):
            current = _whose(row, at, found)
            if current is None:
                found.append(current := Start(number=None, began=at, ended=at))
            current.first_step, current.last_step = row["step"], max(current.last_step, row["step"])
            current.ranks, current.stage = row.get("ranks", row.get("processes")), row.get("stage")
            current.hosts, current.changed = row.get("hosts", []), row.get("changed", {})
            current.changes = row.get("changes", [])
        elif current is None or kind == "set_aside":
            continue
        elif kind == "rewound":  # said by the start after it
            current.last_step, current.images_per_s = max(current.last_step, row["reached"]), row.get("images_per_s")
            continue
        else:
            current.last_step = max(current.last_step, row.get("step", 0))
            if kind == "stop" and current.number is None:
                current.outcome, current.reason = "preempted", row.get("reason", "")
        current.ended = max(current.ended, at)


def _whose(row: Row, at: float, found: Sequence[Start]) -> Start | None:
    """The claimed start that begins with this event: fine-tuning's has no number, there it is the last one before."""
    if "attempt" in row:
        return next((start for start in found if start.number == row["attempt"]), None)
    before = [start for start in found if start.number is not None and start.began <= at]
    return before[-1] if before and before[-1].first_step is None else None


def _how_it_stands(start: Start, record: Record, now: float) -> None:
    """The newest start's outcome, where it is not written."""
    said = record.outcome
    if start.number is None and said and seconds_of(said["time"]) >= start.began:
        _end(start, said)
    if start.outcome:
        return
    start.ended = max(start.ended, record.measured or 0)
    lines = [row["step"] for row in record.metrics[-2:]]
    between_s = (lines[-1] - lines[0]) * (_step_s(record.recipe, record.metrics[-1]) or 0) if lines else 0
    if record.alive is False and start.number is not None:
        start.outcome, start.reason = "killed", "without a word"
    else:
        start.outcome = "running" if now - start.ended <= max(_PATIENCE_S, 5 * between_s) else "silent"


def _count(begun: Sequence[Start], record: Record, *, dead: bool) -> None:
    """Which steps of each start count and which are lost, and their time."""
    if begun and record.metrics:
        begun[-1].last_step = max(begun[-1].last_step, record.metrics[-1]["step"])
    lines = _lines(begun, record)
    mean_s = _mean([line for each in lines for line in each])
    until = max(record.saved, default=0) if dead else math.inf
    for start, mine in reversed(list(zip(begun, lines, strict=True))):
        first = start.first_step or 0
        if first < until < math.inf:  # somebody goes on from there, so it came so far
            start.last_step = max(start.last_step, int(until))
        start.counted_steps = int(max(0, min(start.last_step, until) - first))
        start.lost_steps = start.last_step - first - start.counted_steps
        pace_s = _mean(mine) or _step_s(record.recipe, {"images_per_s": start.images_per_s}) or mean_s or 0.0
        told = [line for line in mine if line.step <= until]
        start.counted_s = sum(line.seconds for line in told)
        start.counted_s += (start.counted_steps - sum(line.steps for line in told)) * pace_s
        start.lost_s = start.lost_steps * pace_s
        until = min(until, first)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of metrics: the last `steps` steps up to `step` took `seconds`."""

    step: int
    steps: int
    seconds: float


def _lines(begun: Sequence[Start], record: Record) -> list[list[_Line]]:
    """The lines of each start: of a step computed twice, the last that began before it."""
    lines: list[list[_Line]] = [[] for _ in begun]
    before = 0
    for row in record.metrics:
        step, step_s = row["step"], _step_s(record.recipe, row)
        whose = next((k for k in reversed(range(len(begun))) if (begun[k].first_step or 0) < step), None)
        if whose is not None and step_s:
            steps = step - max(before, begun[whose].first_step or 0)
            lines[whose].append(_Line(step, steps, steps * step_s))
        before = step
    return lines


def _mean(lines: Sequence[_Line]) -> float | None:
    """Seconds a step."""
    steps = sum(line.steps for line in lines)
    return sum(line.seconds for line in lines) / steps if steps else None


def _step_s(recipe: Row, row: Row) -> float | None:
    """Seconds a step by a line of metrics, which knows images/s; None where it does not say, or the recipe is lost."""
    stage = {2: "supervised", 3: "semi"}.get(row.get("stage", 0), "supervised" if "supervised" in recipe else "batch")
    images = recipe.get(stage, {}).get("size" if stage == "batch" else "batch", 0)
    images *= 1 + recipe[stage].get("unlabeled_ratio", 0) if stage == "semi" else 1
    return images / row["images_per_s"] if images and row.get("images_per_s") else None


def _time(found: Sequence[Start], events: Sequence[Row]) -> Row:
    """Where the time went from the first start to the last sign of life, in seconds."""
    if not found:
        return {}
    began, ended = found[0].began, max(start.ended for start in found)
    counted_s, lost_s = sum(start.counted_s for start in found), sum(start.lost_s for start in found)
    saves = [row for row in events if row["event"] == "checkpoint"]
    parts = {
        "counted_s": counted_s,
        "lost_s": lost_s,
        "saving_s": sum([float(row.get("stall_s") or row.get("seconds") or 0) for row in saves]),
        "between_s": sum(max(0.0, b.began - a.ended) for a, b in itertools.pairwise(found)),
    }
    wall_s = max(ended - began, 0.0)
    told = counted_s or not any(start.counted_steps for start in found)  # else no line of metrics says a speed
    effective = min(1.0, counted_s / wall_s) if wall_s and told else None
    parts["rest_s"] = max(0.0, wall_s - sum(parts.values()))
    rounded = {name: round(seconds, 3) for name, seconds in parts.items()}
    return {"began": _iso(began), "ended": _iso(ended), "wall_s": wall_s, "effective": effective} | rounded


def _checkpoints(record: Record) -> Row:
    """How many were written and are kept; what a save took and how long it held the steps up, in seconds, at worst."""
    saves = [row for row in record.events if row["event"] == "checkpoint"]
    seconds = sorted(row["seconds"] for row in saves if "seconds" in row)
    stalls = sorted(row["stall_s"] for row in saves if "stall_s" in row)
    return {
        "written": len(saves),
        "kept": len(record.saved),
        "newest_step": max(record.saved, default=None),
        "bytes": saves[-1].get("bytes") if saves else None,
        "seconds": seconds[len(seconds) // 2] if seconds else None,
        "worst_s": seconds[-1] if seconds else None,
        "stall_s": stalls[len(stalls) // 2] if stalls else None,
        "worst_stall_s": stalls[-1] if stalls else None,
    }


def _events(record: Record) -> Row:
    """What happened to single steps, images, ranks and checkpoints."""
    of = {kind: [row for row in record.events if row["event"] == kind] for kind in _TOLD}
    counted = record.metrics[-1].get("skipped_steps", 0) if record.metrics else 0
    steps = sorted({row["step"] for row in of["skipped"]})
    slow: dict[tuple[Any, ...], list[Row]] = {}
    for row in of["slow"]:
        slow.setdefault((row.get("rank"), row.get("host"), row.get("what")), []).append(row)
    return {
        "skipped": {
            "count": max(counted, len(steps)),
            "steps": steps,
            "samples": [r.get("file") for r in of["skipped"]],
        },
        "unreadable": sorted({row["sample"] for row in of["unreadable"]}),
        "slow": [
            {"rank": rank, "host": host, "what": what, "times": len(rows), "last_step": rows[-1].get("step")}
            | {"ratio": max(row.get("ratio", 0.0) for row in rows)}
            for (rank, host, what), rows in slow.items()
        ],
        "set_aside": [{"checkpoint": row.get("checkpoint"), "why": row.get("why")} for row in of["set_aside"]],
        "published": [{key: row.get(key) for key in ("step", "address", "state")} for row in published(record.events)],
        "not_published": [{"step": row.get("step"), "why": row.get("why")} for row in of["not_published"]],
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
