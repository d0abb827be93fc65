"""The life of a run in words, as one reads it in the morning: how it stands and what to do, then how it came there."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fer_scale.ending import way_on
from fer_scale.log import duration, plural, size
from fer_scale.record import Row, seconds_of

_FEW = 5  # of a kind that may be many
PARTS = (
    ("counted_s", "steps that count"),
    ("lost_s", "steps computed in vain"),
    ("saving_s", "steps held up by saves"),
    ("between_s", "between the starts"),
    ("rest_s", "starting, looking around, ending"),
)
HEAD = ("", "began (UTC)", "lasted", "steps", "ranks", "ended")  # of start_cells


def lines(run: Path, life: Row) -> Iterator[str]:
    """What `fer-scale show RUN` prints of `life.life`."""
    yield _titled("run", f"{run}: {life['kind']}, {life['steps']:,} steps")
    yield _titled("state", state(life).replace("\n", f"\n{'':<14}"))
    yield _titled("to do", to_do(run, life))
    if life["time"]:
        yield from _time(life)
    yield from _starts(life["starts"])
    for title, text in notes(run, life):
        yield _titled(title, text)


def _titled(title: str, text: str) -> str:
    return f"{title:<12}  {text}"


def state(life: Row) -> str:
    done = f"step {life['step']:,}" + (f" of {life['steps']:,}" if life["steps"] else "")
    loss = f", loss {life['loss']:.4f}" if life["loss"] is not None else ""
    ago = f"{duration(life['quiet_s'])} ago"
    seen = life["process"] == "there"
    if life["state"] == "running":
        left = f"; about {duration(life['left_s'])} left" if life["left_s"] is not None else ""
        by = "" if seen else " (by its files: its process cannot be seen from here)"
        return f"running: {done}{loss}, last heard of {ago}{left}{by}"
    if life["state"] == "silent":
        why = "it hangs, its process is there" if seen else "it hangs, or died with its host"
        return f"silent: {done}{loss}, last heard of {ago}: {why}"
    reason = f": {life['reason']}" if life["reason"] else ""
    return f"{life['state']} at {done}{loss}, {ago}{reason}"


def to_do(run: Path, life: Row) -> str:
    newest, saved = life["starts"][-1] if life["starts"] else {}, life["goes_on_from_step"]
    on = f"goes on from step {saved:,}" if saved else "begins anew: there is no checkpoint"
    logs = f"attempts/{newest['number']:04d}" if newest.get("number") else "logs"
    if life["state"] == "running":
        return f"nothing; to stop it with everything saved: touch {run}/stop"
    if life["state"] == "done":
        done = life["published"] and life["published"][-1]["step"] == life["step"]
        return "nothing: its last step is published" if done else f"fer-scale publish {run} TO --licence LICENCE"
    if life["state"] == "silent":
        where = newest["host"] or "its hosts"
        return (
            f"see what its processes on {where} do ({logs} has their logs); when they are gone, the same command {on}"
        )
    if life["state"] == "failed" and not life["restart"]:
        return f"put that right (first_failure.json and {logs} say more); then the same command {on}"
    where = f" ({logs} has its last words)" if life["state"] in ("killed", "failed") else ""
    return f"{way_on(life['reason'])} {on}{where}"


def _time(life: Row) -> Iterator[str]:
    time = life["time"]
    share = f", {time['effective']:.1%} of it in steps that count" if time["effective"] is not None else ""
    yield _titled("time", f"{_lasted(time['wall_s'])} since {_when(time['began'], year=True)}{share}")
    lost = sum(start["lost_steps"] for start in life["starts"])
    more = {"lost_s": f": {lost:,}", "saving_s": f": {life['checkpoints']['written']:,}"}
    for name, what in PARTS:
        if time["effective"] is not None and (time[name] >= 0.05 or name == "counted_s"):
            share = f"{time[name] / time['wall_s']:>6.1%}"
            yield _titled("", f"{share} {_lasted(time[name]):>7}  {what}{more.get(name, '')}")


def _starts(starts: list[Row]) -> Iterator[str]:
    """A table, a row a start."""
    rows = [HEAD, *map(start_cells, starts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows if starts else ()):
        cells = (
            f"{cell:>{width}}" if k in (0, 2) else f"{cell:<{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield _titled("" if number else "starts", "  ".join(cells).rstrip())
        for line in more(starts[number - 1]) if number else ():
            yield _titled("", f"{'':<{widths[0]}}  {line}")


def start_cells(start: Row) -> tuple[str, ...]:
    steps = "none" if start["first_step"] is None else f"{start['first_step']:,} to {start['last_step']:,}"
    hosts = f" on {plural(len(start['hosts']), 'host')}" if len(start["hosts"]) > 1 else ""
    stage = f", ZeRO {start['stage']}" if start["stage"] is not None else ""
    ranks = f"{start['ranks']:,}{hosts}{stage}" if start["ranks"] else ""
    seconds = seconds_of(start["ended"]) - seconds_of(start["began"])
    return (str(start["number"] or "-"), _when(start["began"]), _lasted(seconds), steps, ranks, _ended(start))


def _ended(start: Row) -> str:
    reason = start["reason"] if _is_short(start["reason"]) else ""
    apart = " " if start["outcome"] == "killed" else ": "
    lost = f"; {plural(start['lost_steps'], 'step')} lost" if start["lost_steps"] else ""
    outcome = "not said how" if start["outcome"] == "unknown" else start["outcome"]
    return f"{outcome}{apart + reason if reason else ''}{lost}"


def _is_short(reason: str) -> bool:
    return len(reason) <= 40 and "\n" not in reason


def more(start: Row) -> Iterator[str]:
    """Why it ended, where that is long; where to see what hung; what was not as in the start before."""
    if not _is_short(start["reason"]):
        yield start["reason"].partition("\n")[0]
    if start["stacks"]:
        yield f"what hung: attempts/{start['number']:04d}/{_few(start['stacks'])}"
    for name, (before, now) in start["changed"].items():
        if isinstance(before, dict) and isinstance(now, dict):
            apart = [key for key in now | before if before.get(key) != now.get(key)]
            yield from (f"changed: {name}: {key} {before.get(key)} -> {now.get(key)}" for key in apart)
        else:
            yield f"changed: {name} {_short(before)} -> {_short(now)}"
    if start["changes"]:
        yield f"changed by --change: {' '.join(start['changes'])}"


def _checkpoints(found: Row) -> str:
    words = [f"{found['written']:,} written, {found['kept']:,} kept"]
    if found["newest_step"] is not None:
        words[0] += f" (newest: step {found['newest_step']:,})"
    if found["bytes"]:
        words.append(f"{size(found['bytes'])} each")
    if found["seconds"] is not None:
        words.append(f"{found['seconds']:.1f} s each, {found['worst_s']:.1f} s at worst")
    if found["stall_s"] is not None:
        words.append(f"steps held up for {found['stall_s']:.2f} s each, {found['worst_stall_s']:.2f} s at worst")
    return "; ".join(words)


def notes(run: Path, life: Row) -> Iterator[tuple[str, str]]:
    """What happened beside the starts, as (title, text); a line without a title belongs to the one above it.

    Its checkpoints, what it published, and single steps, images and ranks; nothing of what did not happen.
    """
    if life["checkpoints"]["written"]:
        yield "checkpoints", _checkpoints(life["checkpoints"])
    yield from _published(life)
    for title, text in _troubles(life):
        yield title, text.replace(f"{run}/checkpoints/", "")


def _troubles(life: Row) -> Iterator[tuple[str, str]]:
    skipped, unreadable = life["skipped"], life["unreadable"]
    if skipped["count"]:
        where = f": {_few([f'{step:,}' for step in skipped['steps']])}" if skipped["steps"] else ""
        yield "skipped", f"{plural(skipped['count'], 'step')} whose loss or gradient was not finite{where}"
        if files := [file for file in skipped["samples"] if file]:
            yield "", f"the samples of the last: {files[-1]}"
    if unreadable:
        yield "unreadable", f"{plural(len(unreadable), 'image')}, each replaced by another one"
        yield from (("", sample) for sample in unreadable[:_FEW])
        if len(unreadable) > _FEW:
            yield "", f"and {len(unreadable) - _FEW:,} more: see events.jsonl"
    for number, slow in enumerate(life["slow"]):
        who = f"rank {slow['rank']} on {slow['host']}"
        what = f"up to {slow['ratio']:.1f} times the others' time for {slow['what']}"
        said = f"said {plural(slow['times'], 'time')}, last at step {slow['last_step']:,}"
        yield "" if number else "slow", f"{who}: {what}; {said}"
    for number, gone in enumerate(life["set_aside"]):
        yield "" if number else "set aside", f"{gone['checkpoint']}: {gone['why']}"


def _published(life: Row) -> Iterator[tuple[str, str]]:
    """What the run has published of itself, and what came of it last where that is nothing."""
    done, failed = life["published"], life["not_published"]
    if done:
        yield "published", f"{plural(len(done), 'time')}, last step {done[-1]['step']:,}: {done[-1]['address']}"
    if failed and failed[-1]["step"] > (done[-1]["step"] if done else 0):
        yield "" if done else "published", f"not step {failed[-1]['step']:,}: {failed[-1]['why']}"


def _short(value: object) -> str:
    """A value of a change: what ran on many hosts need not name them all."""
    return _few(list(map(str, value))) if isinstance(value, list) else str(value)


def _few(words: list[str]) -> str:
    return ", ".join(words[:_FEW]) + (f" and {len(words) - _FEW:,} more" if len(words) > _FEW else "")


def _when(iso: str, *, year: bool = False) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S UTC" if year else "%m-%d %H:%M:%S")


def _lasted(seconds: float) -> str:
    return f"{seconds:.1f}s" if 0 < seconds < 9.95 else duration(seconds)
