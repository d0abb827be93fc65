"""The evaluation of an expression model in its card: how it was measured, what came of it, and how sure that is."""

import re
from collections.abc import Sequence
from typing import Any

from fer_scale.markdown import code, inline, one_line, table

_MEASURES = {
    "accuracy": "accuracy",
    "uar": "mean recall of the classes (uar)",
    "macro_f1": "macro F1",
    "ece": "calibration error (ece)",
    "adaptive_ece": "the same in bins of equally many images (adaptive ece)",
}
_WITH_FLIP = ("accuracy", "uar")
_OF_THE_HUB: dict[str, tuple[str, dict[str, Any]]] = {  # measure -> the Hub's name of it, and its arguments
    "accuracy": ("accuracy", {}),
    "uar": ("recall", {"average": "macro"}),
    "macro_f1": ("f1", {"average": "macro"}),
}
_Z = 1.959964  # of a 95 % interval
Metrics = dict[str, Any]  # evaluation/metrics.json


def section(metrics: Metrics | None, data: Sequence[dict[str, Any]]) -> str:
    """What the card says of it; `data` are the rows of data.json, which know the protocol of the labels."""
    if not metrics:
        return "Not evaluated: nothing is known of how often it is right, or of how sure it may be of that."
    flip = metrics.get("flip") or {}
    rows = _rows(metrics, _MEASURES) + _rows(flip, {key: f"{key}, with test-time flip" for key in _WITH_FLIP})
    classes = [
        [name, f"{facts['count']:,}", _percent(facts.get("recall")), _wilson(facts), _percent(facts.get("precision"))]
        for name, facts in metrics.get("per_class", {}).items()
    ]
    parts = [_protocol(metrics, data), table(["measure", "value", "95 % interval (bootstrap)"], rows)]
    if classes:
        parts.append(table(["expression", "images", "recall", "95 % interval (Wilson)", "precision"], classes))
    if flip:
        parts.append(
            "With test-time flip: the mean of the probabilities of a picture and its mirror image, at twice the cost; "
            "all other figures are without it."
        )
    parts.append(_calibration(metrics))
    if warning := metrics.get("warning"):
        parts.append(f"**Beware:** {inline(warning)}.")
    return "\n\n".join(part for part in parts if part)


def model_index(metrics: Metrics | None, title: str) -> dict[str, Any]:
    """The evaluation in the form in which the Hub lists it; empty where there is none."""
    rows = [_row(metrics, key) for key in _OF_THE_HUB if metrics and isinstance(metrics.get(key), int | float)]
    if not rows or not metrics:
        return {}
    name, split = one_line(metrics.get("set") or "") or "a set without a name", metrics.get("split") or {}
    args = {"samples": metrics.get("samples"), "fingerprint": metrics.get("fingerprint"), "split": split.get("sha256")}
    dataset = {
        "name": name,
        "type": re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:90].strip("-") or "unnamed",
        **({"split": one_line(split["list"])} if split.get("list") else {}),
        "args": {key: value for key, value in args.items() if value is not None},
    }
    task = {"type": "image-classification", "name": "Facial expression recognition"}
    return {"name": one_line(title) or "model", "results": [{"task": task, "dataset": dataset, "metrics": rows}]}


def _rows(metrics: Metrics, names: dict[str, str]) -> list[list[str]]:
    """A line of the table for each measure of `names` that is there: its name, its value, the ends of its interval."""
    ends = {
        key: " to ".join(f"{100 * end:.1f}" for end in pair) for key, pair in metrics.get("intervals_95", {}).items()
    }
    there = [key for key in names if isinstance(metrics.get(key), int | float)]
    return [[names[key], _percent(metrics[key]), ends.get(key, "")] for key in there]


def _row(metrics: Metrics, key: str) -> dict[str, Any]:
    kind, args = _OF_THE_HUB[key]
    if ends := metrics.get("intervals_95", {}).get(key):
        args = args | {"interval_95": [round(float(end), 6) for end in ends]}
    row = {"type": kind, "value": round(float(metrics[key]), 6), "name": _MEASURES[key]}
    return row | ({"args": args} if args else {})


def _protocol(metrics: Metrics, data: Sequence[dict[str, Any]]) -> str:
    """Which images, which list of which split, how their labels came about, and what was left out."""
    said = f"Measured on {metrics.get('samples', 0):,} images of {inline(metrics.get('set') or 'a set without a name')}"
    if split := metrics.get("split"):
        said += f", list {code(split['list'])} of the split {split['sha256'][:12]}"
    of_this = [row for row in data if row.get("fingerprint") == metrics.get("fingerprint")]
    if protocol := next((row["protocol"] for row in of_this if row.get("protocol")), None):
        said += f"; labels by the protocol {code(protocol)}"
    left_out = {reason.replace("_", " "): count for reason, count in (metrics.get("left_out") or {}).items() if count}
    if left_out:
        said += "; left out: " + ", ".join(f"{count:,} ({inline(reason)})" for reason, count in left_out.items())
    return said + "."


def _calibration(metrics: Metrics) -> str:
    """How far confidence and accuracy are apart, on average."""
    bins = [row for row in metrics.get("reliability", ()) if row.get("count")]
    total = sum(row["count"] for row in bins)
    if not total:
        return ""
    confidence, right = (sum(row["count"] * row[key] for row in bins) / total for key in ("confidence", "accuracy"))
    return (
        f"Calibration: it is {_percent(confidence)} sure on average, and right in {_percent(right)} of the images; the "
        f"calibration error is the mean distance of the two over {len(metrics['reliability'])} bins of confidence."
        + _abstaining(metrics)
    )


def _abstaining(metrics: Metrics) -> str:
    """How right it would be if it answered only where it is surest: about half of the images."""
    rows = metrics.get("coverage") or ()
    half = min(rows, key=lambda row: abs(row["coverage"] - 0.5), default=None)
    if half is None:
        return ""
    return (
        f" In the {_percent(half['coverage'])} of the images where it is surest (confidence from "
        f"{half['confidence']:.2f} on), it is right in {_percent(half['accuracy'])}."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _wilson(facts: dict[str, Any]) -> str:
    """The interval of a recall, over the images of its class."""
    n, p = facts.get("count") or 0, facts.get("recall")
    if not n or p is None:
        return "-"
    low, high = wilson(n, p)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def wilson(count: int, share: float) -> tuple[float, float]:
    """The 95 % interval of a share that was found among so many (Wilson 1927)."""
    middle, half = share + _Z**2 / (2 * count), _Z * (share * (1 - share) / count + _Z**2 / (4 * count**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + _Z**2 / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
