"""The model card: what a published model is, what it was made of, what it must not be used for.

Text in, text out; card_facts.py collects the facts, card_words.py has what is the same in all cards. Paths and names of
the machine that trained never reach a card: of the recipe only the sections are shown that change the mathematics.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fer_scale import card_evaluation, card_overlap, card_words, front_matter
from fer_scale.card_facts import Facts
from fer_scale.config import as_toml
from fer_scale.markdown import code, inline, table

_SECTIONS = ("model", "augment", "batch", "optim", "facemix", "supervised", "semi")  # of a recipe; no paths in them
_PATHS = ("start_from", "start_key")  # but for these keys
_LAYOUTS = {"folder": "a folder of pictures", "tar": "tars", "recordio": "a RecordIO file", "parquet": "parquet files"}
_OF_RUN = ("steps", "epochs", "seed", "precision", "reduce_dtype")  # no paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a card is written from."""

    title: str
    licence: str
    name: str  # ORG/NAME, or a placeholder where the model goes to a folder
    config: dict[str, Any]
    facts: Facts
    sources: Sequence[str] = ()  # of the data, as the publisher states them beside those of the facts
    overlap: Sequence[str] = ()  # sentences on test faces that lie in the data
    contact: str = ""  # where to write to
    pictures: dict[str, str] = field(default_factory=dict)  # file -> what it shows
    decoder: bool = False  # whether it is published too
    parameters: int = 0  # of the network; 0: not counted

    @property
    def labels(self) -> list[str]:
        return list(self.config.get("label_names", ()))

    @property
    def block(self) -> dict[str, Any]:
        """Our own facts in config.json."""
        return self.config.get("fer_scale", {})

    @property
    def base_model(self) -> str | None:
        """The address of the model that this one's training started from."""
        return self.block.get("base_model")


def text(card: Card) -> str:
    """The whole README.md."""
    what = card_words.WHAT_EXPRESSION if card.labels else card_words.WHAT_ENCODER
    pictures = (f"![{inline(said)}]({file})" for file, said in card.pictures.items())
    sections = {
        "Use": _usage(card),
        "Intended use and limits": card_words.LIMITS,
        "Data": _data(card),
        "Training": _training(card),
        "Evaluation": card_evaluation.section(card.facts.evaluation, card.facts.data)
        if card.labels
        else "Not measured on any task by itself.",
        "Pictures": "\n\n".join(pictures),
        "Licence": _licence(card),
        "Contact and take-down": card_words.CONTACT.format(where=where) if (where := inline(card.contact)) else "",
        "Provenance": table(["of", "hash or version"], card.facts.provenance.items()) if card.facts.provenance else "",
    }
    parts = [f"# {inline(card.title)}", what + _origin(card)]
    parts += [f"## {head}\n\n{body}" for head, body in sections.items() if body]
    return front_matter.written(metadata(card)) + "\n" + "\n\n".join(parts) + "\n"


# ---- the front matter


def metadata(card: Card) -> dict[str, Any]:
    """What the Hub indexes: ids of data sets and of the base model only where they are those of repositories there."""
    found: dict[str, Any] = front_matter.licence(card.licence) | {
        "library_name": "timm",
        "pipeline_tag": "image-classification" if card.labels else "image-feature-extraction",
        "tags": ["timm", "transformers", "fer_scale", "face", "facial-expression-recognition"],
    }
    found["tags"] += [] if card.labels else ["masked-autoencoder"]
    if match := re.fullmatch(r"hf://([^@]+)(@.*)?", card.base_model or ""):
        found |= {"base_model": match[1], "base_model_relation": "finetune"}
    addresses = [str(row.get("address") or "") for row in card.facts.data] + [*card.sources]
    names = [match[1] for address in addresses if (match := re.match(r"hf://datasets/([\w.-]+/[\w.-]+)", address))]
    if names:
        found["datasets"] = list(dict.fromkeys(names))
    if card.labels and (index := card_evaluation.model_index(card.facts.evaluation, card.title)):
        found |= {"metrics": [metric["type"] for metric in index["results"][0]["metrics"]], "model-index": [index]}
    return found


