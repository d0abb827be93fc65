"""How good an expression model is on faces it has not seen.

    OUT/metrics.json           accuracy, uar, macro_f1, ece and others, bootstrap intervals, recall and count a class
        predictions.csv        a line a face
        predictions_flip.csv   the same with test-time flip
        confusion_matrix.png   reliability.png, coverage.png

Classes are mapped by name: faces whose expression the model does not know are left out, and counted.

Test-time flip asks a model about each picture and about its mirror image, and takes the mean of the two
probabilities: it costs twice as much, and is a column of its own (`flip`); all other figures are without it.
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fer_scale import artifact, disk, encoder, hub, log, plots
from fer_scale.finetune import apply, baselines, metrics, targets, worst
from fer_scale.finetune import split as splits
from fer_scale.finetune.pool import SLOT_PX, Pool, labeled_pool
from fer_scale.finetune.recipe import CropOf
from fer_scale.finetune.split import Split
from fer_scale.finetune.start import trainings
from fer_scale.finetune.steps import Input
from shards.errors import UserError
from shards.index import ShardSet
from shards.remote import open_set
from shards.sample import Face

Floats = NDArray[np.float64]


class EvaluationError(UserError):
    """Something that cannot be evaluated as it was asked for."""


@dataclass(frozen=True, slots=True)
class Classifier:
    address: str  # with its commit, where it has one
    model: nn.Module
    as_input: Input
    names: list[str]
    trained_on: tuple[dict[str, Any], ...]  # see start.trainings
    weights: str | None = None  # sha256 of their file; None of a baseline

    @property
    def crop_of(self) -> CropOf:
        return "face" if self.trained_on and self.trained_on[0].get("crop_of") == "face" else "picture"


def evaluate(
    address: str,
    set_path: Path | str,
    out: Path,
    *,
    split_file: Path | None = None,
    list_name: str = "test",
    key: Path | None = None,
    worst_file: Path | None = None,
    crop_of: CropOf = "picture",
) -> dict[str, Any]:
    """Measure the model at `address`, or a baseline by name, on a list of a split, or on all labeled faces.

    The model must be signed by the owner of the public key in `key`, if one is given. `worst_file` asks for the page
    of worst.py. A baseline sees what `crop_of` says (augment.crop_of), a model what it was trained on.
    """
    shard_set = open_set(set_path)
    drawn = splits.read(split_file, shard_set) if split_file else None
    keys = _keys(shard_set, drawn, list_name)
    classifier = _classifier(address, shard_set, drawn, key, crop_of)
    pool = Pool(shard_set, keys, slot_px=SLOT_PX, crop_of=classifier.crop_of)
    known = pool.known()
    classes = targets.classes(known, classifier.names)
    with log.progress("evaluating") as tick:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        answers = apply.ask(classifier.model, pool, classifier.as_input, device, tick, mirror=True)
    for line in answers.bad:
        log.say(f"unreadable, left out: {line}")
    counted = (classes >= 0) & answers.sound
    if not counted.any():
        raise EvaluationError(f"{set_path}: none of the {len(pool)} faces carries an expression that {address} knows")
    probabilities, flipped = _probabilities(answers, counted)
    result = {
        "model": classifier.address,
        "weights": classifier.weights,
        "set": shard_set.name,
        "shards": shard_set.address or str(shard_set.path.resolve()),
        "fingerprint": shard_set.fingerprint,
        "split": {"file": str(drawn.path), "sha256": drawn.sha256, "list": list_name} if drawn else None,
        "left_out": {
            "unknown_expression": int((answers.sound & (classes < 0)).sum()),
            "unreadable": int((~answers.sound).sum()),
        },
        "warning": _warning(classifier, shard_set, drawn, list_name),
        **metrics.measure(probabilities, classes[counted], classifier.names),
        "flip": metrics.figures(flipped, classes[counted]),
        "votes": _votes([known[number] for number in np.flatnonzero(counted)], probabilities, classifier.names),
    }
    if result["warning"]:
        log.say(f"warning: {result['warning']}")
    numbers, true = np.flatnonzero(counted), classes[counted]
    if worst_file:
        worst.write(worst_file, f"{address} on {shard_set.name}", pool, numbers, probabilities, true, classifier.names)
    _write(out, result, [pool.keys[number] for number in numbers], {"": probabilities, "_flip": flipped}, true)
    return result


def summary(result: dict[str, Any]) -> list[str]:
    """The figures of `evaluate` as lines for a person."""

    def percent(figures: dict[str, Any], name: str) -> str:
        low, high = (100 * x for x in figures["intervals_95"][name])
        return f"{100 * figures[name]:.1f} %  ({low:.1f} to {high:.1f})"

    flip = result["flip"]
    lines = [f"faces      {result['samples']:,} of {result['set']}"]
    for name in ("accuracy", "uar", "macro_f1"):
        lines.append(f"{name:<10} {percent(result, name)}  with flip {percent(flip, name)}")
    lines.append(f"{'ece':<10} {100 * result['ece']:.1f} %  with flip {100 * flip['ece']:.1f} %")
    if votes := result["votes"]:
        lines.append(f"{'votes':<10} cross entropy {votes['cross_entropy']:.3f}, {votes['kl']:.3f} above the least")
    for name, row in result["per_class"].items():
        recall = "no faces" if row["recall"] is None else f"recall {100 * row['recall']:5.1f} % of {row['count']:,}"
        lines.append(f"  {name:<10} {recall}, predicted {row['predicted']:,} times")
    return lines


def _keys(shard_set: ShardSet, drawn: Split | None, list_name: str) -> list[str]:
    """The faces to be measured on."""
    if drawn is None:
        keys = [sample.key for sample in shard_set.samples_in_order() if sample.face and sample.face.expression]
        if not keys:
            raise EvaluationError(f"{shard_set.path}: no face of this set carries an expression; give a labeled set")
        return keys
    if list_name not in splits.LISTS:
        raise EvaluationError(f"--list {list_name}: a split holds the lists {', '.join(splits.LISTS)}")
    if not drawn.lists[list_name]:
        raise EvaluationError(f"{drawn.path}: its list {list_name!r} is empty; draw it with `fer-scale split`")
    return drawn.lists[list_name]


def _classifier(
    address: str, shard_set: ShardSet, drawn: Split | None, key: Path | None, crop_of: CropOf
) -> Classifier:
    if address.startswith("baseline:"):
        return _baseline(address, shard_set, drawn, crop_of)
    pulled = hub.pull(address, key=key)
    model, config = encoder.load(pulled.folder)
    if not config.get("label_names"):
        raise EvaluationError(f"{address}: is an encoder without expressions; run `fer-scale finetune` first")
    as_input, weights = Input.of(config["pretrained_cfg"]), artifact.sha256(pulled.folder / artifact.WEIGHTS)
    return Classifier(pulled.address, model, as_input, config["label_names"], trainings(config), weights)


def _baseline(name: str, shard_set: ShardSet, drawn: Split | None, crop_of: CropOf) -> Classifier:
    if name not in baselines.NAMES:
        raise EvaluationError(f"{name}: no such baseline; there are {', '.join(baselines.NAMES)}")
    if drawn is None:
        raise EvaluationError(f"{name}: learns from the labeled list of a split; give one with --split")
    pool, known, lost = labeled_pool(shard_set, drawn.lists["labeled"], slot_px=SLOT_PX, crop_of=crop_of)
    for line in lost:
        log.say(f"left out: {line}")
    names = targets.label_names(drawn.facts["class_counts"]["labeled"])
    classes = torch.from_numpy(targets.classes(known, names))
    model, as_input = baselines.train(name, pool, classes, len(names))
    trained_on = {"fingerprint": shard_set.fingerprint, "split": drawn.sha256, "crop_of": crop_of}
    return Classifier(name, model, as_input, names, (trained_on,))


def _warning(classifier: Classifier, shard_set: ShardSet, drawn: Split | None, list_name: str) -> str | None:
    """Why these figures may flatter the model: it may have seen the faces."""
    here = [trained for trained in classifier.trained_on if trained.get("fingerprint") == shard_set.fingerprint]
    if others := [trained for trained in here if splits.is_other(trained, shard_set, drawn)]:
        who = "the model" if others[0] is classifier.trained_on[0] else "what the model began with"
        return f"{who} was trained on faces of this set by another split than this: it may have seen these faces"
    return (
        f"the faces of the list {list_name!r} were used in making this model" if here and list_name != "test" else None
    )


def _probabilities(answers: apply.Answers, counted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Those of the counted faces [N, K]: of the pictures alone, and their mean with those of the mirror images."""
    assert answers.mirrored is not None
    seen, mirrored = (logits.double().softmax(dim=1).numpy()[counted] for logits in (answers.logits, answers.mirrored))
    return seen, (seen + mirrored) / 2


