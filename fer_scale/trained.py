"""What training left to be published: the model that a run, one of its checkpoints, or a model folder holds.

A run may go on meanwhile. Only files are read that are whole once they are there; a checkpoint that the run deletes
while it is read is an error of its own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_scale import artifact, card_facts, checkpoint, decoder, encoder, log, model_config, plots, tensors
from fer_scale.card_facts import Facts
from fer_scale.config import of_checkpoint as recipe_of_checkpoint
from fer_scale.markdown import one_line
from shards.errors import UserError

_PROGRESS = ("recipe", "step", "images")  # what is read of progress.json,
_SHAPE = ("encoder", "image_px", "patch_px", "mean", "std")  # and of its recipe's section model
_TRIES = 3  # of the newest checkpoint, while the run replaces it


class PublishError(UserError):
    """A run or folder that cannot be published as it is."""


class Pruned(PublishError):
    """A checkpoint that the run has deleted while it was read: publish a newer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model, and what is known of it: weights, config.json, and the facts of the card."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    title: str
    facts: Facts
    decoder: dict[str, Tensor] = field(default_factory=dict)
    step: int | None = None  # of pre-training
    pictures: dict[Path, str] = field(default_factory=dict)  # files of the run -> what they show
    reconstructions: Path | None = None  # of this step, where they are there


def find(source: Path, step: int | None, with_decoder: bool | None) -> Trained:
    """The model that a run, a checkpoint or a model folder holds; its decoder as the run's recipe says, if None."""
    if not source.is_dir():
        raise PublishError(f"{source}: no such folder; give a run, one of its checkpoints, or a model folder")
    for folder, run in ((source / "model", source), (source, source.parent)):
        if (folder / artifact.WEIGHTS).is_file():
            if step is not None or with_decoder:
                what = "--step is" if step is not None else "a decoder is"
                raise PublishError(f"{source}: holds one finished model; {what} for runs of pre-training")
            return _finished(folder, run if (run / "recipe.toml").is_file() else None)
    if (source / "progress.json").is_file():
        if step is not None:
            raise PublishError(f"{source}: is one checkpoint; give the run instead, or leave --step out")
        return _of_checkpoint(source, with_decoder)
    for attempt in range(_TRIES):
        try:
            return _of_checkpoint(_checkpoint_of(source, step), with_decoder)
        except Pruned:
            if step is not None or attempt == _TRIES - 1:
                raise
    raise AssertionError