# ---- the sections


def _origin(card: Card) -> str:
    """What stands below the first sentence: calibration, and the model that training started from."""
    more = ""
    if card.labels and card.block.get("folded_temperature", 1) != 1:
        given = card.block.get("temperature_from") == "given"
        how = "by one temperature that was given, not fitted here" if given else "(one temperature) on held-out images"
        more += f" Its probabilities were calibrated {how}; the temperature is part of the weights."
    if base := card.base_model:  # of a folder, only its name: a path is nobody's business
        name = _name_of(base)
        licence, adapted = card.block.get("base_licence"), card.block.get("base_adapted")
        more += f"\n\nTraining started from {code(name)}"
        more += f", whose licence is {inline(licence)}." if licence else "."
        more += f" Its weights were resampled for this size: {inline(adapted)}." if adapted else ""
    return more


def _name_of(base: str) -> str:
    return base if base.startswith("hf://") else base.rstrip("/").rsplit("/", 1)[-1]


def _usage(card: Card) -> str:
    px, name = card.config["pretrained_cfg"]["input_size"][-1], card.name
    face = 'Image.open("face.jpg").convert("RGB")'
    if card.labels:
        last = f"probabilities = model(transform({face})[None]).softmax(1)[0]"
        task, call = "image-classification", f"print(pipe({face}))"
    else:
        last = f"features = model(transform({face})[None])  # [1, {card.config['num_features']}]"
        task, call = "image-feature-extraction", f"features = pipe({face}, pool=True)"
    said = card_words.USAGE.format(
        name=name,
        px=px,
        timm=card_words.TIMM.format(name=name, last=last),
        transformers=card_words.TRANSFORMERS.format(name=name, task=task, last=call),
    )
    if card.labels:
        names = ", ".join(map(code, card.labels))
        said += f'\n\nThe probabilities are of {names}, in this order (`model.pretrained_cfg["label_names"]`).'
    said += _crop(card)
    more = [card_words.PREDICT if card.labels else card_words.FINETUNE]
    more += [card_words.DECODER] if card.decoder else []
    return "\n\n".join([said, *(words.format(name=name) for words in [*more, card_words.VERIFY])])


def _crop(card: Card) -> str:
    box = card.block.get("face_box")
    if not box:
        return "\n\nHow the face lay in the training crops is not recorded; other crops than those cost accuracy."
    place = ", ".join(f"{value:.2f}" for value in box)
    return (
        f"\n\nIn the training crops the face's box lay at ({place}): left, top, right, bottom, in shares of the crop. "
        "Crop alike: other margins cost accuracy."
    )


def _data(card: Card) -> str:
    parts = []
    if card.facts.data:
        parts.append(_sets(card.facts.data))
        parts += [line for row in card.facts.data if (line := _labels(row))]
    if card.sources:
        parts.append("As their publisher states them:\n\n" + "\n".join(f"- {inline(said)}" for said in card.sources))
    if base := _data_of_base(card):
        parts.append(base)
    parts += card.overlap or [card_overlap.NOT_EXAMINED]
    named = [f"{row.get('name')} {row.get('source')}" for row in card.facts.data]
    named += [str(row.get("name")) for row in card.block.get("base_data", ())]
    said = " ".join([*named, *card.sources]).lower()
    parts += [terms for words, terms in card_words.TERMS.items() if re.search(words, said)]
    but = ", but for the pictures below" if "reconstructions.png" in card.pictures else ""
    return "\n\n".join([*parts, card_words.CONSENT.format(but=but).strip()])


def _data_of_base(card: Card) -> str:
    """What the weights were trained on that this training started from."""
    if not card.base_model:
        return ""
    who = "Its encoder was" if card.labels else "The weights that it started from were"
    if known := card.block.get("base_data"):
        sets = ", ".join(f"{inline(row['name'])} (licence of the images: {inline(row['licence'])})" for row in known)
        return f"{who} trained on {sets}."
    there = card.base_model.startswith("hf://")  # a folder's name leads nobody to its card
    return (card_words.UNKNOWN_BASE if there else card_words.UNRECORDED_BASE).format(
        who=who, name=code(_name_of(card.base_model))
    )