def _votes(known: list[Face], probabilities: Floats, names: list[str]) -> dict[str, float] | None:
    """How near the model comes to the annotators' votes, shared out as for training; None where no face has any."""
    voted = np.array([face.votes is not None for face in known])
    if not voted.any():
        return None
    shares = targets.matrix([face for face in known if face.votes is not None], names, "votes")
    return metrics.against_votes(probabilities[voted], shares.astype(np.float64))


def _write(
    out: Path, result: dict[str, Any], keys: list[str], by_way: dict[str, Floats], classes: NDArray[np.int64]
) -> None:
    """All files of an evaluation; metrics.json last, so where it stands the others do."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)  # of what is replaced now
    names = result["label_names"]
    for way, probabilities in by_way.items():
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["key", "expression", "predicted", "confidence", *names])
        for key, row, true in zip(keys, probabilities, classes, strict=True):
            table.writerow([key, names[true], names[row.argmax()], f"{row.max():.6f}", *(f"{p:.6f}" for p in row)])
        disk.put(out / f"predictions{way}.csv", text.getvalue())
    plots.confusion_matrix(np.array(result["confusion"]), names, out / "confusion_matrix.png")
    plots.reliability(result["reliability"], result["ece"], out / "reliability.png")
    plots.coverage(result["coverage"], result["aurc"], out / "coverage.png")
    disk.put(out / "metrics.json", json.dumps(result, indent=2) + "\n")
