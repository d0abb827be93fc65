"""A checkpoint -> a folder that anybody can load, with its card -> a folder or the Hub. No DeepSpeed, no GPU.

What may be published, and what comes of it:

    RUN of pre-training               the encoder of its newest checkpoint, or of `step`; with its decoder if asked for
    RUN/checkpoints/step_00012000     those of that one
    RUN of fine-tuning, RUN/model     the expression model, with its evaluation
    a folder that publish wrote       itself, byte for byte, but for its name on the Hub in the card

There is no default licence, and nothing is published whose data are unknown. Reconstructions show faces of the training
data: they stay at home unless asked for. A run may go on meanwhile: only files are read that are whole once they are
there, and a step gives the same bytes whenever it is published by the same program, but for the reconstructions, of
which a run keeps its newest alone.
"""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_scale import artifact, card, card_words, decoder, encoder, front_matter, hub, log, plots, scratch, signature
from fer_scale.card_overlap import sentences
from fer_scale.markdown import one_line
from fer_scale.trained import Pruned as Pruned  # part of this file's face
from fer_scale.trained import PublishError, Trained, find
from shards.errors import UserError

PARTS = ("encoder", "decoder")
_LONGEST = 200  # characters of a licence in config.json
_GIVER = "whoever gave you this folder"  # to be written to, where no contact is given
_KEPT = (  # of a stranger's config.json, and of its pretrained_cfg
    "architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg", "fer_scale",
    "label_names",
)  # fmt: skip
_KEPT_PRETRAINED = (
    "tag", "custom_load", "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "num_classes", "pool_size", "first_conv", "classifier", "license",
)  # fmt: skip
_SHOWN = "Reconstructions of training images: the image, what was visible, what was filled in"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the publisher says; what is None or empty is taken from the recipe's section [card]."""

    licence: str | None = None
    title: str | None = None
    contact: str = ""
    sources: Sequence[str] = ()  # of the data
    overlap: Sequence[str] = ()  # sentences on test faces that lie in the data
    pictures: bool = False


def publish(
    source: Path,
    to: str,
    *,
    licence: str | None = None,
    title: str | None = None,
    step: int | None = None,
    private: bool = False,
    pictures: bool = False,
    parts: Collection[str] = (),
    contact: str | None = None,
    data: Sequence[str] = (),
    overlap: Sequence[Path] = (),
    sign: Path | None = None,
) -> str:
    """Publish `source` at the address `to`, and return the address; on the Hub with its commit.

    `licence`, `title`, `contact` and `data`, which states sources that the run does not know, win over the keys of the
    recipe's section card. `pictures` adds the reconstructions. `parts` are the encoder and, perhaps, the decoder; if
    empty, what the run itself publishes. `sign` is a private key to sign by.
    `overlap` are reports of `fer-scale overlap`, which the card tells of.
    """
    if unknown := sorted({*parts} - {*PARTS}) or ["no encoder"] * (bool(parts) and "encoder" not in parts):
        named = ", ".join(name or "a name is missing" for name in unknown)
        raise PublishError(f"--parts: {named}: write encoder, or encoder,decoder")
    if not hub.is_remote(to):
        artifact.refuse_to_replace(Path(to))
    if artifact.published(source):
        if licence or title or step is not None or pictures or contact or data or overlap or len(parts) > 1:
            raise PublishError(
                f"{source}: was published already and goes on byte for byte, without new facts; edit its "
                f"{artifact.CARD}, or publish the run again"
            )
        return _go_on(source, to, private, sign)
    model = find(source, step, "decoder" in parts if parts else None)
    if "decoder" in parts and not model.decoder:
        raise PublishError(f"{source}: its checkpoint holds no decoder; leave --parts out")
    wanted = model.facts.recipe.get("card", {})
    asked = Asked(
        licence=_licence(source, licence or wanted.get("license"), model),
        title=next(filter(None, map(one_line, (title or "", wanted.get("title") or "", model.title)))),
        contact=one_line(contact or wanted.get("contact") or ""),
        sources=[*filter(None, map(one_line, data or wanted.get("data", ())))],
        overlap=sentences(overlap, model.facts.data),
        pictures=pictures or bool(wanted.get("pictures")),
    )
    _refuse_unknown_data(source, model, asked)
    if not hub.is_remote(to) and to.count("/") == 1 and not Path(to).parent.exists():
        log.say(f"note     {to} is a folder here; a repository of the Hub is written hf://{to}")
    if hub.is_remote(to):
        _say_what_is_missing(model, asked, signed=bool(sign))
    with scratch.folder() as made:
        folder = made / "model"
        with artifact.disk_errors(folder):
            _write(folder, model, asked, to)
        if sign:
            signature.sign(folder, sign)
        message = f"Publish {asked.title}" + (f", step {model.step:,}" if model.step is not None else "")
        return _push(folder, to, message, private)


