"""What ran on what: the conditions, recipes and data sets of runs side by side, and where they differ."""

import json
from collections.abc import Sequence
from typing import Any

from fer_scale.record import Row
from fer_scale.report.gather import Told
from fer_scale.report.markup import Html, el, join, table

_OWN = ("run.out",)  # keys of a recipe that every run has for itself
_UNLIKE = Html('<span class="unlike">differs</span>')


def section(runs: Sequence[Told]) -> Html:
    """Conditions, differences of the recipes, the recipes whole, data."""
    parts = [_conditions(runs)]
    for kind in dict.fromkeys(run.life["kind"] for run in runs):
        parts.append(_recipes(kind, [run for run in runs if run.life["kind"] == kind]))
    return join([*parts, _data(runs)])


def _conditions(runs: Sequence[Told]) -> Html:
    said = [conditions(run) for run in runs]
    names = list(dict.fromkeys(name for one in said for name in one))
    rows = [(name, *(one.get(name, "") for one in said)) for name in names]
    return _side_by_side("Conditions", runs, rows)


def conditions(run: Told) -> dict[str, str]:
    """What decides how a run computes, beside its recipe, as far as its folder says."""
    recipe, start, claims = run.record.recipe, run.start, run.record.claims
    host = claims[max(claims)].get("host") if claims else None
    ranks, stage = start.get("ranks", start.get("processes")), start.get("stage")
    model, batch = recipe.get("model", {}), recipe.get("batch", {}).get("size")
    step = recipe.get("supervised", {}).get("batch") if batch is None else batch
    found = {
        "kind": run.life["kind"],
        "device": start.get("device"),
        "ranks": None if ranks is None else f"{ranks:,}",
        "ZeRO stage": stage,
        "hosts": ", ".join(map(str, start.get("hosts") or [])) or host,
        "precision": recipe.get("run", {}).get("precision"),
        "seed": recipe.get("run", {}).get("seed"),
        "network": start.get("network") or model.get("encoder") or model.get("architecture"),
        "started from": model.get("start_from"),
        "image, px": start.get("image_px") or model.get("image_px") or None,
        "images a step": None if step is None else f"{step:,}",
        "images in an epoch": f"{run.plan['images']:,}" if "images" in run.plan else None,
        "views, planned": f"{run.plan['views']:,}" if "views" in run.plan else None,
    }
    versions = start.get("versions") or {}
    found |= {f"version of {name}": version for name, version in versions.items()}
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _recipes(kind: str, runs: Sequence[Told]) -> Html:
    """The keys that differ, in sight; all keys, to be opened."""
    flat = [flattened(run.record.recipe) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [(key, *(one.get(key, "") for one in flat)) for key in keys]
    if not rows:
        return el("p", f"The recipe of {', '.join(run.title for run in runs)} is not there.")
    unlike = [row for row in rows if len({*row[1:]}) > 1 and row[0] not in _OWN]
    parts = []
    if unlike:
        parts.append(_side_by_side(f"Recipe of {kind}: keys that differ", runs, unlike, mark=False))
    elif len(runs) > 1:
        parts.append(el("p", f"The recipes of {kind} are alike, but for the folders of the runs."))
    whole = _side_by_side(f"Recipe of {kind}, resolved", runs, rows)
    parts.append(el("details", el("summary", f"All {len(rows)} keys of the recipe of {kind}"), whole))
    return join(parts)


def flattened(recipe: Row, above: str = "") -> dict[str, str]:
    """section.key -> its value as it would stand in JSON."""
    found: dict[str, str] = {}
    for key, value in recipe.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            found |= flattened(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return found


def _side_by_side(caption: str, runs: Sequence[Told], rows: Sequence[Sequence[str]], *, mark: bool = True) -> Html:
    """A column a run; where `mark`, rows whose values differ stand out, by a word beside the colour."""
    marked = [n for n, row in enumerate(rows) if mark and _differs(row[1:], runs) and row[0] not in _OWN]
    shown: list[list[Any]] = [[row[0], *(cell or "–" for cell in row[1:])] for row in rows]
    for number in marked:
        shown[number][0] = join([rows[number][0], " ", _UNLIKE])
    return table(caption, ["", *(run.title for run in runs)], shown, marked=marked, class_="facts")


def _differs(cells: Sequence[str], runs: Sequence[Told]) -> bool:
    """Whether runs of the same kind say different things; what a run does not say is no difference."""
    said = {(run.life["kind"], cell) for run, cell in zip(runs, cells, strict=True) if cell}
    return len(said) > len({kind for kind, _ in said})


def _data(runs: Sequence[Told]) -> Html:
    rows = [_set(run, row) for run in runs for row in run.data]
    if not rows:
        return el("p", "Which data sets were used is not recorded in these runs.")
    head = ["run", "set", "images", "left out", "labels", "of each batch", "licence of the images", "protocol", "hash"]
    used = [number for number in range(len(head)) if any(row[number] for row in rows)]
    return table("Data sets", [head[k] for k in used], [[row[k] or "–" for k in used] for row in rows], class_="short")


def _set(run: Told, row: Row) -> list[Any]:
    """A set as a run's data.json has it; what it does not know is empty."""
    weight = row.get("weight")
    return [
        run.letter,
        str(row.get("name", "?")),
        f"{row.get('samples') or 0:,}",
        f"{row['excluded']:,}" if row.get("excluded") else "",
        f"{row['labels']:,}" if row.get("labels") else "",
        f"{100 * weight:.4g} %" if weight else "",
        el("td", row.get("licence") or "unknown", class_="long"),
        str(row.get("protocol") or ""),
        str(row.get("fingerprint") or "")[:12],
    ]
