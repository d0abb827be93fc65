"""What a run's folder knows for the card of a model that came of it, up to the step of that model and no further.

What the run has done since does not count, so a step that is published later has the card that it would have had then.
Names of hosts and paths stay at home.
"""

import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fer_scale import __version__, artifact, card_evaluation, life, record
from fer_scale.life import Start
from fer_scale.record import Record, Row
from shards.errors import UserError

_BEGIN = ("start", "resume")
_KINDS: dict[str, Any] = {  # of a row of data.json, where it is counted with
    "samples": int,
    "excluded": int,
    "weight": int | float,
    "class_counts": dict,
}
_ODD = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # what comes of values of other kinds


class FactsError(UserError):
    """A run whose files say what cannot be true of this model, or cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Of one run at one step; what is not known is empty."""

    recipe: Row = field(default_factory=dict)
    data: list[Row] = field(default_factory=list)  # rows of data.json
    rows: list[Row] = field(default_factory=list)  # of metrics.jsonl
    training: dict[str, str] = field(default_factory=dict)  # what -> how much
    compute: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    evaluation: Row | None = None  # metrics.json


def of_checkpoint(run: Path | None, progress: Row) -> Facts:
    """The facts of a checkpoint of pre-training, whose progress.json this is; `run` is None where it was moved."""
    recipe = tomllib.loads(progress["recipe"])
    upto = cut(_read(run), progress["step"]) if run else Record()
    data, rows = _data(run), list(upto.metrics)
    training = {"steps": f"{progress['step']:,}", "views": f"{progress['images']:,}"}
    if losses := [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)]:
        training["last loss"] = f"{losses[-1]:.4f}"
    return Facts(
        recipe=recipe,
        data=data,
        rows=rows,
        training=training,
        compute=compute(upto),
        provenance=_provenance(progress["recipe"], _versions(upto) | progress.get("versions", {}), data),
    )


def of_finished(run: Path | None, config: Row) -> Facts:
    """The facts of the model that a run of fine-tuning ended in; `config` is the model's config.json."""
    block = config.get("fer_scale", {})
    named = {"labels": "labeled images", "target": "target", "folded_temperature": "temperature, folded into the head"}
    found = {key: block.get(key, block.get("trained_on", {}).get(key)) for key in named}
    training = {said: str(found[key]) for key, said in named.items() if found[key] is not None}
    if run is None:
        return Facts(training=training, provenance=_provenance("", {}, []))
    text, whole, data = (run / "recipe.toml").read_text(), _read(run), _data(run)
    if whole.metrics:
        training["steps"] = f"{whole.metrics[-1]['step']:,}"
    upto = cut(whole, whole.metrics[-1]["step"]) if whole.metrics else whole
    return Facts(
        recipe=whole.recipe,
        data=data,
        rows=list(upto.metrics),
        training=training,
        compute=compute(upto),
        provenance=_provenance(text, _versions(upto), data),
        evaluation=_evaluation(run, config.get("label_names", [])),
    )


def cut(whole: Record, step: int) -> Record:
    """The record as it was when this step was saved; what followed, and how the starts ended, is left out."""
    said = [(row["event"], row.get("step", 0) < max(step, 1)) for row in whole.events]
    led = max((n for n, (kind, before) in enumerate(said) if kind in _BEGIN and before), default=0)
    later = (n for n, (kind, before) in enumerate(said) if n > led and kind in (*_BEGIN, "rewound") and not before)
    events = [row for row in whole.events[: next(later, None)] if row.get("step", 0) <= step]
    numbers = {row["attempt"] for row in events if "attempt" in row}
    claims = {number: claim for number, claim in whole.claims.items() if not numbers or number in numbers}
    metrics = [row for row in whole.metrics if row["step"] <= step]
    past: Row = {"outcomes": {}, "outcome": {}, "saved": [step], "alive": False}
    return replace(whole, claims=claims, events=events, metrics=metrics, **past)


def _read(run: Path) -> Record:
    """The run's record; FactsError where its lines do not say of which step or event they are."""
    try:
        whole = record.read(run)
    except _ODD as error:
        where = "plan.json, attempts/ or recipe.toml hold"
        raise FactsError(f"{run}: {where} what no run writes ({error!r:.90}); mend them") from None
    if not all(type(row.get("step")) is int for row in whole.metrics):
        raise FactsError(f"{run}/metrics.jsonl: has lines without a step; mend it or remove it")
    if not all(isinstance(row.get("event"), str) and type(row.get("step", 0)) is int for row in whole.events):
        raise FactsError(f"{run}/events.jsonl: has lines without an event, or with an odd step; mend it or remove it")
    return whole


