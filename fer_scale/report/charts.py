"""Curves and bars as SVG: text and shapes, coloured by the page's style, so that light, dark and paper suit.

What belongs to a run is told by its letter, its dashes and its marker beside its colour. Each picture says in words
what it shows; that is what a screen reader reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fer_scale.report.markup import Html, el
from fer_scale.report.scale import Axis, Point, around, short, thinned

STYLES = 8  # colours, each with dashes and a marker; of more runs, only the letter tells them apart
_WIDE, _TALL = 360, 212
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 24, 8, 34
_LETTER, _LINE = 22, 11  # pixels that a letter takes, where lines end near each other
_MARKED = 24  # points of a line that are few enough to be marked
_BANDED = 4  # lines in one pair of axes whose bands can be told apart
_SHAPES = (
    "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0",
    "M-3,-3h6v6h-6z",
    "M0,-4l4,7h-8z",
    "M0,-4.2l4.2,4.2l-4.2,4.2l-4.2,-4.2z",
)


@dataclass(frozen=True, slots=True)
class Series:
    """A line. `number` chooses its colour, dashes and marker; `spans` are intervals (x, low, high)."""

    number: int
    letter: str
    points: Sequence[Point]
    spans: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn in one pair of axes."""

    title: str
    series: Sequence[Series]
    unit: str = ""  # "%": values are shares
    along: str = "step"
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    square: bool = False  # both axes from 0 to 1, with the diagonal
    marks: Sequence[tuple[int, float, str]] = field(default_factory=tuple)  # (number, x, what happened there)


@dataclass(frozen=True, slots=True)
class Bar:
    number: int
    letter: str
    value: float | None
    low: float | None = None
    high: float | None = None


def lines(panel: Panel) -> Html:
    """The figure of a panel, of which some line has a point."""
    drawn = [series for series in panel.series if any(y is not None for _, y in series.points)]
    x, y = _axes(panel, drawn)
    parts = [*_frame(panel, x, y)]
    parts += [_mark(number, x.at(at), y.begin, said) for number, at, said in panel.marks]
    parts += [_line(series, x, y, banded=len(drawn) <= _BANDED) for series in drawn]
    parts += _letters(drawn, x, y)
    title = f"{panel.title}, %" if panel.unit == "%" else panel.title
    said = ". ".join(_in_words(series, panel) for series in drawn)
    svg = el("svg", *parts, viewBox=f"0 0 {_WIDE} {_TALL}", role="img", aria_label=f"{panel.title}. {said}.")
    note = [el("p", panel.note, class_="note")] if panel.note else []
    return el("figure", el("figcaption", title), svg, *note)


def _axes(panel: Panel, drawn: Sequence[Series]) -> tuple[Axis, Axis]:
    left, right, top, bottom = _LEFT, _WIDE - _RIGHT, _TOP, _TALL - _BOTTOM
    if panel.square:
        return Axis(0, 1, left, right), Axis(0, 1, bottom, top)
    known = [(x, y) for series in drawn for x, y in series.points if y is not None]
    ends = [end for series in drawn for _, *pair in series.spans for end in pair]
    log_x = panel.log_x and all(x > 0 for x, _ in known)
    log_y = panel.log_y and all(y > 0 for _, y in known) and max(y for _, y in known) > 50 * min(y for _, y in known)
    least, most = min((x for x, _ in known), default=0), max((x for x, _ in known), default=1)
    x = Axis(least, most, left, right, log=log_x) if most > least else around([least], left, right)
    return x, around([y for _, y in known] + ends, bottom, top, log=log_y)


