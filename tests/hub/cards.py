"""What the Hub's validate-yaml says of a card's front matter, by its documentation (hub-docs, modelcard.md).

Independent of fer_scale/front_matter.py, which is tested against it. The Hub knows all licences, and which ids there
are; this knows some licences, and the form of ids. A card without a licence is taken, as by the Hub.
"""

import re
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

LICENCE = re.compile(
    r"apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|a?gpl-3\.0|bsd-3-clause|unknown|other"
)
ID = re.compile(r"^(?:[\w-][\w.-]*/)?[\w-][\w.-]*$")


def errors(content: str) -> list[str]:
    """The messages of the errors; none where the card is taken."""
    block = REGEX_YAML_BLOCK.match(content)
    if block is None:
        return ["no metadata"]
    try:
        said = yaml.safe_load(block[2])
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"]
    if not isinstance(said, dict):
        return ["metadata must be a mapping"]
    found = [f'"license" must be one of ..., not {n}' for n in _list(said, "license") if not LICENCE.fullmatch(str(n))]
    if said.get("license") == "other" and "license_name" in said:
        if not re.fullmatch(r"[a-z0-9.\-_]+", str(said["license_name"])):
            found.append('"license_name" fails to match the required pattern')
        if not re.fullmatch(r"LICENSE(\.md)?|https?://\S+", str(said.get("license_link"))):
            found.append('"license_link" must be LICENSE, LICENSE.md or a url')
    found += [f'"{key}" must be a string' for key in ("library_name", "pipeline_tag") if _odd(said.get(key, ""))]
    for key in ("tags", "metrics"):
        value = said.get(key, [])
        if not isinstance(value, list) or any(_odd(text) or not text for text in value):
            found.append(f'"{key}" must be an array of strings')
    for key in ("datasets", "base_model"):
        found += [
            f'"{key}" with value "{n}" is not valid'
            for n in _list(said, key)
            if _odd(n) or not ID.match(n) or "--" in n
        ]
    if said.get("base_model_relation", "finetune") not in ("finetune", "adapter", "merge", "quantized"):
        found.append('"base_model_relation" must be one of finetune, adapter, merge, quantized')
    return found + _index(said.get("model-index", []))


def _index(index: Any) -> list[str]:
    try:
        assert isinstance(index, list)
        for model in index:
            assert isinstance(model["name"], str) and model["results"]
            for result in model["results"]:
                assert isinstance(result["task"]["type"], str)
                assert ID.match(result["dataset"]["type"]) and isinstance(result["dataset"]["name"], str)
                assert result["metrics"]
                assert all(isinstance(m["type"], str) and m["value"] is not None for m in result["metrics"])
    except (AssertionError, KeyError, TypeError):
        return ['"model-index" is not valid']
    return []


def _list(said: dict[str, Any], key: str) -> list[Any]:
    value = said.get(key, [])
    return value if isinstance(value, list) else [value]


def _odd(value: Any) -> bool:
    return not isinstance(value, str)
