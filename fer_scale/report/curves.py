"""What was measured in training: the curves of metrics.jsonl, and what `fer-scale watch` found."""

from collections.abc import Iterable, Sequence

from fer_scale.record import Row
from fer_scale.report.charts import STYLES, Panel, Series, legend, lines
from fer_scale.report.gather import Told, number, percent
from fer_scale.report.markup import NOTHING, Html, el, join, table
from fer_scale.report.scale import Point, short

# key of metrics.jsonl -> title, unit, what there is to know of it
CURVES: dict[str, tuple[str, str, str]] = {
    "loss": ("Loss", "", ""),
    "valid_accuracy": ("Accuracy on the list valid", "%", ""),
    "valid_uar": ("Mean recall of the classes (uar) on the list valid", "%", ""),
    "lr": ("Learning rate", "", ""),
    "grad_norm": ("Norm of the gradient", "", "before clipping"),
    "images_per_s": ("Images a second", "", "over all ranks"),
    "data_wait": ("Time waited for images", "%", "share of a step's time, by the main rank"),
    "communication": ("Time in communication", "%", "share of a step's time"),
    "mfu": ("Model FLOPs utilisation", "%", ""),
    "memory_mb": ("Memory of the device, MB", "", "at most so far"),
    "update_ratio": ("Change of the weights in a step", "", "relative to their norm"),
    "dead": ("Weights that no longer change", "%", ""),
    "exploding": ("Activations too large for fp16", "%", ""),
    "one_minus_iou": ("1 - IoU of mixed faces", "", "the weight of the real images in FaceMix"),
    "kept": ("Pseudo-labels that count", "%", "stage 3"),
    "precision": ("Pseudo-labels that are right", "%", "stage 3, where the set knows the expressions"),
}
_LOG = ("loss", "grad_norm", "update_ratio")


def section(runs: Sequence[Told]) -> Html:
    """Panels of all that metrics.jsonl knows, runs of a kind in the same axes."""
    parts = []
    for kind in dict.fromkeys(run.life["kind"] for run in runs):
        mine = [(n, run) for n, run in enumerate(runs) if run.life["kind"] == kind]
        panels = [panel for key in CURVES if (panel := _panel(key, mine)).series]
        if not panels:
            names = ", ".join(run.title for _, run in mine)
            parts.append(el("p", f"No step of {names} has been logged yet."))
            continue
        parts.append(el("h3", f"{kind.capitalize()}"))
        parts.append(legend([(n, run.letter, run.name) for n, run in mine]))
        drawn = [panel for panel in panels if any(y for one in panel.series for _, y in one.points)]  # 0 all along: no
        parts.append(el("div", *map(lines, drawn), class_="panels"))
        if any(panel.marks for panel in panels):
            parts.append(
                el("p", "Triangles on the axis: a run went on after a stop, or its stage 3 began.", class_="note")
            )
        parts.append(_figures(kind, panels))
    if len(runs) > STYLES:
        parts.append(el("p", f"Colours come again after {STYLES} runs; the letters do not.", class_="note"))
    return join(parts)


def _panel(key: str, runs: Sequence[tuple[int, Told]]) -> Panel:
    title, unit, note = CURVES[key]
    series = [Series(n, run.letter, points(run.record.metrics, key)) for n, run in runs]
    drawn = [one for one in series if any(y is not None for _, y in one.points)]
    marks = [mark for n, run in runs for mark in _marks(n, run)]
    return Panel(title, drawn, unit=unit, note=note, log_y=key in _LOG, marks=marks)


def points(rows: Iterable[Row], key: str, along: str = "step") -> list[Point]:
    """(x, value) of the rows that have the key; None where it is no finite number."""
    known = ((number(row.get(along)), row) for row in rows if key in row)
    return [(x, number(row[key])) for x, row in known if x is not None]


def _marks(at: int, run: Told) -> list[tuple[int, float, str]]:
    """Where a run went on, and where stage 3 began."""
    far = run.life["step"]
    steps = [(row["step"], "went on after a stop") for row in run.record.events if row["event"] == "resume"]
    first = run.record.recipe.get("supervised", {}).get("steps")
    steps += [(first, "stage 3 begins")] if first and run.record.recipe.get("semi", {}).get("steps") else []
    return [(at, float(step), f"{run.letter}: {what}, step {step:,}") for step, what in steps if 0 < step <= far]


def _figures(kind: str, panels: Sequence[Panel]) -> Html:
    """The curves in numbers."""
    letters = list(dict.fromkeys(series.letter for panel in panels for series in panel.series))
    rows = []
    for panel in panels:
        cells = dict.fromkeys(letters, "–")
        for series in panel.series:
            known = [y for _, y in series.points if y is not None]
            last, least, most = (short(value, panel.unit) for value in (known[-1], min(known), max(known)))
            cells[series.letter] = f"{last} ({least} to {most})"
        rows.append((panel.title, *cells.values()))
    whole = table(f"Curves of {kind} in numbers: last (least to greatest)", ["", *letters], rows)
    return el("details", el("summary", f"The curves of {kind} in numbers"), whole)


def watched(runs: Sequence[Told]) -> Html:
    """What short fine-tunings from the checkpoints of a run were worth, over the images that it had seen."""
    mine = [(n, run) for n, run in enumerate(runs) if run.watched]
    if not mine:
        return NOTHING
    panels = []
    for key, title in (("accuracy", "Accuracy"), ("uar", "Mean recall of the classes (uar)")):
        series = [Series(n, run.letter, points(run.watched, key, "images")) for n, run in mine]
        series = [one for one in series if any(y is not None for _, y in one.points)]
        if series:
            panels.append(lines(Panel(f"{title} after a short fine-tuning", series, unit="%", along="images seen")))
    head = ["run", "step", "images seen", "accuracy", "uar", "problem"]
    rows = [[run.letter, *_checkpoint(row)] for _, run in mine for row in run.watched]
    said = "Each checkpoint was fine-tuned shortly, always the same, and measured on held-out faces (the list valid)."
    parts = [el("p", said), legend([(n, run.letter, run.name) for n, run in mine])]
    parts.append(el("div", *panels, class_="panels"))
    return join([*parts, table("Checkpoints that fer-scale watch measured", head, rows, class_="short")])


def _checkpoint(row: Row) -> list[str]:
    """A line of watch.jsonl as cells."""
    measures = [percent(row.get(name)) for name in ("accuracy", "uar")]
    return [_whole(row["step"]), _whole(row.get("images")), *measures, str(row.get("problem") or "")]


def _whole(value: object) -> str:
    known = number(value)
    return "–" if known is None else f"{known:,.0f}"