def _frame(panel: Panel, x: Axis, y: Axis) -> list[Html]:
    parts = []
    for tick in y.ticks():
        parts.append(el("line", x1=_LEFT, x2=_WIDE - _RIGHT, y1=_px(y.at(tick)), y2=_px(y.at(tick)), class_="grid"))
        parts.append(_text(_LEFT - 6, y.at(tick) + 4, short(tick, panel.unit).removesuffix(" %"), "end"))
    at_points = sorted({at for series in panel.series for at, _ in series.points}) if x.log else []
    for tick in at_points or x.ticks():
        at = x.at(tick)
        parts.append(el("line", x1=_px(at), x2=_px(at), y1=y.begin, y2=y.begin + 4, class_="axis"))
        parts.append(_text(at, y.begin + 16, short(tick), "middle"))
    parts.append(el("line", x1=_LEFT, x2=_WIDE - _RIGHT, y1=y.begin, y2=y.begin, class_="axis"))
    if panel.square:
        parts.append(el("line", x1=_LEFT, x2=_WIDE - _RIGHT, y1=y.begin, y2=y.end, class_="even"))
    return [*parts, _text((_LEFT + _WIDE - _RIGHT) / 2, _TALL - 4, panel.along, "middle")]


def _line(series: Series, x: Axis, y: Axis, *, banded: bool) -> Html:
    """A line, its intervals and markers; where points were put together, `banded` from the least to the greatest."""
    thin = thinned(series.points)
    parts, stretch = [], list[tuple[float, float, float, float]]()
    for point in [*thin, None]:
        if point is not None:
            at, mean, low, high = point
            stretch.append((x.at(at), y.at(mean), y.at(low), y.at(high)))
        elif stretch:
            if banded and len(thin) < len(series.points):
                edge = [(at, low) for at, _, low, _ in stretch] + [(at, high) for at, _, _, high in stretch[::-1]]
                parts.append(el("polygon", points=" ".join(f"{_px(a)},{_px(b)}" for a, b in edge), class_="band"))
            path = "L".join(f"{_px(at)},{_px(mean)}" for at, mean, _, _ in stretch)
            parts.append(el("path", d=f"M{path}", class_="line"))
            if len(thin) <= _MARKED or len(stretch) == 1:
                parts += [marker(series.number, at, mean) for at, mean, _, _ in stretch]
            stretch = []
    for at, low, high in series.spans:
        parts.append(el("path", d=f"M{_px(x.at(at))},{_px(y.at(low))}V{_px(y.at(high))}", class_="span"))
    return el("g", *parts, class_=style(series.number))


def _letters(drawn: Sequence[Series], x: Axis, y: Axis) -> list[Html]:
    """The letter of each line at its end; those of lines that end near each other stand apart, in their order."""
    ends: list[tuple[float, float, str]] = []
    for series in drawn:
        last_x, last = next((at, value) for at, value in reversed(series.points) if value is not None)
        ends.append((x.at(last_x) + 6, y.at(last), series.letter))
    found = []
    while ends:
        right = max(across for across, _, _ in ends)
        near = sorted((down, across, letter) for across, down, letter in ends if across > right - _LETTER)
        ends = [end for end in ends if end[0] <= right - _LETTER]
        rows = _apart([down for down, _, _ in near], y.end + 4, y.begin - 4)
        found += [
            _text(across, row + 4, letter, "start", "letter")
            for row, (_, across, letter) in zip(rows, near, strict=True)
        ]
    return found


def _apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Rows at or near the wanted ones, which ascend, a letter's height apart where there is room."""
    gap = min(_LINE, (bottom - top) / max(1, len(wanted) - 1))
    rows: list[float] = []
    for row in wanted:
        rows.append(max(row, top, rows[-1] + gap if rows else top))
    for k in reversed(range(len(rows))):
        rows[k] = min(rows[k], bottom if k == len(rows) - 1 else rows[k + 1] - gap)
    return rows


def _mark(number: int, at: float, bottom: float, said: str) -> Html:
    shape = el("path", el("title", said), d=f"M{_px(at)},{_px(bottom - 7)}l4,7h-8z", class_="mark")
    return el("g", shape, class_=style(number))


