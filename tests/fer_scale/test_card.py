"""What a card promises: front matter that the Hub takes, whatever names and texts it is given, and usage that runs."""

import math
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub import cards
from hub.server import Hub
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_scale import card, card_evaluation, front_matter
from fer_scale.card_facts import Facts
from fer_scale.finetune.recipe import Finetune
from fer_scale.front_matter import FrontMatterError
from fer_scale.markdown import inline, one_line
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

CONFIG = {"pretrained_cfg": {"input_size": [3, 32, 32]}, "num_features": 64, "fer_scale": {}}
HOSTILE = (
    "no",
    "~",
    "1e3",
    "a: b",
    "- x",
    "'",
    '"',
    "\n---\n",
    "#",
    "{x}",
    "[x](http://a)",
    "<script>",
    "|",
    "`",
    "é\x00\u2028\ud800",
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), st.lists(st.sampled_from(HOSTILE)).map(" ".join))


def written(**facts: Any) -> str:
    """A card with these facts; those that are not given are plain."""
    plain = {"title": "Faces", "licence": "mit", "name": "lab/faces", "config": CONFIG, "facts": Facts()}
    return card.text(card.Card(**plain | facts))


# ---- the front matter


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(title=texts, licence=texts, name=texts, label=texts, chosen=st.booleans())
def test_no_title_licence_or_name_breaks_the_card(
    title: str, licence: str, name: str, label: str, chosen: bool
) -> None:
    data = [{"name": name, "licence": licence, "source": name, "samples": 3, "address": name, "fingerprint": "ab"}]
    metrics = {"accuracy": 0.5, "set": name, "samples": 3, "per_class": {label: {"count": 3, "recall": 0.5}}}
    labels = {"label_names": [label], "fer_scale": {"base_model": name, "base_licence": licence}} if chosen else {}
    facts = Facts(data=data, evaluation=metrics, provenance={name: title})
    text = written(title=title, licence=licence, config=CONFIG | labels, facts=facts, sources=[name], contact=title)
    text.encode()

    block = REGEX_YAML_BLOCK.match(text)  # the server's own
    assert block is not None
    front_matter.check(text)
    assert not [line for line in cards.errors(text) if '"license" must be one of' not in line]
    found = yaml.safe_load(block[2])
    assert found == front_matter.read(text)
    assert found["library_name"] == "timm" and re.fullmatch(r"[a-z0-9.+-]+", found["license"])
    if chosen:
        [model] = found["model-index"]
        assert model["name"] == (one_line(title) or "model")
        assert model["results"][0]["dataset"]["name"] == (one_line(name) or "a set without a name")
        assert model["results"][0]["metrics"][0]["value"] == 0.5

    body = text[block.end() :].strip("\n")
    lines = body.split("\n")
    assert lines[0] == f"# {inline(title)}"
    rows = [line for line in lines if line.startswith("| ")]
    cells = [len(re.split(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows]
    heads = [number for number, row in enumerate(rows) if set(row) <= set("| -") and "---" in row]
    for start, end in zip(heads, [*(head - 1 for head in heads[1:]), len(rows)], strict=True):
        assert {*cells[start - 1 : end]} == {cells[start]}, "a text that makes a cell of its own"
    assert [line for line in lines if line.startswith("## ")] == [
        f"## {head}"
        for head in (
            "Use",
            "Intended use and limits",
            "Data",
            "Training",
            "Evaluation",
            "Licence",
            "Contact and take-down",
            "Provenance",
        )
        if one_line(title) or head != "Contact and take-down"
    ]


@pytest.mark.parametrize(
    ("licence", "says"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("Apache License 2.0", {"license": "apache-2.0"}),
        ("Gemma", {"license": "gemma"}),
        ("openrail++", {"license": "openrail++"}),
        ("DeepFloyd IF License", {"license": "deepfloyd-if-license"}),
        ("other", {"license": "other", "license_name": "other", "license_link": "LICENSE"}),
        (
            "Research only (see https://lab.org/terms).",
            {"license": "other", "license_name": "research-only-see", "license_link": "https://lab.org/terms"},
        ),
        ("許諾", {"license": "other", "license_name": "other", "license_link": "LICENSE"}),
    ],
)
def test_a_licence_is_the_hubs_or_other_with_a_name_and_a_link(licence: str, says: dict[str, str]) -> None:
    assert front_matter.licence(licence) == says


def test_each_licence_that_the_hub_knows_is_said_by_its_own_name() -> None:
    for name in front_matter.LICENCES:
        assert front_matter.licence(name) == {"license": name}
        front_matter.check(f"---\nlicense: {name}\n---\n")


def _index(**more: Any) -> dict[str, Any]:
    result = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "D"}, "metrics": [{"type": "m", "value": 1}]}
    return {"license": "mit", "model-index": [{"name": "n", "results": [result | more]}]}


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "license is missing"),
        ({"license": "my own"}, "license: 'my own' is none that the Hub knows"),
        ({"license": False}, "license: False is none that the Hub knows"),  # `no` in YAML
        ({"license": "other"}, "license_name: None must be of a-z"),
        ({"license": "other", "license_name": "My Own", "license_link": "LICENSE"}, "license_name: 'My Own' must be"),
        ({"license": "other", "license_name": "own", "license_link": "terms.pdf"}, "license_link: 'terms.pdf' must be"),
        ({"license": "mit", "pipeline_tag": ["x"]}, "pipeline_tag must be text"),
        ({"license": "mit", "tags": "face"}, "tags must be a list"),
        ({"license": "mit", "tags": [1]}, "tags: 1 is no text"),
        ({"license": "mit", "metrics": [""]}, "metrics: '' is no text"),
        ({"license": "mit", "datasets": ["my faces"]}, "datasets: 'my faces' is no repository's name"),
        ({"license": "mit", "base_model": "/runs/base"}, "base_model: '/runs/base' is no repository's name"),
        ({"license": "mit", "base_model": "lab/a--b"}, "base_model: 'lab/a--b' is no repository's name"),
        ({"license": "mit", "base_model": "lab/x", "base_model_relation": "child"}, "base_model_relation must be one"),
        ({"license": "mit", "model-index": {}}, "model-index must be a list"),
        ({"license": "mit", "model-index": [{"name": "n"}]}, r"model-index\[0\].results must be a list"),
        (_index(task={}), r"results\[0\].task.type must be text"),
        (_index(dataset={"type": "my faces", "name": "D"}), "dataset.type: 'my faces' is no data set's name"),
        (_index(dataset={"type": "d"}), "dataset.name must be text"),
        (_index(metrics=[]), "metrics must be a list with something in it"),
        (_index(metrics=[{"type": "accuracy"}]), r"metrics\[0\].value is missing"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_here_in_words(metadata: dict[str, Any], says: str) -> None:
    text = f"---\n{yaml.safe_dump(metadata)}---\n# Faces\n"
    with pytest.raises(FrontMatterError, match=says):
        front_matter.check(text)
    assert cards.errors(text) or "license_name" in says or not metadata, "the Hub takes a card without a licence's name"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# Faces\n", "no front matter: its first line must be ---"),
        ("---\nlicense: mit\n", "no front matter"),
        ("---\nlicense: [mit\n---\n", "is no YAML"),
        ("---\n- mit\n---\n", "holds no `name: value` lines"),
        ("---\nlicense: !!python/object/apply:os.system ['true']\n---\n", "is no YAML"),
        ("---\nlicense: mit\ndate: 2026-99-99\n---\n", "is no YAML"),
    ],
)
def test_a_card_without_readable_front_matter_is_refused(text: str, says: str) -> None:
    with pytest.raises(FrontMatterError, match=says):
        front_matter.check(text)


