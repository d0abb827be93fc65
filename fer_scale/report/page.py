"""The page: its sections put together into one file that needs no network and no other file.

It holds no script; a policy in its head forbids it to load anything, its style is named by its hash. Whatever comes of
a run's files is text.
"""

import base64
import hashlib
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from fer_scale import __version__, disk
from fer_scale.report import compare, curves, evaluation, lives
from fer_scale.report.gather import EVALUATION, ODD, ReportError, Sweep, Told
from fer_scale.report.markup import NOTHING, Html, el, join
from fer_scale.report.style import CSS

T = TypeVar("T", Told, Sweep)
_DOCTYPE = "<!DOCTYPE html>"
_MADE_BY = f"fer_scale {__version__} report"


def text(runs: Sequence[Told], sweeps: Sequence[Sweep], now: float, *, faces: Html | None = None) -> str:
    """The whole file; `faces` is the section of pictures of people, which only who asks for it gets."""
    names = [run.name for run in runs] + [sweep.name for sweep in sweeps]
    title = f"Report: {', '.join(names)}"
    when = datetime.fromtimestamp(now, UTC)
    stamp = el("time", f"{when:%Y-%m-%d %H:%M UTC}", datetime=when.isoformat(timespec="seconds"))
    sections = _sections(runs, sweeps, faces)
    links = (el("li", el("a", name, href=f"#{_anchor(name)}")) for name in sections)
    top = [el("h1", title), el("p", "As the folders stood at ", stamp, ".", class_="note")]
    if shows_people(faces):
        top.append(el("p", "This page shows faces of real people: do not publish it.", class_="warning"))
    body = [
        el("a", "Skip to the content", href="#content", class_="skip"),
        el("header", *top, el("nav", el("ul", *links), aria_label="Sections")),
        el("main", *(_section(name, inside) for name, inside in sections.items()), id="content"),
        el("footer", el("p", f"Made by {_MADE_BY}. It names hosts and folders of the machine that it was made on.")),
    ]
    return f"{_DOCTYPE}\n{el('html', _head(title), el('body', *body), lang='en')}\n"


def _head(title: str) -> Html:
    style = f"sha256-{base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()}"
    policy = f"default-src 'none'; img-src data:; style-src '{style}'; base-uri 'none'; form-action 'none'"
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="robots", content="noindex"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="generator", content=_MADE_BY),
        el("title", title),
        el("style", Html(CSS)),
    )


def _sections(runs: Sequence[Told], sweeps: Sequence[Sweep], faces: Html | None) -> dict[str, Html]:
    """Name -> content, of those that have any; ReportError where a file holds values of kinds that no run writes."""
    found: dict[str, Html] = {}
    if runs:
        found = {
            "At a glance": _safely(lives.glance, runs),
            "What ran on what": _safely(compare.section, runs),
            "Curves": _safely(curves.section, runs),
            "Worth of the encoder": _safely(curves.watched, runs),
            "Evaluation": _safely(evaluation.section, runs),
            "Faces": _without_faces(runs) if faces is None else faces or el("p", "There are no pictures of faces."),
            "Events": _safely(lives.events, runs),
            "Cost": _safely(lives.cost, runs),
        }
    if sweeps:
        found["Sweeps"] = join(_safely(lambda of: evaluation.sweep(of[0]), [sweep]) for sweep in sweeps)
    return {name: inside for name, inside in found.items() if inside}


def _safely(section: Callable[[Sequence[T]], Html], of: Sequence[T]) -> Html:
    try:
        return section(of)
    except ODD as error:
        names = ", ".join(str(one.folder) for one in of)
        raise ReportError(
            f"{names}: its files hold what no run writes ({error!r:.100})\n"
            "put back what was there, or leave that run out of the report"
        ) from None


def _section(name: str, inside: Html) -> Html:
    return el("section", el("h2", name, id=_anchor(name)), inside, aria_labelledby=_anchor(name))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _without_faces(runs: Sequence[Told]) -> Html:
    """What to type for the pictures that are left out."""
    there = [run for run in runs if has_faces(run)]
    if not there:
        return NOTHING
    command = shlex.join(["fer-scale", "report", *(str(run.folder) for run in runs), "--faces"])
    what = "Reconstructions and the worst mistakes show faces of real people, so they are left out here. "
    return el("p", what, el("code", command), " makes a page with them, for your own eyes.")


def shows_people(faces: Html | None) -> bool:
    """Whether there is a picture in the section of faces, and not only why there is none."""
    return bool(faces) and "<img" in str(faces)


def has_faces(run: Told) -> bool:
    """Whether there are pictures of people in the run's folder, or predictions of which some may be wrong."""
    reconstructions = [run.folder / "reconstructions.png", *run.folder.glob("watch/step_*.png")]
    return any(place.is_file() for place in (*reconstructions, run.folder / EVALUATION / "predictions.csv"))


def write(file: Path, page: str) -> None:
    """Put the page in place, whole or not at all; ReportError where it cannot be, or something else lies there."""
    hint = "give another file with --out"
    if file.is_dir():
        raise ReportError(f"{file}: is a folder\n{hint}")
    try:
        if file.exists() and not disk.straight(file) and not _is_a_page(file):
            raise ReportError(f"{file}: is there already, and no page of HTML\n{hint}, or remove it")
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.put(file, page)
    except OSError as error:
        raise ReportError(f"{file}: cannot be written ({error.strerror})\n{hint}") from None


def _is_a_page(file: Path) -> bool:
    with file.open("rb") as there:
        return there.read(len(_DOCTYPE)).lower() == _DOCTYPE.lower().encode()