def _go_on(folder: Path, to: str, private: bool, sign: Path | None) -> str:
    """Send a folder that was published already, whose card somebody may have edited."""
    encoder.read(folder)
    readme = folder / artifact.CARD
    said = readme.read_text(encoding="utf-8", errors="replace")
    try:
        front_matter.check(said)
    except UserError as error:
        raise PublishError(f"{readme}: {error}") from None
    named = _named(said, to)
    if sign is None and named == said:
        return _push(folder, to, "Publish with fer_scale", private, card=True)
    artifact.refuse_foreign(folder)
    with scratch.folder() as made:
        (copy := made / "model").mkdir()
        with artifact.disk_errors(copy):
            for name, path in artifact.files(folder).items():
                shutil.copyfile(path, copy / name)
            if named != said:
                (copy / artifact.CARD).write_text(named, encoding="utf-8")
        if sign:
            signature.sign(copy, sign)
        return _push(copy, to, "Publish with fer_scale" + (", signed" if sign else ""), private, card=True)


def _named(card: str, to: str) -> str:
    """The card of a model that was in a folder until now, with its name on the Hub, and where to write to there."""
    if not hub.is_remote(to):
        return card
    for before in ("hf-hub:", "hf://", '"', "`"):
        card = card.replace(f"{before}ORG/NAME", f"{before}{_name(to)}")
    return card.replace(f"Write to {_GIVER},", f"Write to {_page(_name(to))},")


def _name(to: str) -> str:
    return to.removeprefix("hf://").partition("@")[0] if hub.is_remote(to) else "ORG/NAME"


def _page(name: str) -> str:
    return f"the discussions of this repository, https://huggingface.co/{name}/discussions"


def _push(folder: Path, to: str, message: str, private: bool, *, card: bool = False) -> str:
    """Send the folder; its address. A card there that was edited by hand stays with the same model, unless `card`."""
    if not hub.is_remote(to):
        hub.push(folder, to, message=message, card=card)
        there = Path(to) / artifact.CARD
        with artifact.disk_errors(there):
            if there.read_bytes() != (folder / artifact.CARD).read_bytes():
                log.say(f"note     {there} stays as it is, for nothing else differs; another folder gets a new one")
        return to
    with log.progress(f"publishing to {to}", "bytes") as tick:
        return hub.push(folder, to, message=message, private=private, card=card, progress=tick)


def _licence(source: Path, given: str | None, model: Trained) -> str:
    """The licence, which has no default: whoever publishes knows what the data allow, this program does not."""
    base = model.config["pretrained_cfg"].get("license")
    if given and (said := one_line(given)):
        if front_matter.is_no_licence(said):
            raise PublishError(
                f"{source}: {said!r} is no licence; give the name of one, as cc-by-nc-4.0, or say what is "
                "allowed in words, as 'Non-commercial research only'"
            )
        hubs = front_matter.licence(said)["license"]
        said = said if hubs == "other" else hubs
        if base and base != said:
            log.say(f"note     the weights that training started from have the licence {base}: does it allow {said}?")
        return said
    known = [f"{row.get('name')}: {row.get('licence') or 'unknown'}" for row in model.facts.data]
    known += [f"the encoder that it started from: {base}"] if base else []
    hint = f" The licences it is made of: {'; '.join(known)}." if known else ""
    raise PublishError(
        f"{source}: no licence given, and there is no default. Add --licence, as --licence cc-by-nc-4.0"
        f"{_or_key(model, 'license')}.{hint}"
    )