def test_huggingface_hub_reads_the_evaluation_back(finetuned: Path, tmp_path: Path) -> None:
    publish(finetuned, str(tmp_path / "out"), licence="mit", title='"Faces": 7')
    found = ModelCard.load(tmp_path / "out" / "README.md").data
    assert found.model_name == '"Faces": 7' and found.license == "mit"
    kept = {(r.metric_type, r.metric_value, r.dataset_name, r.dataset_split) for r in found.eval_results or ()}
    assert kept == {
        ("accuracy", 0.612, "ferplus", "test"),
        ("recall", 0.4, "ferplus", "test"),
        ("f1", 0.41, "ferplus", "test"),
    }
    assert (found.eval_results or [])[0].metric_args == {"interval_95": [0.6, 0.63]}


def test_data_sets_and_base_models_are_named_only_where_they_are_on_the_hub() -> None:
    rows = [
        {"name": "far", "address": f"hf://datasets/lab/faces@{'0' * 40}"},
        {"name": "bucket", "address": "s3://our-bucket/faces"},
        {"name": "near", "address": None},
    ]
    block = {"fer_scale": {"base_model": f"hf://lab/base@{'1' * 40}"}}
    text = written(facts=Facts(data=rows), config=CONFIG | block)
    found = front_matter.read(text)
    assert found["datasets"] == ["lab/faces"] and found["base_model"] == "lab/base"
    assert f"hf://datasets/lab/faces@{'0' * 40}" in text and f"`hf://lab/base@{'1' * 40}`" in text
    assert "our-bucket" not in text
    assert "base_model" not in front_matter.read(written(config=CONFIG | {"fer_scale": {"base_model": "base"}}))


