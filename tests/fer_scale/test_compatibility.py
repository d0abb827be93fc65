"""What is published loads in plain timm and in transformers, from a folder and from the Hub, and computes the same.

Not nearly: the differences are 0.0. A wrong pooling, a head whose temperature is applied twice, or weights that fell
back to random ones would all load without a word. tests/compatibility.py prints the table of all recipes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compatibility
import pytest
import timm
import torch
from compatibility import COLUMNS, NAMES, Shape
from hub.client import WRITER, point_at
from hub.server import Hub
from huggingface_hub import close_session
from safetensors import safe_open

from fer_scale import encoder, hub
from fer_scale.finetune import fold
from fer_scale.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

TINY = Shape("64x2x2", 32, 8, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3))
SMALL = "demo"  # of the recipes, for every run of the tests; the others are slow


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A tiny encoder and an expression model, published on a Hub and pulled from there, for foreign_loaders.py."""
    here = tmp_path_factory.mktemp("published")
    case: dict[str, Any] = {
        "name": "published",
        "sizes": TINY.other_sizes,
        "here": here,
        "server": Hub(here / "server"),
    }
    with pytest.MonkeyPatch.context() as patch:
        point_at(case["server"], here / "cache", patch.setattr)
        patch.setenv("HF_TOKEN", WRITER)
        for kind, names in (("encoder", []), ("expressions", NAMES)):
            made = compatibility.make(here / "trained" / kind, TINY, names)
            publish(made, f"hf://lab/{kind}@v1", licence="cc-by-nc-4.0", data=["random weights, no data"])
            hub.pull(f"hf://lab/{kind}@v1", here / kind)
            case[kind] = {"folder": str(here / kind), "repo": f"lab/{kind}"}
        yield case
        close_session()
    case["server"].stop()


@pytest.fixture(scope="module")
def found(published: dict[str, Any]) -> dict[str, Any]:
    """What timm and transformers make of these, and of the encoder of a recipe; and what their traps do."""
    here, server = published["here"], published["server"]
    compatibility.photograph(here)
    plain = {key: value for key, value in published.items() if key not in ("here", "server")} | {"traps": "traps"}
    (here / "traps").mkdir()
    of_recipe = compatibility.case(server, SMALL, compatibility.shapes()[SMALL], here)
    return compatibility.loaded(server, [plain, of_recipe], here)


def config_of(published: dict[str, Any], kind: str) -> dict[str, Any]:
    return json.loads((Path(published[kind]["folder"]) / "config.json").read_text())


def test_timm_and_transformers_compute_what_we_compute_to_the_last_bit(found: dict[str, Any]) -> None:
    for name in ("published", SMALL):
        assert found["names"][name] == NAMES
        assert found["differences"][name] == dict.fromkeys(COLUMNS, 0.0)


def test_the_code_in_the_cards_runs_as_it_is_printed_over_grey_photos_too(found: dict[str, Any]) -> None:
    assert found["snippets"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*compatibility.shapes()} - {SMALL}))
def test_the_encoder_of_each_recipe_is_the_same_in_timm_and_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)  # the tests' canary is nobody's
    assert compatibility.measure(name, compatibility.shapes()[name], tmp_path) == dict.fromkeys(COLUMNS, 0.0)


# ---- DESIGN's contract, and the six traps


def test_the_artifact_is_as_designed(published: dict[str, Any]) -> None:
    """safetensors with format pt; timm's schema, `label_names` at its top, our block with its format."""
    for kind in ("encoder", "expressions"):
        config = config_of(published, kind)
        assert config["architecture"] == "vit_base_patch16_224" and config["fer_scale"]["format"] == encoder.FORMAT
        assert config["model_args"]["img_size"] == [32, 32] and config["pretrained_cfg"]["input_size"] == [3, 32, 32]
        assert config["pretrained_cfg"]["mean"] == [0.5, 0.45, 0.4] and config["pretrained_cfg"]["std"] == [
            0.25,
            0.2,
            0.3,
        ]
        assert config["pretrained_cfg"]["crop_pct"] == 1.0
        with safe_open(Path(published[kind]["folder"]) / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert config_of(published, "expressions")["label_names"] == NAMES


def test_trap_1_a_pipeline_dies_of_num_classes_in_model_args(published: dict[str, Any], found: dict[str, Any]) -> None:
    assert "multiple values for keyword argument 'num_classes'" in found["traps"]["num_classes in model_args"]
    assert "num_classes" not in config_of(published, "expressions")["model_args"]


def test_trap_2_label_names_within_pretrained_cfg_become_label_2(found: dict[str, Any]) -> None:
    assert found["traps"]["label_names in pretrained_cfg"][2] == "LABEL_2"
    assert found["traps"]["label_names at the top"] == NAMES


def test_trap_3_a_key_temperature_is_ignored_so_it_is_folded_into_the_head(
    found: dict[str, Any], tmp_path: Path
) -> None:
    assert found["traps"]["a key temperature, timm"] == found["traps"]["a key temperature, pipeline"] == 0.0
    model, _ = encoder.load(compatibility.make(tmp_path / "plain", TINY, NAMES))
    inputs = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(inputs)
        fold.temperature(model, 2.5)
        torch.testing.assert_close(model(inputs), before / 2.5, rtol=0, atol=1e-6)


def test_trap_4_no_licence_tag_or_crop_of_an_unrelated_model_is_inherited(published: dict[str, Any]) -> None:
    timms = timm.create_model("vit_base_patch16_224", depth=1).pretrained_cfg
    assert timms["license"] == "apache-2.0" and timms["crop_pct"] == 0.9 and timms["tag"].startswith("augreg")
    ours = config_of(published, "encoder")["pretrained_cfg"]
    assert ours["license"] == "cc-by-nc-4.0" and ours["crop_pct"] == 1.0 and ours["tag"] == "fer_scale"
    assert not {"url", "hf_hub_id", "origin_url", "paper_ids"} & ours.keys()


def test_trap_5_without_fc_norm_false_the_norm_of_an_mae_does_not_load(
    published: dict[str, Any], found: dict[str, Any]
) -> None:
    assert "fc_norm" in found["traps"]["no fc_norm in model_args"], "an error that names it"
    assert found["traps"]["no global_pool in model_args"] > 0.1, "and without both it loads, and says other things"
    args = config_of(published, "encoder")["model_args"]
    assert args["global_pool"] == "avg" and args["fc_norm"] is False


def test_trap_6_a_grey_picture_must_be_converted_and_the_cards_say_so(
    published: dict[str, Any], found: dict[str, Any]
) -> None:
    assert found["traps"]["a grey picture"].startswith("RuntimeError")
    assert found["traps"]["a grey picture, converted"] == ""
    for kind in ("encoder", "expressions"):
        assert (Path(published[kind]["folder"]) / "README.md").read_text().count('.convert("RGB")') >= 2
