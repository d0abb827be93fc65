"""A checkpoint -> a folder that anybody can load, with its card -> a folder or the Hub. No DeepSpeed, no GPU.

What may be published, and what comes of it:

    RUN of pre-training               the encoder of its newest checkpoint, or of `step`
    RUN/checkpoints/step_00012000     the encoder of that one
    RUN of fine-tuning, RUN/model     the expression model, with its evaluation
    a folder that publish wrote       itself, byte for byte

There is no default licence. Reconstructions show faces of the training data: they stay at home unless asked for.
"""

import json
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import artifact, card, checkpoint, encoder, hub, log
from shards.errors import UserError


class PublishError(UserError):
    """A run or folder that cannot be published as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """What goes into the folder: weights, config, and the facts of the card."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    title: str
    run: Path | None  # where recipe, metrics and pictures are, if they are known
    recipe: dict[str, Any]
    training: dict[str, str]
    pictures: dict[str, str]  # file in the run -> what it shows


def publish(
    source: Path,
    to: str,
    *,
    licence: str | None = None,
    title: str | None = None,
    step: int | None = None,
    private: bool = False,
    pictures: bool = False,
) -> str:
    """Publish `source` at the address `to`, and return the address; on the Hub with its commit.

    `licence` and `title` win over `card.license` and `card.title` of the recipe. `pictures` adds the reconstructions.
    """
    if (source / artifact.MANIFEST).is_file() and (source / artifact.WEIGHTS).is_file():
        if licence or title or step is not None or pictures:
            raise PublishError(
                f"{source}: was published already and goes on byte for byte, without new facts; edit its "
                f"{artifact.CARD}, or publish the run again"
            )
        encoder.read(source)
        return hub.push(source, to, message="Publish with fer_scale", private=private)
    model = _find(source, step)
    wanted = model.recipe.get("card", {})
    title = title or wanted.get("title") or model.title
    data = _json(model.run, "data.json") or []
    base = model.config["pretrained_cfg"].get("license")
    given = _licence(source, licence or wanted.get("license"), data, base)
    if base and base != given:
        log.say(f"note     the weights that training started from have the licence {base}: does it allow {given}?")
    with tempfile.TemporaryDirectory(prefix="fer_scale-") as scratch:
        folder = Path(scratch) / "model"
        with artifact.disk_errors(folder):
            _write(
                folder,
                model,
                data,
                licence=given,
                title=title,
                name=to.removeprefix("hf://").partition("@")[0] if hub.is_remote(to) else "ORG/NAME",
                pictures=pictures or bool(wanted.get("pictures")),
            )
        return hub.push(folder, to, message=f"Publish {title}", private=private)


def _licence(source: Path, given: str | None, data: list[dict[str, Any]], base: str | None) -> str:
    """The licence, which has no default: whoever publishes knows what the data allow, this program does not."""
    if given and given.strip():
        return given.strip()
    known = [f"{row.get('name')}: {row.get('licence') or 'unknown'}" for row in data]
    known += [f"the encoder that it started from: {base}"] if base else []
    hint = f" The licences it is made of: {'; '.join(known)}." if known else ""
    raise PublishError(
        f"{source}: no licence given, and there is no default. Add --licence, as --licence cc-by-nc-4.0, or "
        f"card.license to the recipe.{hint}"
    )


def _write(
    folder: Path,
    model: _Model,
    data: list[dict[str, Any]],
    *,
    licence: str,
    title: str,
    name: str,
    pictures: bool,
) -> None:
    """The finished folder, manifest last."""
    config = _config(model.config, licence)
    encoder.write(folder, model.state, config)
    encoder.load(folder)  # it fits what it says it is
    shown = dict(model.pictures)
    if pictures:
        shown["reconstructions.png"] = (
            "Reconstructions of training images: the image, what was visible, what was filled in"
        )
    there = {file: said for file, said in shown.items() if model.run and (model.run / file).is_file()}
    for file in there:
        assert model.run is not None
        shutil.copyfile(model.run / file, folder / Path(file).name)
    facts = card.Card(
        title=title,
        licence=licence,
        name=name,
        config=config,
        data=data,
        recipe=model.recipe,
        training=model.training,
        evaluation=_json(model.run, "evaluation/metrics.json"),
        pictures={Path(file).name: said for file, said in there.items()},
    )
    (folder / artifact.CARD).write_text(card.text(facts))
    artifact.seal(folder)


def _config(config: dict[str, Any], licence: str) -> dict[str, Any]:
    """config.json with the licence; of a base model in a folder only its name, for a path is nobody's business."""
    block = dict(config.get("fer_scale", {}))
    if (base := block.get("base_model")) and not hub.is_remote(base):
        block["base_model"] = Path(base).name
    return config | {"pretrained_cfg": config["pretrained_cfg"] | {"license": licence}, "fer_scale": block}


# ---- what the source is


def _find(source: Path, step: int | None) -> _Model:
    """The model that a run, a checkpoint or a model folder holds."""
    if not source.is_dir():
        raise PublishError(f"{source}: no such folder; give a run, one of its checkpoints, or a model folder")
    for folder, run in ((source / "model", source), (source, source.parent)):
        if (folder / artifact.WEIGHTS).is_file():
            if step is not None:
                raise PublishError(f"{source}: holds one finished model; --step is for runs of pre-training")
            return _finished(folder, run if (run / "recipe.toml").is_file() else None)
    if (source / "progress.json").is_file():
        if step is not None:
            raise PublishError(f"{source}: is one checkpoint; give the run instead, or leave --step out")
        return _encoder_of(source)
    return _encoder_of(_checkpoint_of(source, step))