def _checkpoint_of(run: Path, step: int | None) -> Path:
    """The newest complete checkpoint of a run, or that of a step."""
    steps = sorted(map(checkpoint.step_of, checkpoint.complete(run)))
    if not steps:
        raise PublishError(f"{run}: no checkpoint, and no model; give a run, one of its checkpoints, or a model folder")
    if step is None:
        newest, passed = checkpoint.newest(run)
        for line in passed:
            log.say(f"passed over: {line}")
        if newest is None:
            raise PublishError(f"{run}: none of its checkpoints is complete; start the run again, it goes on")
        return newest
    if step not in steps:
        raise PublishError(f"{run}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return checkpoint.folder_of(run, step)


def _of_checkpoint(place: Path, with_decoder: bool | None) -> Trained:
    """The encoder in a checkpoint of pre-training, and its decoder where it is asked for."""
    try:
        progress = checkpoint.progress_of(place)
        recipe = recipe_of_checkpoint(progress, place) if "recipe" in progress else {}
        if with_decoder is None:
            with_decoder = "decoder" in str(recipe.get("publish", {}).get("parts", ""))
        whole = _weights(place, with_decoder)
    except (OSError, UserError) as error:
        if not (place / "manifest.json").exists():
            raise Pruned(f"{place}: was deleted while it was read; publish a newer step ({error})") from None
        if isinstance(error, OSError):
            raise PublishError(f"{place}: cannot be read ({error.strerror}); publish another step") from None
        raise
    run = place.parent.parent if (place.parent.parent / "recipe.toml").is_file() else None
    _refuse_unsaid(place, progress, recipe)
    facts = card_facts.of_checkpoint(run, progress)
    shape = facts.recipe["model"]
    begun = progress.get("start") or {"address": shape.get("start_from")}  # of a run from before it was recorded
    sizes = {"image_px": shape["image_px"], "patch_px": shape["patch_px"]}
    model = encoder.build(shape["encoder"], **sizes)
    state = {name.removeprefix("encoder."): tensor for name, tensor in whole.items() if name.startswith("encoder.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PublishError(f"{place}: its tensors are not those of a {shape['encoder']}: {error}") from None
    config = encoder.make_config(
        model,
        encoder.model_args(shape["encoder"], **sizes),
        image_px=shape["image_px"],
        mean=shape["mean"],
        std=shape["std"],
        licence=begun.get("licence"),
        block=_block(progress, begun, facts.data) | _sets("data", facts.data),
    )
    return Trained(
        state=state,
        config=config,
        title=f"Masked autoencoder of faces, {shape['encoder']}, {shape['image_px']} px",
        facts=facts,
        decoder=decoder.of(whole),
        step=progress["step"],
        reconstructions=_reconstructions(run, place),
    )


def _refuse_unsaid(place: Path, progress: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Refuse a checkpoint of another version, which does not say what a model is made from."""
    missing = [key for key in _PROGRESS if key not in progress]
    missing += [
        f"model.{key} of its recipe" for key in _SHAPE if "recipe" in progress and key not in recipe.get("model", {})
    ]
    if missing:
        raise PublishError(
            f"{place / 'progress.json'}: does not say {', '.join(missing)}; publish it by the version that wrote it"
        )


def _reconstructions(run: Path | None, place: Path) -> Path | None:
    """The run's picture, where it is of this checkpoint: none is made as a run stops."""
    file = run / "reconstructions.png" if run else None
    return file if file and plots.step_of(file) == checkpoint.step_of(place) else None


def _weights(place: Path, with_decoder: bool) -> dict[str, Tensor]:
    """The encoder's tensors and, if asked for, the decoder's; every file is hashed, and the rest of it not loaded."""
    state: dict[str, Tensor] = {}
    for name, sha256 in checkpoint.manifest(place).items():
        if not name.startswith("state-"):
            continue
        if artifact.sha256(place / name) != sha256:
            raise PublishError(f"{place / name}: damaged (another sha256 than its manifest's); publish another step")
        stored = {key[2:]: at for key, at in tensors.stored(place / name).items() if key[0] in "wfb"}
        state |= {key: at.read() for key, at in stored.items() if with_decoder or key.startswith("encoder.")}
    if not any(name.startswith("encoder.") for name in state):
        raise PublishError(f"{place}: holds no encoder; of fine-tuning, publish the run once it is done")
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        said = ", ".join(name.removeprefix("encoder.") for name in broken[:5])
        raise PublishError(f"{place}: NaN or infinite values in {said}; publish an earlier step")
    return state


def _block(progress: dict[str, Any], begun: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, Any]:
    """Our own facts in config.json; where the face lies in the training crops only if all sets agree on it."""
    block = {"step": progress["step"], "views": progress["images"]}
    named = {"base_model": "address", "base_licence": "licence", "base_adapted": "adapted"}
    block |= {said: begun[key] for said, key in named.items() if begun.get(key)}
    block |= {"base_data": begun["data"]} if "data" in begun else {}
    boxes = [row.get("template_box") for row in data]
    if boxes and model_config.is_box(boxes[0]) and all(box == boxes[0] for box in boxes):
        block["face_box"] = boxes[0]
    return block


def _sets(key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Names and licences of data sets under a key of our block, for the cards of what is made from this model."""
    named = [{key: one_line(row.get(key) or "unknown")[:200] for key in ("name", "licence")} for row in rows]
    return {key: named[: model_config.MOST_SETS]} if named else {}


def _data_of_base(block: dict[str, Any]) -> dict[str, Any]:
    """What the base model, if it is here, says that it was trained on: of runs that did not write it down."""
    base = Path(str(block.get("base_model") or ""))
    if "base_data" in block or not block.get("base_model") or not (base / artifact.WEIGHTS).is_file():
        return {}
    try:
        before = encoder.config_of(base).get("fer_scale", {})
    except (UserError, OSError) as error:
        log.say(f"note     what {base} was trained on is not known: {error}")
        return {}
    return {"base_data": known} if (known := model_config.data_of({"fer_scale": before})) else {}


def _finished(folder: Path, run: Path | None) -> Trained:
    """The model in a folder without a card: what a run of fine-tuning leaves."""
    config, state = encoder.read(folder)
    if missing := [key for key in ("input_size", "mean", "std") if key not in config.get("pretrained_cfg", {})]:
        raise PublishError(
            f"{folder / 'config.json'}: its pretrained_cfg does not say {', '.join(missing)}; only models that "
            "fer_scale made are published"
        )
    with torch.device("meta"):
        config["num_features"] = int(encoder.create(folder, config).num_features)  # type: ignore[arg-type]
    config["fer_scale"] = (block := config.get("fer_scale", {})) | _data_of_base(block)
    labels, px = config.get("label_names", []), config["pretrained_cfg"]["input_size"][-1]
    measured = {
        "confusion_matrix.png": "True against predicted expressions",
        "reliability.png": "Accuracy against confidence",
        "coverage.png": "Accuracy over the share of the images that are answered, the surest first",
    }
    facts = card_facts.of_finished(run, config)
    config["fer_scale"] |= _sets("data", facts.data)
    return Trained(
        state=state,
        config=config,
        title=f"Facial expressions, {len(labels)} classes, {px} px" if labels else f"Face encoder, {px} px",
        facts=facts,
        pictures={run / "evaluation" / file: said for file, said in measured.items()}
        if run and facts.evaluation
        else {},
    )