def bars(title: str, rows: Sequence[tuple[str, Sequence[Bar]]], *, note: str = "") -> Html:
    """The figure of shares as bars with their intervals; a row's bars lie below each other."""
    left, right, thick, apart = 100, 314, 14, 9
    parts, at, said = [], 2.0, []
    axis = Axis(0, 1, left + 18, right)
    for name, mine in rows:
        parts.append(_text(left - 4, at + len(mine) * thick / 2 + 4, _cut(name, 17), "end"))
        for bar in mine:
            parts += _bar(bar, axis, at, thick)
            value = "not known" if bar.value is None else _with_ends(bar)
            said.append(f"{name}, {bar.letter}: {value}")
            at += thick
        at += apart
    tall = at - apart + 2
    parts.append(el("line", x1=axis.begin, x2=axis.begin, y1=0, y2=_px(tall), class_="axis"))
    svg = el("svg", *parts, viewBox=f"0 0 {_WIDE} {_px(tall)}", role="img", aria_label=f"{title}. {'; '.join(said)}.")
    more = [el("p", note, class_="note")] if note else []
    return el("figure", el("figcaption", title), svg, *more)


def _bar(bar: Bar, axis: Axis, at: float, thick: float) -> list[Html]:
    middle = at + thick / 2
    parts = [_text(axis.begin - 12, middle + 4, bar.letter, "middle", "letter")]
    if bar.value is None:
        return [*parts, _text(axis.begin + 6, middle + 4, "-", "start")]
    end, furthest = axis.at(bar.value), axis.at(bar.value if bar.high is None else max(bar.high, bar.value))
    shape = el("rect", x=axis.begin, y=_px(at + 2), width=_px(max(0.0, end - axis.begin)), height=thick - 4)
    parts.append(el("g", shape, class_=f"{style(bar.number)} bar"))
    if bar.low is not None and bar.high is not None:
        parts.append(el("path", d=f"M{_px(axis.at(bar.low))},{_px(middle)}H{_px(furthest)}", class_="whisker"))
    return [*parts, _text(furthest + 5, middle + 4, f"{100 * bar.value:.1f}", "start")]


def legend(entries: Sequence[tuple[int, str, str]]) -> Html:
    """Which letter, colour, dashes and marker stand for what: entries are (number, letter, name)."""
    items = []
    for number, letter, name in entries:
        line = el("path", d="M2,7H38", class_="line")
        sample = el("g", line, marker(number, 20, 7), class_=style(number))
        svg = el("svg", sample, viewBox="0 0 40 14", width=40, height=14, aria_hidden="true")
        items.append(el("li", svg, el("b", letter), " ", el("span", name)))
    return el("ul", *items, class_="legend")


def marker(number: int, at: float, y: float) -> Html:
    return el("path", d=_SHAPES[number % len(_SHAPES)], transform=f"translate({_px(at)} {_px(y)})", class_="dot")


def style(number: int) -> str:
    """The class by which the page's style colours and dashes a run."""
    return f"s{number % STYLES}"


def _in_words(series: Series, panel: Panel) -> str:
    known = [(x, y) for x, y in series.points if y is not None]
    (first_x, first), (last_x, last) = known[0], known[-1]
    least, most = min(y for _, y in known), max(y for _, y in known)
    at = "{}" + panel.along if panel.along.startswith("%") else panel.along + " {}"
    said = f"{series.letter}: {short(last, panel.unit)} at {at.format(short(last_x))}"
    if len(known) == 1:
        return said
    begun = f"from {short(first, panel.unit)} at {at.format(short(first_x))}"
    return f"{said}, {begun}, between {short(least, panel.unit)} and {short(most, panel.unit)}"


def _with_ends(bar: Bar) -> str:
    ends = "" if bar.low is None or bar.high is None else f" ({100 * bar.low:.1f} to {100 * bar.high:.1f})"
    return f"{100 * (bar.value or 0):.1f} %{ends}"


def _text(x: float, y: float, said: str, anchor: str, class_: str | None = None) -> Html:
    return el("text", said, x=_px(x), y=_px(y), text_anchor=anchor, class_=class_)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
