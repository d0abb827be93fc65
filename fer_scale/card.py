"""The model card: what a published model is, what it was made of, what it must not be used for.

Text in, text out; publish.py collects the facts. The front matter is what the Hub indexes. Paths and names of the
machine that trained never reach a card: of the recipe only the sections are shown that change the mathematics.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# What the Hub knows by its own name; any other licence is `other` with its text as the name.
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "openrail", "creativeml-openrail-m", "bigscience-openrail-m",
}  # fmt: skip
_SECTIONS = ("model", "augment", "batch", "optim", "facemix", "supervised", "semi")  # of a recipe; no paths in them
_PATHS = ("start_from",)  # but for this key
_MEASURES = {
    "accuracy": "accuracy",
    "uar": "mean recall of the classes (uar)",
    "macro_f1": "macro F1",
    "ece": "calibration error (ece)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """The facts of a card."""

    title: str
    licence: str
    name: str  # ORG/NAME, or a placeholder where the model goes to a folder
    config: dict[str, Any]
    data: Sequence[dict[str, Any]] = ()  # rows of data.json
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, str] = field(default_factory=dict)  # what -> how much
    evaluation: dict[str, Any] | None = None  # metrics.json
    pictures: dict[str, str] = field(default_factory=dict)  # file -> what it shows

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
    what = _WHAT_EXPRESSION if card.labels else _WHAT_ENCODER
    sections = [
        f"# {card.title}",
        what + _origin(card),
        "## Use\n\n" + _usage(card),
        "## Data\n\n" + _data(card),
        "## Training\n\n" + _training(card),
    ]
    if card.evaluation:
        sections.append("## Evaluation\n\n" + _evaluation(card))
    if card.pictures:
        sections.append("## Pictures\n\n" + "\n\n".join(f"![{said}]({file})" for file, said in card.pictures.items()))
    sections += [_LIMITS, "## Licence\n\n" + _licence(card)]
    return _front_matter(card) + "\n" + "\n\n".join(sections) + "\n"


def _front_matter(card: Card) -> str:
    known = card.licence.lower() in _HUB_LICENCES
    lines = [f"license: {card.licence.lower() if known else 'other'}"]
    if not known:
        lines.append(f"license_name: {re.sub('[^a-z0-9.]+', '-', card.licence.lower()).strip('-') or 'other'}")
    lines += [
        "library_name: timm",
        f"pipeline_tag: {'image-classification' if card.labels else 'image-feature-extraction'}",
    ]
    if card.base_model and (match := re.fullmatch(r"hf://([^@]+)(?:@(.*))?", card.base_model)):
        commit = f"  # {match[2]}" if match[2] else ""  # the Hub takes no more than a repository there
        lines.append(f"base_model: {match[1]}{commit}")
    if card.evaluation:
        lines.append("metrics:\n- accuracy")
    tags = ["timm", "transformers", "fer_scale", "face", "facial-expression-recognition"]
    tags += ["expression-recognition"] if card.labels else ["masked-autoencoder"]
    return "---\n" + "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags)]) + "\n---\n"


def _origin(card: Card) -> str:
    """What stands below the first sentence: calibration, and the model that training started from."""
    more = ""
    if card.labels and card.block.get("folded_temperature", 1) != 1:
        more += " Its probabilities are calibrated: the temperature is part of the weights."
    if base := card.base_model:  # of a folder, only its name: a path is nobody's business
        name = base if base.startswith("hf://") else base.rstrip("/").rsplit("/", 1)[-1]
        licence, adapted = card.block.get("base_licence"), card.block.get("base_adapted")
        more += f"\n\nTraining started from `{name}`"
        more += f", whose licence is {licence}." if licence else "."
        more += f" Its weights were resampled for this size: {adapted}." if adapted else ""
    return more


def _licence(card: Card) -> str:
    base = card.block.get("base_licence")
    also = f" and that of the weights it started from ({base})" if base else ""
    return f"{card.licence}. The licences of the data (above){also} may ask for more."


def _usage(card: Card) -> str:
    px = card.config["pretrained_cfg"]["input_size"][-1]
    if card.labels:
        last = "    probabilities = model(transform(face)[None]).softmax(1)[0]\n"
        last += f"names = {json.dumps(card.labels)}\nprint(names[probabilities.argmax()])"
        task, call = "image-classification", 'print(pipe(Image.open("face.jpg").convert("RGB")))'
    else:
        last = f"    features = model(transform(face)[None])    # [1, {card.config['num_features']}]"
        task, call = "image-feature-extraction", 'features = pipe(Image.open("face.jpg").convert("RGB"), pool=True)'
    return _USAGE.format(name=card.name, px=px, last=last, task=task, call=call) + _crop(card)


def _crop(card: Card) -> str:
    box = card.block.get("face_box")
    if not box:
        return ""
    place = ", ".join(f"{value:.2f}" for value in box)
    return (
        f"\n\nIn the training crops the face's box lay at ({place}): left, top, right, bottom, in shares of the crop. "
        "Crop alike, as `fer-scale predict` does: other margins cost accuracy."
    )


def _data(card: Card) -> str:
    if not card.data:
        return "Which images it was trained on is not recorded beside these weights."
    rows = [
        [
            str(row.get("name", "?")),
            f"{row.get('samples', 0):,}",
            f"{row.get('excluded') or 0:,}",
            str(row.get("licence") or "unknown"),
            str(row.get("source", "?")),
            str(row.get("fingerprint", ""))[:12],
        ]
        for row in card.data
    ]
    head = ["set", "images", "left out", "licence of the images", "source", "fingerprint"]
    if any(row.get("weight") for row in card.data):  # sets that were mixed by weights
        head.insert(1, "of each batch")
        for cells, row in zip(rows, card.data, strict=True):
            cells.insert(1, f"{100 * row['weight']:.4g} %")
    return (
        _table(head, rows)
        + "\n\nNo image is part of this repository"
        + (", but for the pictures below." if "reconstructions.png" in card.pictures else ".")
    )


def _training(card: Card) -> str:
    parts = []
    if card.training:
        parts.append(_table(["", ""], [[name, value] for name, value in card.training.items()]))
    lines = []
    for section in _SECTIONS:
        body = {key: value for key, value in card.recipe.get(section, {}).items() if key not in _PATHS}
        if body:
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in body.items()), ""]
    if lines:
        parts.append("```toml\n" + "\n".join(lines).strip() + "\n```")
    return "\n\n".join(parts) or "The recipe is not recorded beside these weights."


def _evaluation(card: Card) -> str:
    metrics = card.evaluation or {}
    rows = []
    for key, name in _MEASURES.items():
        if isinstance(metrics.get(key), int | float):
            ends = metrics.get("intervals_95", {}).get(key, ())
            rows.append([name, _percent(metrics[key]), " to ".join(f"{100 * end:.1f}" for end in ends)])
    classes = [
        [name, f"{facts['count']:,}", _percent(facts.get("recall")), _percent(facts.get("precision"))]
        for name, facts in metrics.get("per_class", {}).items()
    ]
    parts = [_measured_on(card, metrics), _table(["measure", "value", "95 % interval (bootstrap)"], rows)]
    if classes:
        parts.append(_table(["expression", "images", "recall", "precision"], classes))
    if warning := metrics.get("warning"):
        parts.append(f"**Beware:** {warning}.")
    return "\n\n".join(parts)


def _measured_on(card: Card, metrics: dict[str, Any]) -> str:
    """The protocol: which images, which list of which split, how their labels came about, and what was left out."""
    said = f"Measured on {metrics.get('samples', 0):,} images of {metrics.get('set', 'a set that is not named')}"
    if split := metrics.get("split"):
        said += f", list `{split['list']}` of the split {split['sha256'][:12]}"
    if protocol := next((row["protocol"] for row in card.data if row.get("protocol")), None):
        said += f"; labels by the protocol `{protocol}`"
    left_out = {reason.replace("_", " "): count for reason, count in (metrics.get("left_out") or {}).items() if count}
    if left_out:
        said += "; left out: " + ", ".join(f"{count:,} ({reason})" for reason, count in left_out.items())
    return said + "."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *([cell.replace("|", "/") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


_WHAT_ENCODER = """\
A Vision Transformer that learned from unlabeled faces, as a masked autoencoder (He et al. 2022, arXiv:2111.06377; for
faces Song et al. 2024, arXiv:2410.17622). It turns a face crop into features, and is meant to be fine-tuned to
recognise facial expressions from few labels. It is no classifier, and it was not trained to tell people apart."""

_WHAT_EXPRESSION = """\
A classifier of facial expressions in face crops. It says how a face looks, as annotators named it; it does not say what
a person feels."""

_USAGE = """\
It takes square face crops only, not whole photos: {px} x {px} px, RGB (without `.convert("RGB")` grey pictures fail).