def _checkpoint_of(run: Path, step: int | None) -> Path:
    """The newest complete checkpoint of a run, or that of a step."""
    steps = [int(place.name[5:]) for place in sorted((run / "checkpoints").glob("step_*")) if place.name[5:].isdigit()]
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


def _encoder_of(place: Path) -> _Model:
    """The encoder in a checkpoint of pre-training."""
    progress = checkpoint.progress_of(place)
    recipe = tomllib.loads(progress["recipe"])
    state, shape = _encoder_state(place), recipe["model"]
    begun = progress.get("start") or {"address": shape.get("start_from")}  # of a run from before it was recorded
    run = place.parent.parent if (place.parent.parent / "recipe.toml").is_file() else None
    sizes = {"image_px": shape["image_px"], "patch_px": shape["patch_px"]}
    model = encoder.build(shape["encoder"], **sizes)
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
        block=_block(progress, begun, _json(run, "data.json") or []),
    )
    return _Model(
        state=state,
        config=config,
        title=f"Masked autoencoder of faces, {shape['encoder']}, {shape['image_px']} px",
        run=run,
        recipe=recipe,
        training=_training(progress, recipe, run),
        pictures={"curves.png": "Loss, learning rate and speed over the steps"},
    )


def _encoder_state(place: Path) -> dict[str, Tensor]:
    """The encoder's tensors by timm's names; the decoder and Adam's moments stay behind."""
    state: dict[str, Tensor] = {}
    for file in checkpoint.state_files(place):  # one at a time: the moments are two thirds of the whole
        for key, value in checkpoint.read_state(place, file).items():
            if key[0] in "wfb" and key[2:].startswith("encoder."):
                state[key[2:].removeprefix("encoder.")] = value
    if not state:
        raise PublishError(f"{place}: holds no encoder; of fine-tuning, publish the run once it is done")
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise PublishError(f"{place}: NaN or infinite values in {', '.join(broken[:5])}; publish an earlier step")
    return state


def _training(progress: dict[str, Any], recipe: dict[str, Any], run: Path | None) -> dict[str, str]:
    """How far the training was at this checkpoint, and with which software."""
    facts = {"steps": f"{progress['step']:,}", "views": f"{progress['images']:,}"}
    rows = log.rows(run / "metrics.jsonl") if run else []
    losses = [row["loss"] for row in rows if row["step"] <= progress["step"] and row.get("loss") is not None]
    if losses:
        facts["last loss"] = f"{losses[-1]:.4f}"
    facts |= {"precision": recipe["run"]["precision"], "seed": str(recipe["run"]["seed"])}
    return facts | progress.get("versions", {})


def _block(progress: dict[str, Any], begun: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, Any]:
    """Our own facts in config.json; where the face lies in the training crops only if all sets agree on it."""
    block = {"step": progress["step"], "views": progress["images"]}
    named = {"base_model": "address", "base_licence": "licence", "base_adapted": "adapted"}
    block |= {said: begun[key] for said, key in named.items() if begun.get(key)}
    boxes = [row.get("template_box") for row in data]
    if boxes and boxes[0] and all(box == boxes[0] for box in boxes):
        block["face_box"] = boxes[0]
    return block


def _finished(folder: Path, run: Path | None) -> _Model:
    """The model in a folder without a card: what a run of fine-tuning leaves."""
    config, state = encoder.read(folder)
    if "pretrained_cfg" not in config:
        raise PublishError(
            f"{folder / 'config.json'}: no pretrained_cfg; only models that fer_scale made are published"
        )
    recipe = tomllib.loads((run / "recipe.toml").read_text()) if run else {}
    labels = config.get("label_names", [])
    px = config["pretrained_cfg"]["input_size"][-1]
    block = config.get("fer_scale", {})
    named = {"labels": "labeled images", "target": "target", "folded_temperature": "temperature, folded into the head"}
    training = {said: str(block[key]) for key, said in named.items() if key in block}
    if run and (rows := log.rows(run / "metrics.jsonl")):
        training |= {"steps": f"{rows[-1]['step']:,}"}
    if recipe.get("run"):
        training |= {name: str(recipe["run"][name]) for name in ("precision", "seed") if name in recipe["run"]}
    return _Model(
        state=state,
        config=config,
        title=f"Facial expressions, {len(labels)} classes, {px} px" if labels else f"Face encoder, {px} px",
        run=run,
        recipe=recipe,
        training=training,
        pictures={
            "curves.png": "Loss, learning rate and speed over the steps",
            "evaluation/confusion_matrix.png": "True against predicted expressions",
            "evaluation/reliability.png": "Accuracy against confidence",
        },
    )


def _json(run: Path | None, name: str) -> Any:
    """What a JSON file of the run says, or None where there is none."""
    place = run / name if run else None
    if place is None or not place.is_file():
        return None
    try:
        return json.loads(place.read_text())
    except ValueError as error:
        raise PublishError(f"{place}: not JSON ({error}); mend it or remove it") from None
