"""The table of a sweep: DIR/table.md for a person, table.json for a script, DIR/plots for a page.

Everything in them is a function of what was asked and of the runs, so a sweep that was killed and gone on with ends in
the same bytes; what a run took stands in seconds.md. A run's figures are those of its last average on the list that was
asked for: nothing is chosen by them. A difference is that of two runs with the same labels and the same test faces.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_scale import disk, life, plots, record
from fer_scale.finetune.protocols import published
from fer_scale.finetune.split import OFFICIAL
from fer_scale.finetune.statistics import interval, mcnemar

MEASURES = ("accuracy", "uar")
_ALIKE = 0.05  # McNemar's p from which on two runs are called alike

Made = Mapping[tuple[str, str, int], Path]  # row, labels, seed -> its metrics.json
Splits = Mapping[tuple[str, int], Path]  # labels, seed


def write(
    out: Path, rows: Sequence[str], reference: str, made: Made, splits: Splits, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the table of what is there, and return it."""
    labels, seeds = list(dict.fromkeys(of for of, _ in splits)), list(dict.fromkeys(seed for _, seed in splits))
    drawn = {of: [_count(splits[of, seed]) for seed in seeds] for of in labels}
    table = {
        "format": 1,
        "about": facts,
        "seeds": seeds,
        "labels": drawn,
        "reference": reference,
        "rows": {row: {of: _cell(row, reference, of, seeds, made) for of in labels} for row in rows},
        "published": published(facts["known_as"], drawn, (facts["test"], facts["list"]) == (OFFICIAL, "test")),
    }
    disk.put(out / "table.json", json.dumps(table, indent=2) + "\n")
    disk.put(out / "table.md", markdown(table))
    (out / "plots").mkdir(exist_ok=True)
    for measure in MEASURES:
        if lines := _lines(table, measure):
            plots.over_labels(lines, measure, out / "plots" / f"{measure}.png")
    return table


def _lines(table: dict[str, Any], measure: str) -> dict[str, list[tuple[float, float, float]]]:
    """Of each row that has figures: mean number of labels, mean of the measure, and half of its interval."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row, cells in table["rows"].items():
        for of, counts in table["labels"].items():
            known = [count for count in counts if count is not None]
            if known and (said := cells[of].get(measure)):
                half = said["interval_95"][1] - said["mean"] if said["interval_95"] else 0.0
                lines.setdefault(row, []).append((sum(known) / len(known), said["mean"], half))
    return {row: sorted(points) for row, points in lines.items()}


def seconds(out: Path, table: dict[str, Any], made: Made) -> None:
    """Write DIR/seconds.md: what training took, both stages, lost steps included; mean over the seeds."""
    head = [_head(of, counts) for of, counts in table["labels"].items()]
    lines = ["| seconds in training steps | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for row in table["rows"]:
        cells = []
        for of in table["labels"]:
            runs = [made[row, of, seed].parent.parent for seed in table["seeds"]]
            known = [_trained_s(run) for run in runs if (run / "recipe.toml").exists()]
            cells.append(f"{sum(known) / len(known):,.0f}" if known else "")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    disk.put(out / "seconds.md", "\n".join(lines) + "\n")


def _trained_s(run: Path) -> float:
    return sum(start.counted_s + start.lost_s for start in life.starts(record.read(run), math.inf))


def _count(split: Path) -> int | None:
    """How many labels a split has, None where it could not be drawn."""
    return int(json.loads(split.read_text())["labels"]) if split.exists() else None


def _cell(row: str, reference: str, labels: str, seeds: Sequence[int], made: Made) -> dict[str, Any]:
    """A row's figures for one number of labels, over the seeds that are there."""
    files = {seed: file for seed in seeds if (file := made[row, labels, seed]).exists()}
    found = {seed: json.loads(file.read_text()) for seed, file in files.items()}
    runs = [{"seed": seed} | _figures(said) for seed, said in found.items()]
    cell: dict[str, Any] = {"runs": runs}
    for name in runs[0] if runs else ():
        if name != "seed" and all(name in run for run in runs):
            cell[name] = interval([run[name] for run in runs])
    if row != reference:
        cell["against"] = _against(files, {seed: made[reference, labels, seed] for seed in files})
    return cell


def _figures(said: dict[str, Any]) -> dict[str, float]:
    """What of a metrics.json stands in the table; with the mirrored picture's answer averaged in: flip_..."""
    figures = {name: said[name] for name in (*MEASURES, "ece")}
    return figures | {f"flip_{name}": said["flip"][name] for name in MEASURES if "flip" in said}


def _against(files: Mapping[int, Path], others: Mapping[int, Path]) -> dict[str, Any]:
    """The paired differences to the reference: their mean over the seeds, and McNemar's test of each run."""
    pairs = [(seed, files[seed], others[seed]) for seed in files if others[seed].exists()]
    if not pairs:
        return {}
    values = [(json.loads(file.read_text()), json.loads(other.read_text())) for _, file, other in pairs]
    differences = {name: interval([ours[name] - theirs[name] for ours, theirs in values]) for name in MEASURES}
    return differences | {"mcnemar": [{"seed": seed} | compare(file, other) for seed, file, other in pairs]}