```python
import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{name}", pretrained=True).eval()    # a folder: "local-dir:PATH"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
face = Image.open("face.jpg").convert("RGB")
with torch.no_grad():
{last}
```

```python
from PIL import Image
from transformers import pipeline

pipe = pipeline("{task}", model="{name}")    # or a folder
{call}
```

Other classes of transformers (`ViTModel`) load it without a complaint and with random weights: use `pipeline`,
`AutoModel` or timm."""

_LIMITS = """\
## Intended use and limits

Meant for research on facial expressions, and as a start for models that are evaluated for the purpose at hand. Before
any use on people, measure it on the people, cameras and situations that it will meet, by group.

- A facial expression is not a feeling. How expressions are shown and named depends on person, culture and situation;
  the labels are the opinion of annotators.
- Not for decisions about people (hiring, education, insurance, policing, health, border control), not for identifying
  or tracking them, and not for watching them without their knowledge and consent.
- Face datasets are unbalanced in age, gender and skin tone, and most of their people were never asked. No results by
  group are given here unless they stand above; expect unequal errors. Rare expressions (contempt, disgust, fear) are
  recognised worst.
- Trained on images of faces, a model may remember some of them: treat the weights as data about people.
- Small, blurred, turned or partly hidden faces, and other crops than those of training, cost accuracy.

In the European Union (Regulation 2024/1689, the AI Act; this is no legal advice): inferring emotions at the workplace
and in education is prohibited, but for medical and safety reasons (Article 5(1)(f)); other emotion recognition is
high-risk (Annex III), and people who are exposed to it must be told (Article 50(3)). Images by which people can be
identified are personal data under the GDPR."""
