"""The front matter of a card: the YAML that the Hub indexes, and what its `validate-yaml` would refuse of it.

Written by a YAML library, so a value stays the value that it was, whatever stands in it. The rules are those of the
Hub's model card specification (hub-docs, modelcard.md); ids that only the server can look up are held against their
form alone.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from shards.errors import UserError

# The licences that the Hub knows (hub-docs, repositories-licenses.md, and what was added to it by November 2026); any
# other one is `other` with a name and a link.
LICENCES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research",
    "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "grok2-community", "gemma", "unknown",
}  # fmt: skip
_BLOCK = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")  # as the Hub's server has it
_ID = re.compile(r"(?!.*(?:--|\.\.))(?=.{1,96}$)(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")  # of a repository
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # of a licence of one's own
_NO_LICENCES = {"unknown", "none", "other", "n/a", "na", "tbd", "todo", "?", "-"}
_LINK = re.compile(r"LICENSE|LICENSE\.md|https?://[^\s/]+\S*")
_RELATIONS = ("finetune", "adapter", "merge", "quantized")
_LONGEST = 96  # characters of a tag or a metric


class FrontMatterError(UserError):
    """A card whose front matter the Hub would refuse."""


def written(metadata: dict[str, Any]) -> str:
    """The metadata as it stands at the head of a card."""
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10**9)}---\n"


def read(card: str) -> dict[str, Any]:
    """The metadata at the head of a card; FrontMatterError where there is none, or it is no YAML mapping."""
    block = _BLOCK.match(card)
    if block is None:
        raise FrontMatterError("no front matter: its first line must be ---, then YAML with the licence, then ---")
    try:
        found = yaml.safe_load(block[1])
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-99-99 reads as a date
        raise FrontMatterError(f"its front matter is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise FrontMatterError("its front matter holds no `name: value` lines")
    return found


def check(card: str) -> None:
    """FrontMatterError with everything that the Hub would refuse of a model card."""
    if found := list(faults(read(card))):
        raise FrontMatterError(f"the Hub would refuse its front matter: {'; '.join(found)}")


def licence(said: str) -> dict[str, str]:
    """What the front matter says of a licence: by the Hub's name for it, or `other` with its own name and a link.

    The link is the address that stands in the licence's text, or else the file LICENSE beside the card.
    """
    for name in (said, re.sub(r"\blicen[cs]e\b", "", said, flags=re.IGNORECASE)):
        if (known := re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-.")) in LICENCES:
            return {"license": known}  # said as "CC BY-NC 4.0" or "Apache License 2.0" too
    address = re.search(r"https?://[^\s<>\"')\]]+", said)
    name = re.sub(r"[^a-z0-9.]+", "-", re.sub(r"https?://\S+", "", said).lower()).strip("-.")[:64].rstrip("-.")
    return {
        "license": "other",
        "license_name": name or "other",
        "license_link": address[0].rstrip(".,;") if address and _LINK.fullmatch(address[0]) else "LICENSE",
    }


def is_no_licence(said: str) -> bool:
    """Whether this only says that there is no licence, or that none is known."""
    return said.lower() in _NO_LICENCES or licence(said)["license"] == "unknown"


def is_id(name: Any) -> bool:
    """Whether this has the form of a repository's name on the Hub, as NAME or ORG/NAME."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None


def faults(metadata: dict[str, Any]) -> Iterator[str]:
    """What the Hub's validate-yaml would refuse, one line each; ids are only held against their form."""
    yield from _licence_faults(metadata)
    for key in ("library_name", "pipeline_tag"):
        if not isinstance(metadata.get(key, ""), str):
            yield f"{key} must be text"
    for key in ("tags", "metrics"):
        yield from _texts(key, metadata.get(key, []))
    for key in ("datasets", "base_model"):
        value = metadata.get(key, [])
        for name in value if isinstance(value, list) else [value]:
            if not is_id(name):
                yield f"{key}: {name!r} is no repository's name, as ORG/NAME"
    if metadata.get("base_model_relation", "finetune") not in _RELATIONS:
        yield f"base_model_relation must be one of {', '.join(_RELATIONS)}"
    yield from _index_faults(metadata.get("model-index", []))


def _licence_faults(metadata: dict[str, Any]) -> Iterator[str]:
    said = metadata.get("license")
    for name in said if isinstance(said, list) and said else [said]:
        if name is None:
            yield "license is missing"
        elif name != "other" and name not in LICENCES:
            yield f"license: {name!r} is none that the Hub knows; write other, with license_name and license_link"
    if said == "other":
        name, link = metadata.get("license_name"), metadata.get("license_link")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            yield f"license_name: {name!r} must be of a-z 0-9 . _ - and at most 64 characters"
        if not (isinstance(link, str) and _LINK.fullmatch(link)):
            yield f"license_link: {link!r} must be LICENSE, LICENSE.md or an address"


def _texts(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{key} must be a list"
        return
    for text in value:
        if not (isinstance(text, str) and 0 < len(text.strip()) <= _LONGEST):
            yield f"{key}: {text!r} is no text of 1 to {_LONGEST} characters"


def _index_faults(index: Any) -> Iterator[str]:
    """Of model-index: [{name, results: [{task: {type}, dataset: {type, name}, metrics: [{type, value}]}]}]."""
    if not isinstance(index, list):
        yield "model-index must be a list"
        return
    for number, model in enumerate(index):
        place = f"model-index[{number}]"
        yield from _must_hold(place, model, ("name",))
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list) or not results:
            yield f"{place}.results must be a list with something in it"
            continue
        for nth, result in enumerate(results):
            yield from _result_faults(f"{place}.results[{nth}]", result if isinstance(result, dict) else {})


def _result_faults(place: str, result: dict[str, Any]) -> Iterator[str]:
    yield from _must_hold(f"{place}.task", result.get("task"), ("type",))
    dataset = result.get("dataset")
    yield from _must_hold(f"{place}.dataset", dataset, ("type", "name"))
    if isinstance(dataset, dict) and not is_id(dataset.get("type")):
        yield f"{place}.dataset.type: {dataset.get('type')!r} is no data set's name, as ORG/NAME"
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f"{place}.metrics must be a list with something in it"
        return
    for nth, metric in enumerate(metrics):
        yield from _must_hold(f"{place}.metrics[{nth}]", metric, ("type",))
        if not isinstance(metric, dict) or metric.get("value") is None:
            yield f"{place}.metrics[{nth}].value is missing"


def _must_hold(place: str, value: Any, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if not isinstance(value, dict) or not isinstance(value.get(key), str) or not value[key].strip():
            yield f"{place}.{key} must be text"
