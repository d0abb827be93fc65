"""The pictures of people that a run holds: reconstructions, and the mistakes that its model was surest of.

For the eyes of who works on the model: nothing but `report --faces` reads this.
"""

import base64
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_scale.finetune import worst
from fer_scale.finetune.pool import SLOT_PX, Pool
from fer_scale.report.gather import EVALUATION, Told
from fer_scale.report.markup import NOTHING, Html, el, join
from shards.errors import UserError
from shards.index import ShardSet
from shards.remote import open_set

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_MB = 8  # of a picture
_MISTAKES = 24  # of a run
_ROWS = "First row: faces; second: what the encoder saw of them; third: what the decoder made of that."


class Mistake(NamedTuple):
    """A wrong answer: a row of predictions.csv."""

    key: str
    said: str
    sure: float  # the probability of `said`
    labeled: str
    true: float  # that of `labeled`


def section(runs: Sequence[Told]) -> Html:
    """What there is of each run."""
    shown = [(run, [*_reconstructions(run), *_mistakes(run)]) for run in runs]
    parts = [join([el("h3", run.title), *parts]) for run, parts in shown if parts]
    return join(parts) if parts else NOTHING


def _reconstructions(run: Told) -> Iterator[Html]:
    """Those of the run itself, and the newest ones of `fer-scale watch`, of faces that it has not seen."""
    held_out = sorted(run.folder.glob("watch/step_*.png"))[-1:]
    for file, title in [(run.folder / "reconstructions.png", "Reconstructions of training faces")] + [
        (file, f"Reconstructions of held-out faces, {file.stem}") for file in held_out
    ]:
        picture = file.read_bytes() if file.is_file() and file.stat().st_size < _MOST_MB * 1_000_000 else b""
        if picture.startswith(_PNG):
            note = el("p", _ROWS, class_="note")
            yield el("figure", el("figcaption", title), el("img", src=_uri(picture), alt=f"{title}. {_ROWS}"), note)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _mistakes(run: Told) -> Iterator[Html]:
    """The wrong answers of the run's evaluation of which its model was surest, where the set is still there."""
    file, said = run.folder / EVALUATION / "predictions.csv", run.evaluations.get(EVALUATION, {})
    if not file.is_file():
        return
    try:
        wrong = _wrong(file)
        rows = wrong[:_MISTAKES]
        whose = f" of {said['model']}" if str(said.get("model")).startswith("baseline:") else ""
        places = [said.get("shards"), run.record.recipe["data"]["shards"]]
        shard_set = _set([str(place) for place in places if place], str(said.get("fingerprint")))
        pictures = _pictures(shard_set, [row.key for row in rows])
    except (UserError, OSError, KeyError) as error:
        yield el("p", f"The worst mistakes are not shown: {str(error).partition(chr(10))[0]}.", class_="note")
        return
    yield el("p", f"{len(rows):,} of {len(wrong):,} mistakes{whose}, the surest first.")
    figures = []
    for row, picture in zip(rows, pictures, strict=True):
        words = (f"{row.said} {row.sure:.2f}", el("br"), f"labeled {row.labeled} {row.true:.2f}")
        caption = el("figcaption", *words, el("br"), row.key)
        image = el("img", src=picture, alt=f"Face {row.key}") if picture else "unreadable now"
        figures.append(el("figure", image, caption))
    yield el("div", *figures, class_="faces")


def _wrong(file: Path) -> list[Mistake]:
    """The wrong answers in a predictions.csv, the surest first; UserError where it is none, or was cut."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if row["expression"] != row["predicted"]]
        wrong = [
            Mistake(row["key"], row["predicted"], float(row["confidence"]), true := row["expression"], float(row[true]))
            for row in rows
        ]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{file}: is damaged; run `fer-scale evaluate` again") from None
    return sorted(wrong, key=lambda row: -row.sure)


def _set(places: list[str], fingerprint: str) -> ShardSet:
    """The set that the evaluation was on, at one of the places; UserError of the last where it is at none."""
    for place in places:
        try:
            if (found := open_set(place)).fingerprint == fingerprint:
                return found
            problem = UserError(f"{place}: is not the set that was evaluated on")
        except UserError as error:
            problem = error
    raise problem


def _pictures(shard_set: ShardSet, keys: list[str]) -> list[str | None]:
    """As data: URIs, in the order of the keys; those of a pool lie as the set has them."""
    pool = Pool(shard_set, keys, slot_px=SLOT_PX)
    numbers = {key: number for number, key in enumerate(pool.keys)}
    return worst.pictures(pool, np.array([numbers[key] for key in keys], np.int64))