@pytest.mark.parametrize(
    ("whence", "said"),
    [
        ("given", "calibrated by one temperature that was given, not fitted here; the temperature is part"),
        ("valid", "calibrated (one temperature) on held-out images; the temperature is part"),
    ],
)
def test_the_card_says_where_the_temperature_came_from(whence: str, said: str) -> None:
    block = {"folded_temperature": 1.7, "temperature_from": whence}
    assert said in written(config=CONFIG | {"label_names": ["fear", "anger"], "fer_scale": block})


def test_terms_of_known_sets_stand_in_the_card() -> None:
    text = written(facts=Facts(data=[{"name": "faces", "source": "affectnet"}]), sources=["MS1M-RetinaFace, unknown"])
    assert "AffectNet is given to leaders of academic groups" in text
    assert "MS-Celeb-1M was withdrawn by its publisher in 2019" in text
    assert "RAF-DB" not in text


def test_a_card_says_of_which_images_no_licence_is_known() -> None:
    text = written(facts=Facts(data=[{"name": "found", "licence": "unknown"}, {"name": "drawn", "licence": "mit"}]))
    assert "None is known of the images of found: ask their publisher before you use this model." in text
    assert "None is known" not in written(facts=Facts(data=[{"name": "drawn", "licence": "mit"}]))


@pytest.mark.parametrize("recipe", [Pretrain, Finetune])
def test_no_key_of_a_recipe_that_may_hold_a_path_is_shown(recipe: type) -> None:
    sections = typing.get_type_hints(recipe)
    shown = {name: kind for name, kind in sections.items() if name in card._SECTIONS}
    assert "model" in shown
    body: dict[str, Any] = {}
    for name, kind in (shown | {"run": sections["run"]}).items():
        kinds = typing.get_type_hints(kind)
        body[name] = {key: "keys/secret.pem" for key, kind in kinds.items() if "Path" in str(kind)}
        body[name] |= {key: "/home/secret" for key, kind in kinds.items() if "str" in str(kind)}
    assert "start_key" in body["model"] and "start_from" in body["model"]
    assert "secret" not in written(facts=Facts(recipe=body))


# ---- the evaluation


