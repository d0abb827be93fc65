"""The card of a published shard set: what it holds, how it is read, and that it shows people.

Text in, text out; sets.py collects the facts, which are those of the set's index.json.
"""

from typing import Any

from fer_scale import front_matter, log
from shards.expressions import FERPLUS_COLUMNS
from shards.sample import EXTENSIONS

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # as the Hub names them; "train" of a whole set
_POWERS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def text(
    index: dict[str, Any],
    fingerprint: str,
    columns: set[str],
    *,
    name: str,
    title: str | None = None,
    contact: str | None = None,
) -> str:
    """The whole README.md of the set at datasets/`name`; `columns` are the kinds of members in its tars."""
    people = f" of {index['identities']:,} people" if index.get("identities") else ""
    shards = log.plural(len(index["shards"]), "tar")
    what = f"{index['samples']:,} pictures of faces{people}, {_labels(index)}, in {shards} of WebDataset: plain tars "
    what += "that any reader of them opens, in one random order, with an index and checksums beside them."
    sections = [
        f"# {title or index['name']}",
        what,
        "## What it holds\n\n" + _facts(index, fingerprint),
        "## Use\n\n" + _usage(index, columns, name),
        _FORMAT.format(name=index["name"]),
        _PEOPLE.format(whom=contact or f"https://huggingface.co/datasets/{name}/discussions"),
        f"## Licence\n\n{index['licence']}. It is that of the images, as whoever published them here states it.",
    ]
    card = front_matter.written(_metadata(index, columns, title or index["name"])) + "\n" + "\n\n".join(sections) + "\n"
    front_matter.check(card)
    return card


def needs_text(licence: str) -> bool:
    """Whether the front matter points to a file LICENSE, for want of a licence that the Hub knows or an address."""
    return front_matter.licence(licence).get("license_link") == "LICENSE"


def _labels(index: dict[str, Any]) -> str:
    labeled = sum(index.get("expressions", {}).values())
    if labeled in (0, index["samples"]):
        return "labeled by expression" if labeled else "unlabeled"
    return f"{labeled:,} of them labeled by expression"


def _metadata(index: dict[str, Any], columns: set[str], title: str) -> dict[str, Any]:
    split = _SPLITS.get(index.get("split") or "", "train")
    return {
        **front_matter.licence(index["licence"]),
        "pretty_name": title,
        "task_categories": ["image-classification" if index.get("expressions") else "image-feature-extraction"],
        "size_categories": [_size(index["samples"])],
        "tags": ["webdataset", "fer_scale", "face", "facial-expression-recognition"],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": f"{index['name']}-*.tar"}]}],
        "dataset_info": {"features": _features(columns)},
    }


def _size(samples: int) -> str:
    """The Hub's category of a size, as 10K<n<100K."""
    digits = len(str(samples))
    if digits <= 3:
        return "n<1K"
    return f"{_POWERS[digits - 4]}<n<{_POWERS[digits - 3]}" if digits - 3 < len(_POWERS) else "n>1T"


