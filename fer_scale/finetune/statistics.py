"""What several seeds say of a mean, and what two models' answers to the same faces say of their difference.

Exact, in plain Python: Student's quantile by its finite sum (Abramowitz & Stegun 26.7.3, 26.7.4), McNemar's test by
the binomial (McNemar 1947; Dietterich 1998 recommends it for models of one training run each).
"""

import math
from collections.abc import Sequence
from typing import Any


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of the values and its 95 % t-interval, which is None for a single one."""
    mean, count = math.fsum(values) / len(values), len(values)
    if count < 2:
        return {"mean": mean, "interval_95": None, "count": count}
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_quantile(0.975, count - 1) * deviation / math.sqrt(count)
    return {"mean": mean, "interval_95": [mean - half, mean + half], "count": count}


def student_quantile(probability: float, degrees: int) -> float:
    """The t below which Student's distribution with so many degrees of freedom has this probability, of 1/2 or more."""
    low, high = 0.0, 1.0
    while _student(high, degrees) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, degrees) < probability else (low, middle)
    return high


def _student(t: float, degrees: int) -> float:
    """The probability of at most t, t >= 0."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = total = (cosine if degrees > 1 else 0.0) if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p of two models of which one alone is right so many times, and the other alone so many."""
    count = only_first + only_second
    tail = sum(math.comb(count, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**count)
