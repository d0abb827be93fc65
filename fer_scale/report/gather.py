"""What a report holds of each run: read once from its folder, checked, and in plain values.

A run may go on meanwhile, or never have got further than its start. A line that a kill cut short is left out and
counted; a line that no run writes is a mistake that is named with its number.
"""

import json
import math
import string
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_scale import life, record
from fer_scale.record import Record, Row
from shards.errors import UserError

TABLE, SWEEP, METRICS = "table.json", "sweep.json", "metrics.json"
EVALUATION = "evaluation"  # where a run's own evaluation lies; it is the first of several
_LINES: tuple[tuple[str, str, type], ...] = (  # file, what each of its lines has, and of which kind
    ("metrics.jsonl", "step", int),
    ("events.jsonl", "event", str),
    ("watch.jsonl", "step", int),
)
# What comes of values of other kinds than a run writes:
ODD = (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError, ZeroDivisionError)


class ReportError(UserError):
    """Something that no report can be made of, or nowhere to put it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One run. `letter` stands for it wherever runs lie side by side."""

    letter: str
    name: str
    folder: Path
    life: Row  # of life.py
    record: Record
    plan: Row
    data: list[Row]  # rows of data.json
    evaluations: dict[str, Row] = field(default_factory=dict)  # name of the folder in the run -> its metrics.json
    watched: list[Row] = field(default_factory=list)  # lines of watch.jsonl
    problems: list[str] = field(default_factory=list)  # what could not be read, and was left out

    @property
    def start(self) -> Row:
        """What its newest start said of itself."""
        said = [row for row in self.record.events if row.get("event") in ("start", "resume")]
        return said[-1] if said else {}

    @property
    def title(self) -> str:
        return f"{self.letter} {self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A folder of `fer-scale sweep`: its table."""

    name: str
    folder: Path
    table: Row


def gather(folders: Sequence[Path], now: float | None = None) -> tuple[list[Told], list[Sweep]]:
    """The runs and sweeps in these folders, each once, in their order; ReportError where one is neither."""
    once = list(dict.fromkeys(folder.resolve() for folder in folders))
    names, now = _names(once), time.time() if now is None else now
    is_sweep = [(folder / TABLE).is_file() and (folder / SWEEP).is_file() for folder in once]
    letters = _letters()
    runs = [
        _told(folder, next(letters), names[folder], now)
        for folder, other in zip(once, is_sweep, strict=True)
        if not other
    ]
    sweeps = [_sweep(folder, names[folder]) for folder, is_one in zip(once, is_sweep, strict=True) if is_one]
    return runs, sweeps


def held(runs: Sequence[Told], sweeps: Sequence[Sweep]) -> Row:
    """What the page holds, for a script: all but the single steps."""
    return {
        "runs": [
            {"letter": run.letter, "name": run.name, "folder": str(run.folder), "life": run.life}
            | {"recipe": run.record.recipe, "plan": run.plan, "data": run.data, "start": run.start}
            | {"last": run.record.metrics[-1] if run.record.metrics else None}
            | {"evaluations": run.evaluations, "watched": run.watched, "problems": run.problems}
            for run in runs
        ],
        "sweeps": [{"name": sweep.name, "folder": str(sweep.folder), "table": sweep.table} for sweep in sweeps],
    }