def _features(columns: set[str]) -> list[dict[str, Any]]:
    """The columns as `datasets` declares them. It would guess them from the first five samples, and refuse the set
    where these differ: a png among jpgs, a face of which something is known among others."""
    found: list[dict[str, Any]] = [{"name": kind, "dtype": "image"} for kind in EXTENSIONS if kind in columns]
    if "json" in columns:
        votes = [{"name": name, "dtype": "float64"} for name in FERPLUS_COLUMNS]
        known = [
            {"name": "expression", "dtype": "string"},
            {"name": "votes", "struct": votes},
            {"name": "box", "sequence": "float64"},
            {"name": "box_source", "dtype": "string"},
            {"name": "faces", "dtype": "int64"},
            {"name": "made", "dtype": "string"},
        ]
        found.append({"name": "json", "struct": known})
    return [*found, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _facts(index: dict[str, Any], fingerprint: str) -> str:
    px, left_out = index["image_px"], index.get("left_out") or {}
    sizes = ", ".join(f"{what} {px[what][0]:g} x {px[what][1]:g}" for what in ("min", "mean", "max"))
    rows = {
        "source": f"{index.get('source', '?')}" + (f", its part `{index['split']}`" if index.get("split") else ""),
        "pictures": f"{index['samples']:,}, {log.size(index['bytes'])} in {log.plural(len(index['shards']), 'shard')}",
        "people": f"{index['identities']:,}" if index.get("identities") else "",
        "width x height in px": sizes,
        "expressions": _counts(index.get("expressions")),
        "labels by the protocol": index.get("protocol") or "",
        "face boxes from": _counts(index.get("boxes")),
        "detector": str(index.get("detector") or ""),
        "changed when packed": _counts(index.get("made")),
        "left out": _counts(left_out),
        "seed of the order": str(index.get("seed", "")),
        "fingerprint": fingerprint,
    }
    lines = [f"| {name} | {said.replace('|', '/')} |" for name, said in rows.items() if said]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _counts(counts: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in (counts or {}).items())


def _usage(index: dict[str, Any], columns: set[str], name: str) -> str:
    images = [kind for kind in EXTENSIONS if kind in columns]
    face = f'face["{images[0]}"]' if len(images) == 1 else " or ".join(f'face.get("{kind}")' for kind in images)
    face += ', face.get("json")' if "json" in columns else ""
    first, last = index["shards"][0]["name"], index["shards"][-1]["name"]
    stem, _, begin = first.rpartition("-")
    tars = f"{first}.tar" if first == last else f"{stem}-{{{begin}..{last.rpartition('-')[2]}}}.tar"
    return _USAGE.format(name=name, tars=tars, face=face, split=_SPLITS.get(index.get("split") or "", "train"))


_USAGE = """\
Streamed with plain `webdataset`:

```python
import webdataset

tars = "https://huggingface.co/datasets/{name}/resolve/main/{tars}"
for face in webdataset.WebDataset(tars, shardshuffle=False).decode("pil"):
    print(face["__key__"], {face})
```

or with `datasets`:

```python
import datasets

for face in datasets.load_dataset("{name}", split="{split}", streaming=True):
    print(face["__key__"], face)
```

or by fer_scale, which checks every byte, and trains from here in an order that does not depend on the number of ranks:

```
fer-scale pretrain RECIPE.toml data.shards=hf://datasets/{name}
fer-scale pull hf://datasets/{name} FOLDER
```

While the repository is private or gated, `datasets` and fer_scale read it with your token. So does `webdataset` from
`hf://datasets/{name}/{tars}`, but whoever lists the processes of that machine sees the token then."""

_FORMAT = """\
## Format

Of each face `KEY.jpg` (or `.png`, `.webp`) holds the picture; `KEY.json` is there where something is known of it:
`expression`, `votes` of its annotators, `box` of the face as left, top, right, bottom in shares of the picture,
`box_source`, `faces` (how many a detector saw, where not one), `made` (what was done to the picture). Beside the tars
lie `index.json` (counts, and the sha256 of every file), `.idx` (where each sample lies, and its checksum), `.hashes`
(of the pixels, to find copies) and `.origin.gz` (where each picture came from, in the order of the tar). That file and
`left_out.jsonl` hold the paths of the source, in which people may be named."""

_PEOPLE = """\
## Faces are people

Pictures by which people can be identified are personal data (in the European Union under the GDPR, and used to
recognise somebody, biometric data of its Article 9). Most people in sets of faces were never asked.

- Meant for research on facial expressions. Not to identify or track anybody, not for decisions about people, and not
  to infer what somebody feels: an expression is what a face shows, as annotators name it.
- Sets of faces are unbalanced in age, gender and skin tone; measure what you train by group before any use on people.
- Do not pass pictures on without this card, and keep no copy longer than you need it.

**Take-down.** Who finds a picture of themselves here, or holds rights in one, may ask for its removal: {whom}, with
the key if it is known. The publisher takes it out of the source, packs and publishes again, and clears the history
(`HfApi.super_squash_history`), since older commits keep it."""
