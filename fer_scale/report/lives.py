"""How runs have lived: how each stands and what to do now, its starts and other events, and what it cost."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from fer_scale import story
from fer_scale.log import duration, plural
from fer_scale.record import Row
from fer_scale.report.charts import Bar, bars, style
from fer_scale.report.gather import EVALUATION, Told, number
from fer_scale.report.markup import Html, el, join, listed, table
from fer_scale.report.scale import short

_SIGNS = {"done": "✓", "running": "▶", "preempted": "⏸", "failed": "✕", "killed": "✕", "silent": "?"}


def glance(runs: Sequence[Told]) -> Html:
    """A card a run: how it stands, what is known best of it, what to do now."""
    return el("div", *(_card(run, n) for n, run in enumerate(runs)), class_="cards")


def _card(run: Told, at: int) -> Html:
    life = run.life
    sign = el("span", _SIGNS.get(life["state"], "·"), aria_hidden="true")
    state = el("span", sign, f" {life['state']}", class_=f"state {'bad' if life['state'] in _BAD else ''}".strip())
    head = el("h3", el("b", run.letter, class_=f"letter {style(at)}"), " ", run.name)
    share = life["step"] / life["steps"] if life["steps"] else None
    facts = [("steps", f"{life['step']:,}" + (f" of {life['steps']:,} ({share:.0%})" if share is not None else ""))]
    facts += _best(run)
    now, to_do = story.state(life), story.to_do(run.folder, life)
    problems = [el("p", f"Beware: {said}.", class_="warning") for said in run.problems]
    parts = [head, el("p", life["kind"], " ", state), listed(facts), el("p", now, class_="note")]
    return el("article", *parts, el("p", el("b", "To do: "), to_do, class_="note"), *problems)


_BAD = ("failed", "killed", "silent")


def _best(run: Told) -> list[tuple[str, str]]:
    """What one asks first: how good it is, or how far its loss has come; and how fast it was."""
    found = []
    said = run.evaluations.get(EVALUATION, {})
    if str(said.get("model")).startswith("baseline:"):  # a rival's, whose figures are in their table
        said = {}
    for name in ("accuracy", "uar"):
        if (value := number(said.get(name))) is not None:
            found.append((name, f"{100 * value:.1f} %"))
    row = run.record.metrics[-1] if run.record.metrics else {}
    for name, key in (("last loss", "loss"), ("images/s", "images_per_s")):
        if (value := number(run.life["loss"] if key == "loss" else row.get(key))) is not None:
            found.append((name, short(value)))
    return found


def events(runs: Sequence[Told]) -> Html:
    """The starts of each run and how they ended, then what else happened."""
    return join(_events(run) for run in runs)


def _events(run: Told) -> Html:
    starts = run.life["starts"]
    rows = []
    for start in starts:
        *cells, ended = story.start_cells(start)
        rows.append((*cells, el("td", ended, *(el("div", line, class_="note") for line in story.more(start)))))
    parts = [el("h3", el("b", run.letter, class_="letter"), " ", run.name)]
    if rows:
        parts.append(table(f"Starts of {run.title}", ["start", *story.HEAD[1:]], rows))
    else:
        parts.append(el("p", "Nothing is known of its starts."))
    if said := list(story.notes(run.folder, run.life)):
        parts.append(listed(_grouped(said)))
    return el("div", *parts, class_="events")


def _grouped(said: Iterable[tuple[str, str]]) -> list[tuple[str, Html]]:
    """Lines without a title under the one above them."""
    found: list[tuple[str, list[Html]]] = []
    for title, text in said:
        if title:
            found.append((title, []))
        found[-1][1].append(el("div", text))
    return [(title, join(texts)) for title, texts in found]


def cost(runs: Sequence[Told]) -> Html:
    """What each run took, and the share of its time that went into steps that count."""
    timed = [(n, run) for n, run in enumerate(runs) if run.life["time"]]
    if not timed:
        return el("p", "No start is known, so nothing is known of the cost.")
    said = [spent(run.life) for _, run in timed]
    names = list(dict.fromkeys(name for one in said for name in one))
    rows = [(name, *(one.get(name, "–") for one in said)) for name in names]
    whole = table("Time and device time", ["", *(run.title for _, run in timed)], rows, class_="facts")
    shares = [(n, run.letter, run.life["time"]) for n, run in timed if run.life["time"]["effective"] is not None]
    drawn = []
    for key, short_name in _SHORT.items():
        if any(time[key] >= 0.05 for _, _, time in shares):
            drawn.append(
                (short_name, [Bar(n, letter, min(1.0, time[key] / time["wall_s"])) for n, letter, time in shares])
            )
    return join([whole, bars("Where the time went, % of that since the first start", drawn)]) if drawn else whole


_SHORT = {
    "counted_s": "steps that count",
    "lost_s": "in vain",
    "saving_s": "saves",
    "between_s": "between starts",
    "rest_s": "start and end",
}


def spent(life: Row) -> dict[str, str]:
    """Time, device time and what of it was lost; energy is measured by nobody."""
    time, begun = life["time"], [start for start in life["starts"] if start["first_step"] is not None]
    stepped_s = sum((start["counted_s"] + start["lost_s"]) * (start["ranks"] or 1) for start in begun)
    there_s = sum(_lasted_s(start) * (start["ranks"] or 1) for start in begun)
    lost = sum(start["lost_steps"] for start in begun)
    found = {"since the first start": duration(time["wall_s"]), "starts": f"{len(life['starts']):,}"}
    if time["effective"] is not None:
        found["of it in steps that count"] = f"{time['effective']:.1%}"
    for key, what in story.PARTS:
        if time["effective"] is not None and time[key] >= 0.05:
            found[what] = duration(time[key]) if time[key] >= 9.95 else f"{time[key]:.1f}s"
    if begun:
        found["device-hours in training steps"] = f"{stepped_s / 3600:.3g}"
        found["device-hours while processes were there"] = f"{there_s / 3600:.3g}"
    return found | {"steps lost": plural(lost, "step") if lost else "none"}


def _lasted_s(start: Row) -> float:
    ended, began = (datetime.fromisoformat(start[key]) for key in ("ended", "began"))
    return (ended - began).total_seconds()