def compute(upto: Record) -> dict[str, str]:
    """What the training took, by the record's lines of metrics; empty where they do not say, or odd things."""
    try:
        begun = [start for start in life.starts(upto, math.inf) if start.first_step is not None]
    except _ODD:
        return {}
    spent_s = sum(start.counted_s + start.lost_s for start in begun)
    if not spent_s:
        return {}
    first, lost_s = begun[0].first_step, sum(start.lost_s for start in begun)
    named = {row["device"] for row in upto.events if row["event"] in _BEGIN and row.get("device")}
    device = ", ".join(sorted(named)) or "a device that was not recorded"
    ranks, hosts = (_span([start.ranks or 1 for start in begun]), _span([len(start.hosts) or 1 for start in begun]))
    again = f", {_hours(lost_s)} of them for steps that a failure made it compute twice" if lost_s else ""
    elsewhere = {"counted from step": f"{first:,}; what was before is another run's"} if first else {}
    return elsewhere | {
        "devices": f"{ranks} x {device}, on {hosts} host{'' if hosts == '1' else 's'}",
        "starts": f"{len(begun)}",
        "hours in training steps": f"{_hours(spent_s)}{again}",
        "device-hours in training steps": _hours(sum(map(_ranks_s, begun))),
        "energy": "not measured",
    }


def _ranks_s(start: Start) -> float:
    return (start.counted_s + start.lost_s) * (start.ranks or 1)


def _span(counts: list[int]) -> str:
    return f"{min(counts)}" if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}"


def _versions(upto: Record) -> Row:
    """Of the newest start that led here."""
    starts = [row for row in upto.events if row["event"] in _BEGIN]
    versions = starts[-1].get("versions") if starts else None
    return versions if isinstance(versions, dict) else {}


def _provenance(recipe: str, versions: Row, data: list[Row]) -> dict[str, str]:
    """Hashes and versions by which the training can be told from any other."""
    found = {"published by": f"fer_scale {__version__}"}
    if recipe:
        found["sha256 of the recipe"] = hashlib.sha256(recipe.encode()).hexdigest()
    for row in data:
        if row.get("fingerprint"):
            found[f"fingerprint of {row.get('name', '?')}"] = str(row["fingerprint"])
        if row.get("split"):
            found[f"sha256 of the split of {row.get('name', '?')}"] = str(row["split"])
    said = {"this folder's code": "sha256 of the code (first 8)", "fer_scale": "trained by fer_scale"}
    return found | {said.get(name, name): str(version) for name, version in versions.items()}


def _data(run: Path | None) -> list[Row]:
    """The rows of data.json that are objects."""
    rows = _json(run / "data.json") if run else None
    if rows is not None and not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise FactsError(f"{run}/data.json: no list of data sets; mend it or remove it")
    for row in rows or ():
        if odd := [key for key, kind in _KINDS.items() if not isinstance(row.get(key), kind | None)]:
            raise FactsError(
                f"{run}/data.json: {', '.join(odd)} of {str(row.get('name'))[:60]!r} of a kind that no run "
                "writes; mend it or remove it"
            )
    return rows or []


def _evaluation(run: Path, labels: list[str]) -> Row | None:
    """What `fer-scale evaluate` found of the run's model; FactsError where it is of another one."""
    place = run / "evaluation" / "metrics.json"
    found = _json(place)
    if found is None:
        return None
    if not isinstance(found, dict) or found.get("label_names", labels) != labels:
        raise FactsError(f"{place}: is of another model, with other expressions; evaluate this one, or remove it")
    theirs, ours = found.get("weights"), run / "model" / artifact.WEIGHTS
    is_rival = str(found.get("model")).startswith("baseline:")
    if is_rival or (theirs and ours.is_file() and theirs != artifact.sha256(ours)):
        raise FactsError(f"{place}: is of another model, {found.get('model')}; evaluate this one, or remove it")
    try:
        card_evaluation.section(found, [])
        card_evaluation.model_index(found, "")
    except _ODD as error:
        raise FactsError(f"{place}: not what `fer-scale evaluate` writes ({error!r:.100}); evaluate again") from None
    return found


def _json(place: Path) -> Any:
    """What a JSON file says, or None where there is none."""
    if not place.is_file():
        return None
    try:
        return json.loads(place.read_text())
    except ValueError as error:
        raise FactsError(f"{place}: not JSON ({error}); mend it or remove it") from None