def compare(metrics: Path, reference: Path) -> dict[str, Any]:
    """McNemar's test of two evaluations on the faces that both have."""
    ours, theirs = (_right(file.with_name("predictions.csv")) for file in (metrics, reference))
    both = ours.keys() & theirs.keys()
    gained = sum(ours[key] and not theirs[key] for key in both)
    lost = sum(theirs[key] and not ours[key] for key in both)
    return {"only_this_right": gained, "only_reference_right": lost, "p": mcnemar(gained, lost)}


def _right(predictions: Path) -> dict[str, bool]:
    """Of each face, by its key, whether it was answered right."""
    with predictions.open(newline="") as file:
        return {line["key"]: line["expression"] == line["predicted"] for line in csv.DictReader(file)}


def markdown(table: dict[str, Any]) -> str:
    """The table for a person: all label counts side by side, then each with all its figures."""
    about, seeds = table["about"], table["seeds"]
    lines = [f"# Sweep on {about['set']}", ""]
    lines += [
        f"Measured on the list `{about['list']}`; test faces: {_test(about)}. Seeds {', '.join(map(str, seeds))}."
    ]
    if about["list"] != "test":
        lines += ["These faces were used in making the models (those of `valid` for the temperature): it is no test."]
    if about["encoder"]:
        lines += [_pretraining(about["encoder"])]
    if about["votes"]:
        lines += [f"Trained on annotators' votes, another track than hard labels: {'; '.join(about['votes'])}."]
    lines += [
        "Mean over the seeds and half of its 95 % t-interval, in %: accuracy / uar.",
        "",
        "| accuracy / uar | " + " | ".join(_head(of, counts) for of, counts in table["labels"].items()) + " |",
        "|---|" + "---|" * len(table["labels"]),
    ]
    for row, cells in table["rows"].items():
        found = [" / ".join(_percent(cells[of].get(name)) for name in MEASURES) for of in table["labels"]]
        lines.append(f"| {row} | " + " | ".join(found) + " |")
    for said in table["published"]:
        found = [_published(said, of, counts) for of, counts in table["labels"].items()]
        other = ", other test faces" if said["other_test_faces"] else ""
        lines.append(f"| published: {said['name']} ({said['test_faces']:,} faces{other}) | " + " | ".join(found) + " |")
    for of, counts in table["labels"].items():
        lines += ["", f"## {_head(of, counts)}", "", *_details(table, of)]
    return "\n".join(lines) + "\n"


def _published(said: dict[str, Any], labels: str, counts: Sequence[int | None]) -> str:
    """A published accuracy, with its number of labels where only the share is the same."""
    if labels not in said["accuracy"]:
        return ""
    text, count = f"{100 * said['accuracy'][labels]:.1f}", said["labels"].get(labels)
    return text if count is None or count in counts else f"{text} (with {count:,} labels)"


def _test(about: dict[str, Any]) -> str:
    """Which faces are tested on."""
    test = str(about["test"])
    if about["test_seed"] is not None:
        return f"{test}, drawn by seed {about['test_seed']}"
    return "the official ones" if test == OFFICIAL else f"the list {test.partition('#')[2]} of the split {test[:12]}"


def _pretraining(known: dict[str, Any]) -> str:
    """What the encoder was given, as far as its folder says."""
    views = f"{known['views']:,} views" if known["views"] else "a number of views that is not known"
    hours = f" in {known['hours']} device-hours" if known["hours"] else ""
    return f"The encoder was pre-trained with {views}{hours} (sha256 {known['sha256'][:12]})."


def _head(labels: str, counts: Sequence[int | None]) -> str:
    """ "5 % (1,064 labels)"; a range where the seeds' draws differ."""
    known = sorted({count for count in counts if count is not None})
    said = " to ".join(f"{count:,}" for count in dict.fromkeys([*known[:1], *known[-1:]])) or "no"
    return f"{said} labels" if labels == str(known[0] if known else "") else f"{labels} ({said} labels)"


def _details(table: dict[str, Any], labels: str) -> list[str]:
    """All figures for one number of labels."""
    flips = any("flip_uar" in cells[labels] for cells in table["rows"].values())
    columns = [*MEASURES, *(f"flip_{name}" for name in MEASURES if flips), "ece"]
    heads = [name.replace("flip_", "with flip: ") for name in columns]
    against = [f"{name} - {table['reference']}" for name in MEASURES]
    lines = ["| | " + " | ".join([*heads, *against, f"runs with p < {_ALIKE}"]) + " | runs |"]
    lines.append("|---|" + "---|" * (len(columns) + 4))
    for row, cells in table["rows"].items():
        cell = cells[labels]
        paired = cell.get("against") or {}
        found = [_percent(cell.get(name)) for name in columns]
        found += [_percent(paired.get(name), signed=True) for name in MEASURES]
        lines.append(f"| {row} | " + " | ".join([*found, _decided(paired), f"{len(cell['runs'])}"]) + " |")
    return lines


def _percent(said: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A share as percent, with half of its interval where there is one."""
    if not said:
        return ""
    mean = f"{100 * said['mean']:+.1f}" if signed else f"{100 * said['mean']:.1f}"
    return f"{mean} ± {100 * (said['interval_95'][1] - said['mean']):.1f}" if said["interval_95"] else mean


def _decided(paired: dict[str, Any]) -> str:
    """In how many runs McNemar's test finds a difference, to either side."""
    tests = [test for test in paired.get("mcnemar", ()) if test["p"] < _ALIKE]
    better = sum(test["only_this_right"] > test["only_reference_right"] for test in tests)
    return f"{better} better, {len(tests) - better} worse" if paired else ""
