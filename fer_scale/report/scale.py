"""Numbers on an axis: which ticks it has, where a value lies on it, and how it is written. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float | None]  # None: nothing is known there, the line is broken


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high` in values, from `begin` to `end` in pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; one that lies outside is put on the edge."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else steps(self.low, self.high)


def around(values: Sequence[float], begin: float, end: float, *, log: bool = False) -> Axis:
    """An axis on which all values have room, from power of ten to power of ten if `log`."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        low, high = 10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9)
        return Axis(low, high if high > low else 10 * low, begin, end, log=True)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # one value: it lies in the middle
        half = abs(high) / 2 or 0.5
        low, high = low - half, high + half
    room = 0.04 * (high - low)
    return Axis(low - room, high + room, begin, end)


def steps(low: float, high: float) -> list[float]:
    """Round values 1, 2 or 5 times a power of ten apart, within [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], every second or third of them where there are many."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**k for k in range(first, last + 1, 1 + (last - first) // 6)]


def short(value: float, unit: str = "") -> str:
    """A number in few characters: 12k, 0.49, 1e-5, 36 %."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    size = abs(float(f"{value:.3g}"))  # 999.6 is written as 1,000 is
    if 0 < size < 1e-4:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    for least, divisor, letter in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= least:
            return f"{value / divisor:.3g}{letter}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def thinned(points: Sequence[Point], most: int = 240) -> list[tuple[float, float, float, float] | None]:
    """(x, mean, least, greatest) of so many stretches at most, in order; None where nothing is known."""
    size = -(-len(points) // most) if points else 1
    found: list[tuple[float, float, float, float] | None] = []
    for begin in range(0, len(points), size):
        known = [(x, y) for x, y in points[begin : begin + size] if y is not None]
        if not known:
            found.append(None)
            continue
        x, values = known[len(known) // 2][0], [y for _, y in known]
        found.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return found