def _letters() -> Iterator[str]:
    """A, B, ... Z, A2, B2, ..."""
    number = 1
    while True:
        yield from (letter if number == 1 else f"{letter}{number}" for letter in string.ascii_uppercase)
        number += 1


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The last parts of each path, as many as tell it from the others."""
    names = {}
    for folder in folders:
        parts = folder.parts
        tails = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f"/{'/'.join(other.parts)}" for other in folders if other != folder]
        names[folder] = next((t for t in tails if not any(o.endswith(f"/{t}") for o in others)), str(folder))
    return names


def _told(folder: Path, letter: str, name: str, now: float) -> Told:
    _refuse_other(folder)
    cut = sum(_check(folder / name, key, kind) for name, key, kind in _LINES)
    problems = [f"{cut} lines of its .jsonl files were cut short, and are left out"] if cut > 1 else []
    problems += ["a line of its .jsonl files was cut short, and is left out"] if cut == 1 else []
    try:
        known = record.read(folder)
        lived = life.life(known, now)
    except ODD as error:
        if isinstance(error, UserError):
            raise
        raise _odd(folder, error) from None
    if not (known.events or known.metrics or known.claims):
        raise ReportError(
            f"{folder}: this run has not begun, there is nothing to report\n"
            "start it, or look whether run.out names another folder"
        )
    return Told(
        letter=letter,
        name=name,
        folder=folder,
        life=lived,
        record=known,
        plan=_object(folder / "plan.json", dict, problems) or {},
        data=[row for row in _object(folder / "data.json", list, problems) or [] if isinstance(row, dict)],
        evaluations=_evaluations(folder, problems),
        watched=[row for row in _rows(folder / "watch.jsonl") if isinstance(row, dict)],
        problems=problems,
    )


def _odd(folder: Path, error: Exception) -> ReportError:
    return ReportError(
        f"{folder}: its files hold what no run writes ({error!r:.100})\n"
        "put back what was there, or leave this run out of the report"
    )


def _refuse_other(folder: Path) -> None:
    """Refuse what is no run's folder, and say which one may have been meant."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise ReportError(f"{folder}: {what}\ngive the folder of a run (its run.out), or of a sweep")
    if record.is_run(folder):
        return
    inside = [place.name for place in sorted(folder.iterdir()) if place.is_dir() and record.is_run(place)]
    if record.is_run(folder.parent):
        hint = f"give its run: {folder.parent}"
    elif inside:
        hint = f"there are runs in it: {', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''}"
    else:
        hint = "give the folder of a run (its run.out), or of a sweep"
    raise ReportError(f"{folder}: no run (neither recipe.toml nor events.jsonl)\n{hint}")


def _check(file: Path, key: str, kind: type) -> int:
    """How many lines were cut short; ReportError for a whole one that is not ours."""
    cut = 0
    for number, line in enumerate(_lines(file), 1):
        try:
            row = json.loads(line)
        except ValueError:
            cut += 1
            continue
        if not isinstance(row, dict) or type(row.get(key)) is not kind:
            raise ReportError(
                f"{file}: line {number} is not of a run: it has no {key!r} ({line[:60]!r})\nmend that line or remove it"
            )
    return cut


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines() if file.is_file() else []
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ReportError(f"{file}: line {line} is not text in UTF-8\nmend that line or remove it") from None


def _rows(file: Path) -> list[Any]:
    found = []
    for line in _lines(file):
        try:
            found.append(json.loads(line))
        except ValueError:  # counted by _check
            continue
    return found


def _object(file: Path, kind: type, problems: list[str]) -> Any:
    """What a JSON file says, None where there is none; what is wrong with it is added to `problems`."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except ValueError:
        problems.append(f"{file.name} is not whole, and is left out")
        return None
    if not isinstance(found, kind):
        problems.append(f"{file.name} is not what a run writes, and is left out")
        return None
    return found


def _evaluations(folder: Path, problems: list[str]) -> dict[str, Row]:
    """What `fer-scale evaluate` has left in the run, its own evaluation first."""
    files = sorted(folder.glob(f"*/{METRICS}"), key=lambda file: (file.parent.name != EVALUATION, file.parent.name))
    found = {file.parent.name: _object(file, dict, problems) for file in files}
    return {name: said for name, said in found.items() if said}


def _sweep(folder: Path, name: str) -> Sweep:
    problems: list[str] = []
    table = _object(folder / TABLE, dict, problems)
    if problems or not table:
        raise ReportError(f"{folder / TABLE}: not whole\nrun the sweep again: it goes on, and writes its table anew")
    return Sweep(name=name, folder=folder, table=table)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a file may hold."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def percent(value: Any) -> str:
    known = number(value)
    return "–" if known is None else f"{100 * known:.1f} %"
