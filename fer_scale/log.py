"""What a run says: progress on a terminal or in plain lines, and one JSON object a line in its folder."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fer_scale import disk
from fer_scale.boards import Board, TensorBoard, WandB, scalars

Ticker = Callable[[int, int], None]  # (done, total)

_SILENT_S = 2.0  # a wait that is longer is said

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the person who waits. Results go to stdout, talk goes to stderr."""
    console.print(text, markup=False, soft_wrap=True)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("ch") else "s")


def duration(seconds: float) -> str:
    """Seconds as `41s`, `3m05s`, `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """Bytes as `12.3 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


@contextmanager
def bar(title: str, unit: str = "images", *, done: int = 0, shown: bool = True) -> Iterator[Ticker]:
    """A callable (done, total) that moves a bar with rate and remaining time, on a terminal; elsewhere it is silent.

    For loops that say lines of their own; they stand above the bar. `done` is what was there at the start.
    """
    if not (shown and console.is_terminal):
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # rich sends stdout to the bar's terminal, unless told not to: results go where they were sent.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as drawn:
        task = drawn.add_task(title, total=None, completed=done, rate="")

        def draw(done: int, total: int) -> None:
            speed = drawn.tasks[0].finished_speed or drawn.tasks[0].speed or 0
            drawn.update(task, completed=done, total=total, rate=f"{speed:,.0f} {unit}/s")

        yield draw


@contextmanager
def progress(title: str, unit: str = "images", *, shown: bool = True) -> Iterator[Ticker]:
    """A callable (done, total) that shows rate and remaining time: a bar on a terminal, else a line every 10 s.

    What goes on before it is called, as the listing of a dataset, is said from two seconds on.
    """
    if console.is_terminal or not shown:
        with bar(title, unit, shown=shown) as draw:
            yield draw
        return
    counted = threading.Event()
    threading.Thread(target=_say_until, args=(counted, title), daemon=True).start()
    began = said = 0.0
    before: int | None = None  # what was done when the work began, or went on, says nothing of the rate

    def line(done: int, total: int) -> None:
        nonlocal began, said, before
        counted.set()
        now = time.monotonic()
        if before is None:
            began, said, before = now, now, done
        elif done > before and now - said >= 10:
            said = now
            rate = (done - before) / (now - began)
            say(f"{title}: {done:,}/{total:,} {unit}, {rate:,.0f}/s, {duration((total - done) / rate)} left")

    try:
        yield line
    finally:
        counted.set()


def _say_until(counted: threading.Event, title: str) -> None:
    """Say that something goes on, until something is counted or all is done."""
    waited_s = pause_s = _SILENT_S
    while not counted.wait(pause_s):
        say(f"{title}: preparing, {duration(waited_s)}")
        waited_s, pause_s = waited_s + 10, 10.0


class Journal:
    """`metrics.jsonl` and `events.jsonl` of a run, written by its main rank: elsewhere `folder` is None."""

    def __init__(self, folder: Path | None, *, tensorboard: bool = False, wandb: str = ""):
        """`tensorboard` and `wandb`, a project, say on which boards the metrics are drawn as well."""
        self._folder = folder
        self._boards: list[Board] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if tensorboard:
                self._boards.append(TensorBoard(folder))
            if wandb:
                self._boards.append(WandB(folder, wandb))

    def rewind(self, step: int) -> None:
        """Drop the lines past `step`, as a resumed run computes them again, and write down how far they went."""
        file = self._folder / "metrics.jsonl" if self._folder else None
        if file is not None and file.exists():
            text = file.read_text()
            steps = [(line, _step_of(line)) for line in text.splitlines()]
            kept = "".join(f"{line}\n" for line, at in steps if at is not None and at <= step)
            if kept != text:
                dropped = [row for row in rows(file) if row.get("step", 0) > step]
                disk.put(file, kept)  # a kill or a full disk leaves the curve as it was
                if dropped:
                    speed = next((row["images_per_s"] for row in reversed(dropped) if "images_per_s" in row), None)
                    self.event("rewound", step=step, reached=dropped[-1]["step"], images_per_s=speed)

    def metrics(self, **row: Any) -> None:
        self._append("metrics.jsonl", row)
        if self._boards:
            numbers = {name: value for name, value in scalars(row) if name != "step"}
            for board in self._boards:
                board.draw(row["step"], numbers)

    def event(self, kind: str, **facts: Any) -> None:
        self._append("events.jsonl", {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": kind} | facts)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if self._folder is not None:
            append(self._folder / name, row)


def append(file: Path, row: dict[str, Any]) -> None:
    """Add an object to a .jsonl file: on a line of its own, also where the last one was cut short."""
    with file.open("ab+") as lines:
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - 1))
        cut_short = lines.read(1) not in (b"", b"\n")
        lines.write(b"\n" * cut_short + json.dumps(row).encode() + b"\n")


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a line that a kill or a full disk cut short is left out."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if _step_of(line) is not None]


def _step_of(line: str) -> int | None:
    """The step of a line of metrics (0 where it has none), or None for half a line or none of ours."""
    try:
        return int(json.loads(line).get("step", 0))
    except (ValueError, TypeError, AttributeError):
        return None


def words(value: Any) -> str:
    """A value of a verb's result, as one reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return " ".join(map(words, value)) or "none"
    if isinstance(value, list):
        return "".join(f"\n  {words(item)}" for item in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_json(value: Any) -> None:
    """A result for a script, on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
