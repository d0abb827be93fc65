"""How good expression models are: `fer-scale evaluate`'s figures of several runs side by side, and sweeps' tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fer_scale.card_evaluation import wilson
from fer_scale.record import Row
from fer_scale.report.charts import Bar, Panel, Series, bars, legend, lines
from fer_scale.report.gather import EVALUATION, Sweep, Told, number, percent
from fer_scale.report.markup import NOTHING, Html, el, join, table

_SHARES = {  # measures in percent, with their intervals where they have any
    "accuracy": "accuracy",
    "uar": "mean recall of the classes (uar)",
    "macro_f1": "macro F1",
    "ece": "calibration error (ece)",
    "adaptive_ece": "calibration error, bins of equal counts",
}
_OTHERS = {"nll": "negative log likelihood, nats", "brier": "Brier score", "aurc": "area under risk and coverage"}
_SWEPT = ("accuracy", "uar")
_CORNER = "true \\ said"
_LEVELS = 10  # shades of a confusion matrix beside none


@dataclass(frozen=True, slots=True)
class Entry:
    """One evaluation of one run."""

    number: int
    letter: str
    name: str
    run: Told
    said: Row


def entries(runs: Sequence[Told]) -> list[Entry]:
    """All evaluations; the letters of a run that has several are followed by a, b, ..."""
    single = all(len(run.evaluations) < 2 for run in runs)
    found: list[Entry] = []
    for at, run in enumerate(runs):
        for k, (folder, said) in enumerate(run.evaluations.items()):
            letter = run.letter if len(run.evaluations) == 1 else f"{run.letter}{chr(ord('a') + k)}"
            name = run.name if [*run.evaluations] == [EVALUATION] else f"{run.name}: {folder}"
            found.append(Entry(at if single else len(found), letter, name, run, said))
    return found


def section(runs: Sequence[Told]) -> Html:
    """Measures with intervals, recall by class, calibration, coverage, confusions; nothing where there is none."""
    found = entries(runs)
    if not found:
        tuned = [run for run in runs if run.life["kind"] == "fine-tuning"]
        return el("p", *_how(tuned[0])) if tuned else NOTHING
    warned = [(e.letter, e.said["warning"]) for e in found if e.said.get("warning")]
    warnings = [el("p", f"{letter}, beware: {said}.", class_="warning") for letter, said in warned]
    figures = [_measures(found), _recalls(found), *_calibration(found), *_coverage(found)]
    parts = [legend([(e.number, e.letter, e.name) for e in found]), *warnings, _table(found)]
    parts += [el("div", *figures, class_="panels"), _classes(found)]
    matrices = el("div", *map(_confusion, found), class_="matrices")
    said = "Confusions: a row is a true expression, a column what was said; % of the row, and the number of faces."
    return join([*parts, el("p", said), matrices])


def _how(run: Told) -> list[Any]:
    command = f"fer-scale evaluate {run.folder}/model SET --split SPLIT --out {run.folder}/evaluation"
    return ["No model here has been evaluated yet: ", el("code", command), " does it, and is shown here then."]


def _table(found: Sequence[Entry]) -> Html:
    rows: list[list[str]] = [["model"] + [str(e.said.get("model", "–")) for e in found]]
    rows.append(["measured on"] + [_measured_on(e.said) for e in found])
    rows.append(["left out"] + [_left_out(e.said) for e in found])
    for key, name in _SHARES.items():
        rows.append([name] + [_share(e.said, key) for e in found])
    for key in ("accuracy", "uar"):
        rows.append([f"{_SHARES[key]}, with test-time flip"] + [_share(e.said.get("flip") or {}, key) for e in found])
    for key, name in _OTHERS.items():
        known = [number(e.said.get(key)) for e in found]
        rows.append([name] + ["–" if value is None else f"{value:.3f}" for value in known])
    votes = [number((e.said.get("votes") or {}).get("cross_entropy")) for e in found]
    rows.append(["cross entropy to the annotators' votes"] + ["–" if v is None else f"{v:.3f}" for v in votes])
    rows = [row for row in rows if {*row[1:]} != {"–"}]
    return table("Measures, with 95 % bootstrap intervals", ["", *(f"{e.letter} {e.name}" for e in found)], rows)


def _measured_on(said: Row) -> str:
    split = said.get("split") or {}
    which = f", list {split.get('list')} of the split {str(split.get('sha256'))[:12]}" if split else ""
    return f"{said.get('samples', 0):,} faces of {said.get('set')}{which}"


def _left_out(said: Row) -> str:
    counts = {name.replace("_", " "): count for name, count in (said.get("left_out") or {}).items() if count}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "–"


def _share(said: Row, key: str) -> str:
    value = number(said.get(key))
    if value is None:
        return "–"
    low, high = _ends(said, key)
    return f"{100 * value:.1f} %" + ("" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})")


def _ends(said: Row, key: str) -> tuple[float | None, float | None]:
    pair = (said.get("intervals_95") or {}).get(key) or (None, None)
    low, high = map(number, pair)
    return low, high


def _measures(found: Sequence[Entry]) -> Html:
    names = {"accuracy": "accuracy", "uar": "uar", "macro_f1": "macro F1"}
    rows = [
        (name, [Bar(e.number, e.letter, number(e.said.get(key)), *_ends(e.said, key)) for e in found])
        for key, name in names.items()
    ]
    return bars("Measures, %", rows, note="Whiskers: 95 % bootstrap intervals.")


def _recalls(found: Sequence[Entry]) -> Html:
    """A row a class, by name: another model may have others, or another order."""
    rows = []
    for name in _class_names(found):
        mine = [(e, (e.said.get("per_class") or {}).get(name, {})) for e in found]
        rows.append((name, [Bar(e.number, e.letter, number(f.get("recall")), *_wilson(f)) for e, f in mine]))
    return bars("Recall by expression, %", rows, note="Whiskers: 95 % Wilson intervals.") if rows else NOTHING


def _class_names(found: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for e in found for name in e.said.get("per_class") or {}))


def _wilson(facts: Row) -> tuple[float | None, float | None]:
    count, recall = facts.get("count"), number(facts.get("recall"))
    return wilson(count, recall) if count and recall is not None else (None, None)


def _calibration(found: Sequence[Entry]) -> list[Html]:
    series = []
    for e in found:
        bins = [row for row in e.said.get("reliability") or () if row.get("count")]
        series.append(Series(e.number, e.letter, [(row["confidence"], number(row["accuracy"])) for row in bins]))
    drawn = [one for one in series if one.points]
    note = "On the diagonal, a model is as often right as it says; below it, it is too sure of itself."
    panel = Panel("Reliability: accuracy over confidence", drawn, along="confidence", square=True, note=note)
    return [lines(panel)] if drawn else []


def _coverage(found: Sequence[Entry]) -> list[Html]:
    series = [
        Series(
            e.number,
            e.letter,
            [(100 * row["coverage"], number(row["accuracy"])) for row in e.said.get("coverage") or ()],
        )
        for e in found
    ]
    drawn = [one for one in series if one.points]
    note = "What is gained by staying silent where it is unsure."
    panel = Panel(
        "Accuracy among the faces it is surest of", drawn, unit="%", along="% of the faces answered", note=note
    )
    return [lines(panel)] if drawn else []


def _classes(found: Sequence[Entry]) -> Html:
    rows = []
    for name in _class_names(found):
        for e in found:
            facts = (e.said.get("per_class") or {}).get(name)
            if facts:
                counts = [
                    f"{facts.get(key):,}" if number(facts.get(key)) is not None else "–"
                    for key in ("count", "predicted")
                ]
                shares = [percent(facts.get("recall")), _interval(facts), percent(facts.get("precision"))]
                rows.append([name, e.letter, *counts, *shares])
    head = ["expression", "run", "faces", "predicted", "recall", "95 % interval (Wilson)", "precision"]
    title = "Recall and precision by expression"
    return el("details", el("summary", f"{title}, in numbers"), table(title, head, rows, class_="short"))


def _interval(facts: Row) -> str:
    low, high = _wilson(facts)
    return "–" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _confusion(entry: Entry) -> Html:
    """Shares of each true class, shaded, with counts; rows are true, columns predicted."""
    names, counts = entry.said.get("label_names") or [], entry.said.get("confusion") or []
    if not names or not counts:
        return NOTHING
    rows = []
    for name, row in zip(names, counts, strict=True):
        total, cells = max(sum(row), 1), []
        for count in row:
            share = count / total
            inside = (el("b", f"{100 * share:.0f}"), el("span", f"{count:,}")) if count else (el("b", "·"),)
            cells.append(el("td", *inside, class_=f"h{round(_LEVELS * share)}"))
        rows.append([name, *cells])
    head = [_CORNER, *names]
    return table(f"Confusions of {entry.letter} {entry.name}", head, rows, class_="matrix")


def sweep(one: Sweep) -> Html:
    """The table of a sweep: mean over the seeds and half of its 95 % interval; over the labels where there are some."""
    found, about = one.table, one.table.get("about", {})
    labels = found["labels"]
    rows = [
        [f"{n} {name}", *(" / ".join(_mean(cells.get(of, {}).get(m)) for m in _SWEPT) for of in labels)]
        for n, (name, cells) in enumerate(found["rows"].items(), 1)
    ]
    seeds = ", ".join(map(str, found.get("seeds", ())))
    said = f"On {about.get('set')}, list {about.get('list')}, seeds {seeds}: mean and half of its 95 % t-interval."
    heads = [_labels(of, counts) for of, counts in labels.items()]
    parts = [el("h3", one.name), el("p", said)]
    if len(labels) > 1:
        drawn = [panel for measure in _SWEPT if (panel := _over_labels(one, measure)).series]
        parts.append(legend([(n, str(n + 1), name) for n, name in enumerate(found["rows"])]))
        parts.append(el("div", *map(lines, drawn), class_="panels"))
    return join([*parts, table(f"Sweep {one.name}: accuracy / uar, %", ["", *heads], rows)])


def _over_labels(one: Sweep, measure: str) -> Panel:
    series = []
    for n, cells in enumerate(one.table["rows"].values()):
        points, spans = [], []
        for of, counts in one.table["labels"].items():
            known, said = [count for count in counts if count], cells.get(of, {}).get(measure)
            if known and said:
                at = sum(known) / len(known)
                points.append((at, number(said["mean"])))
                spans += [(at, *said["interval_95"])] if said["interval_95"] else []
        if points:
            series.append(Series(n, str(n + 1), sorted(points), spans))
    return Panel(f"{_SHARES[measure].capitalize()}", series, unit="%", along="labels", log_x=True)


def _labels(of: str, counts: Sequence[Any]) -> str:
    known = sorted({count for count in counts if count is not None})
    said = " to ".join(f"{count:,}" for count in dict.fromkeys([*known[:1], *known[-1:]]))
    return f"{said} labels" if of == said.replace(",", "") else f"{of} ({said or 'no'} labels)"


def _mean(said: Row | None) -> str:
    if not said:
        return "–"
    half = f" ± {100 * (said['interval_95'][1] - said['mean']):.1f}" if said.get("interval_95") else ""
    return f"{100 * said['mean']:.1f}{half}"