def _refuse_unknown_data(source: Path, model: Trained, asked: Asked) -> None:
    """A model whose data nobody states is not published."""
    if not (model.facts.data or asked.sources):
        raise PublishError(
            f"{source}: which data it was trained on is not known here (no data.json of its run). State each set with "
            f"--data, as --data 'NAME, LICENCE, how it was obtained'{_or_key(model, 'data')}"
        )


def _say_what_is_missing(model: Trained, asked: Asked, *, signed: bool) -> None:
    """What strangers will look for in the card, and not find; and a signature, if they are used to it."""
    if unknown := [row.get("name", "?") for row in model.facts.data if row.get("licence") in (None, "", "unknown")]:
        log.say(f"note     the licence of the images is not known of: {', '.join(unknown)}; the card says so")
    if not asked.contact:
        log.say(f"note     nobody is named to write to: add --contact ADDRESS{_or_key(model, 'contact')}")
    if not signed and model.facts.recipe.get("publish", {}).get("sign"):
        # Not by that key unasked: the folder may be a stranger's.
        log.say("note     the run signs what it publishes (publish.sign), and this is not signed: add --sign KEY")


def _or_key(model: Trained, key: str) -> str:
    """For a message: the recipe's key that says the same, where its recipe has the section."""
    return f", or card.{key} to the recipe" if "card" in model.facts.recipe else ""


# ---- the folder


def _write(folder: Path, model: Trained, asked: Asked, to: str) -> None:
    """The finished folder, manifest last."""
    assert asked.licence and asked.title
    remote = hub.is_remote(to)
    name = _name(to)
    config = _config(model, asked.licence)
    encoder.write(folder, model.state, config)
    encoder.load(folder)  # it fits what it says it is
    if model.decoder:
        decoder.write(folder, model.decoder)
    readme = card.text(
        card.Card(
            title=asked.title,
            licence=asked.licence,
            name=name,
            config=config,
            facts=model.facts,
            sources=asked.sources,
            overlap=asked.overlap,
            contact=asked.contact or (_page(name) if remote else _GIVER),
            pictures=_draw(folder, model, asked.pictures),
            decoder=bool(model.decoder),
            parameters=sum(tensor.numel() for tensor in model.state.values()),
        )
    )
    front_matter.check(readme)
    (folder / artifact.CARD).write_text(readme, encoding="utf-8")
    if front_matter.licence(asked.licence).get("license_link") == "LICENSE":
        text = card_words.LICENCE_FILE.format(licence=asked.licence)
        (folder / "LICENSE").write_text(text, encoding="utf-8")
    artifact.seal(folder)


def _config(model: Trained, licence: str) -> dict[str, Any]:
    """config.json with the licence; of a base model in a folder only its name, for a path is nobody's business."""
    block = dict(model.config.get("fer_scale", {}))
    if (base := block.get("base_model")) and not hub.is_remote(base):
        block["base_model"] = Path(base).name.strip(".") or "a folder"
    if model.decoder:
        block["decoder"] = decoder.facts(model.facts.recipe["model"])
    kept = {key: value for key, value in model.config.items() if key in _KEPT}
    pretrained = {key: value for key, value in model.config["pretrained_cfg"].items() if key in _KEPT_PRETRAINED}
    pretrained |= {"custom_load": False, "license": licence[:_LONGEST]}
    return kept | {"pretrained_cfg": pretrained, "fer_scale": block}


def _draw(folder: Path, model: Trained, faces: bool) -> dict[str, str]:
    """The pictures of the card, in the folder: file -> what it shows. Curves are drawn anew, up to this step."""
    shown = {}
    if any(isinstance(row.get("loss"), int | float) for row in model.facts.rows):
        plots.curves(model.facts.rows, folder / "curves.png")
        shown["curves.png"] = "Loss, learning rate and speed over the steps"
    wanted = {file: said for file, said in model.pictures.items() if file.is_file()}
    if faces and model.reconstructions:
        wanted[model.reconstructions] = _SHOWN
    for file, said in wanted.items():
        shutil.copyfile(file, folder / file.name)
        shown[file.name] = said
    return shown