def _sets(data: Sequence[dict[str, Any]]) -> str:
    head = ["set", "images", "left out", "licence of the images", "obtained", "fingerprint"]
    rows = [
        [
            str(row.get("name", "?")),
            f"{row.get('samples') or 0:,}",
            f"{row.get('excluded') or 0:,}",
            str(row.get("licence") or "unknown"),
            _obtained(row),
            str(row.get("fingerprint", ""))[:12],
        ]
        for row in data
    ]
    if any(row.get("weight") for row in data):  # sets that were mixed by weights
        head.insert(1, "of each batch")
        for cells, row in zip(rows, data, strict=True):
            cells.insert(1, f"{100 * (row.get('weight') or 0):.4g} %")
    return table(head, rows)


def _obtained(row: dict[str, Any]) -> str:
    """Where the set came from, as far as its index says; an address in somebody's own store is nobody's business."""
    address = str(row.get("address") or "")
    if address.startswith("hf://"):
        return address
    layout = str(row.get("source", "?"))
    return f"packed from {_LAYOUTS.get(layout, f'the published files of {layout}')}"


def _labels(row: dict[str, Any]) -> str:
    """How many labels of a set were trained on, and of which expressions."""
    counts = (row.get("class_counts") or {}).get("labeled") or {}
    if not isinstance(counts, dict) or not counts or not all(type(count) is int for count in counts.values()):
        return ""
    each = ", ".join(f"{inline(name)} {count:,}" for name, count in counts.items())
    return f"Labels of {inline(str(row.get('name', '?')))} that were trained on: {sum(counts.values()):,} ({each})."


def _training(card: Card) -> str:
    tables = {"training": _network(card) | card.facts.training, "compute": card.facts.compute}
    parts = [table([head, ""], facts.items()) for head, facts in tables.items() if facts]
    lines = []
    for section in (*_SECTIONS, "run"):
        body = card.facts.recipe.get(section, {})
        body = {key: value for key, value in body.items() if key not in _PATHS and not _is_path(value)}
        if section == "run":
            body = {key: body[key] for key in _OF_RUN if key in body}
        if body:
            lines += [f"[{section}]", *(f"{key} = {as_toml(value)}" for key, value in body.items()), ""]
    if lines:
        parts.append("```toml\n" + "\n".join(lines).strip().replace("```", "'''") + "\n```")
    else:
        parts.append("The recipe is not recorded beside these weights.")
    return "\n\n".join(parts)


def _network(card: Card) -> dict[str, str]:
    """The row on the network: a ViT's sizes, or timm's name of another."""
    args, shape = card.config.get("model_args", {}), ("embed_dim", "depth", "num_heads")
    said = str(card.config.get("architecture", ""))
    if said.startswith("vit") and all(key in args for key in (*shape, "patch_size")):
        patch = args["patch_size"] if isinstance(args["patch_size"], int) else args["patch_size"][0]
        said = f"ViT {'x'.join(str(args[key]) for key in shape)} (width, depth, heads), patches of {patch} px"
    counted = f", {card.parameters:,} parameters" if card.parameters else ""
    return {"network": said + counted} if said else {}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("/", "~", "./", "../"))


def _licence(card: Card) -> str:
    base = card.block.get("base_licence")
    also = f" and that of the weights it started from ({inline(base)})" if base else ""
    said = f"{inline(card.licence.rstrip('. '))}. The licences of the data (above){also} may ask for more."
    if unknown := [
        inline(row.get("name", "?")) for row in card.facts.data if row.get("licence") in (None, "", "unknown")
    ]:
        said += f" None is known of the images of {', '.join(unknown)}: ask their publisher before you use this model."
    return said