def test_the_interval_of_a_recall_is_wilsons() -> None:
    low, high = 0.2366, 0.7634  # 5 of 10 (Newcombe 1998, method 3)
    assert card_evaluation._wilson({"count": 10, "recall": 0.5}) == f"{100 * low:.1f} to {100 * high:.1f}"
    assert card_evaluation._wilson({"count": 10, "recall": 1.0}) == f"{100 * 10 / (10 + 1.959964**2):.1f} to 100.0"
    assert card_evaluation._wilson({"count": 0, "recall": None}) == "-"


def test_test_time_flip_has_rows_of_its_own_and_the_surest_half_a_sentence() -> None:
    metrics = {
        "accuracy": 0.6,
        "uar": 0.5,
        "ece": 0.041,
        "adaptive_ece": 0.052,
        "intervals_95": {"accuracy": [0.55, 0.65]},
        "flip": {"accuracy": 0.612, "uar": 0.507, "intervals_95": {"accuracy": [0.56, 0.66], "uar": [0.4, 0.6]}},
        "reliability": [{"count": 10, "confidence": 0.7, "accuracy": 0.6}],
        "coverage": [
            {"coverage": 0.2, "confidence": 0.95, "accuracy": 0.99},
            {"coverage": 0.55, "confidence": 0.81, "accuracy": 0.823},
            {"coverage": 1.0, "confidence": 0.3, "accuracy": 0.6},
        ],
    }
    said = card_evaluation.section(metrics, [])
    for line in (
        "| accuracy | 60.0 % | 55.0 to 65.0 |",
        "| calibration error (ece) | 4.1 % |  |",
        "| the same in bins of equally many images (adaptive ece) | 5.2 % |  |",
        "| accuracy, with test-time flip | 61.2 % | 56.0 to 66.0 |",
        "| uar, with test-time flip | 50.7 % | 40.0 to 60.0 |",
        "With test-time flip: the mean of the probabilities of a picture and its mirror image",
        "In the 55.0 % of the images where it is surest (confidence from 0.81 on), it is right in 82.3 %.",
    ):
        assert line in said, line
    said = card_evaluation.section(metrics | {"fingerprint": "aa"}, [{"protocol": "majority", "fingerprint": "bb"}])
    assert "protocol" not in said, "of another set"
    said = card_evaluation.section(metrics | {"fingerprint": "aa"}, [{"protocol": "majority", "fingerprint": "aa"}])
    assert "labels by the protocol `majority`" in said
    before = card_evaluation.section({key: metrics[key] for key in ("accuracy", "reliability")}, [])
    assert "flip" not in before and "surest" not in before


# ---- usage


def test_usage_runs_as_it_is_printed(
    pretrained: Path, finetuned: Path, hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 50), 90).save("face.jpg")
    publish(pretrained, "hf://lab/faces", licence="mit", parts=["encoder", "decoder"])
    publish(finetuned, "hf://lab/expressions", licence="mit")
    told = {}
    for name in ("faces", "expressions"):
        head = hub_server.store.repos[f"lab/{name}"].branches["main"]
        readme = HfApi(endpoint=hub_server.url).hf_hub_download(f"lab/{name}", "README.md", revision=head)
        pieces = re.findall(r"```python\n(.*?)\n```", Path(readme).read_text(), re.DOTALL)
        assert len(pieces) == 2 and all(piece.count("\n") < 5 for piece in pieces), "five lines"
        told[name] = [_run(piece) for piece in pieces]
    with_timm, with_transformers = told["faces"]
    assert torch.equal(with_timm["features"], torch.tensor(with_transformers["features"]))
    shares = told["expressions"][0]["probabilities"]
    assert len(shares) == 3 and math.isclose(float(shares.sum()), 1, abs_tol=1e-6)
    assert (
        "model" in told["expressions"][0] and "neutral" in told["expressions"][0]["model"].pretrained_cfg["label_names"]
    )


def _run(piece: str) -> dict[str, Any]:
    """The names that a piece of Python leaves."""
    names: dict[str, Any] = {}
    exec(piece, names)
    return names
