"""`model.start_from`: published weights, timm's among them, go into the recipe's encoder as timm itself would put them.

A Hub on loopback has repositories named as timm's, with weights that timm drew and saved.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from hub.server import Hub
from huggingface_hub import constants
from runs import recipe
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from fer_scale import artifact, config, encoder, hub
from fer_scale.config import ConfigError
from fer_scale.encoder import EncoderError
from fer_scale.finetune import recipe as finetune_recipe
from fer_scale.finetune import start as finetune_start
from fer_scale.hub import HubError
from fer_scale.pretrain import setup, start
from fer_scale.pretrain.recipe import Model
from fer_scale.publish import PublishError, publish

ROOT = Path(__file__).parents[2]
NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
REPO, FROM = f"timm/{NAME}", f"timm:{NAME}"
PIXELS = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # of these weights
SMALL = Model(encoder="vit_tiny", image_px=48, patch_px=8, start_from=FROM, **PIXELS)
CARD = b"---\nlicense: cc-by-nc-4.0\nlibrary_name: timm\n---\n# Weights\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's network of that name, with weights that it draws, as timm saves it for the Hub."""
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("timm") / NAME
    save_for_hf(timm.create_model(NAME, pretrained=False), str(place), safe_serialization=True)
    return place


@pytest.fixture
def weights(hub_server: Hub, folder: Path) -> str:
    """That folder with a card at hf://timm/NAME; the address with its commit."""
    store = hub_server.store
    large = store.large(store.keep((folder / "model.safetensors").read_bytes()))
    files = {"model.safetensors": large, "config.json": store.small((folder / "config.json").read_bytes())}
    files |= {"README.md": store.small(CARD), "pytorch_model.bin": store.small(b"a pickle")}
    return f"hf://{REPO}@{store.create(REPO).commit(files, 'weights').sha}"


def started(wanted: Model) -> tuple[Any, dict[str, Any]]:
    vit = encoder.build(wanted.encoder, image_px=wanted.image_px, patch_px=wanted.patch_px)
    return vit, start.load(vit, wanted)


def test_another_size_is_what_timm_itself_makes_of_the_weights(
    weights: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit, facts = started(SMALL)
    adapted = "positions 14x14 -> 6x6, patches 16 -> 8 px"
    assert facts == {"address": weights, "licence": "cc-by-nc-4.0", "data": [], "adapted": adapted}
    said = capsys.readouterr().err
    assert f"from {weights} (licence: cc-by-nc-4.0)" in said and adapted in said
    sizes = {"img_size": 48, "patch_size": 8, "num_classes": 0}
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, **sizes).state_dict()
    assert theirs.keys() == vit.state_dict().keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in vit.state_dict().items())
    assert not vit.pos_embed.requires_grad, "positions come with the weights, and stay"


def test_at_the_same_size_the_features_are_those_of_timms_model(weights: str, folder: Path) -> None:
    vit, facts = started(Model(encoder="vit_tiny", start_from=FROM, **PIXELS))
    assert facts["adapted"] == ""
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(vit.eval().forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tny_patch16_224.augreg_in21k", "timm .* knows no weights of this name; did you mean 'vit_tiny_patch16"),
        ("vit_tiny_patch16_224.augre", "knows no weights of this name; did you mean 'vit_tiny_patch16_224.augreg_in2"),
        ("vit_small_patch16_224.dino", r"width x depth x heads are 384x12x6, not 192x12x3 \(model\.encoder\)"),
        ("deit_tiny_distilled_patch16_224.fb_in1k", "it is timm's VisionTransformerDistilled"),
        ("resnet50.a1_in1k", "it is timm's ResNet"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_before_anything_is_fetched(hub_server: Hub, name: str, says: str) -> None:
    with torch.device("meta"):
        vit = encoder.build("vit_tiny", image_px=48, patch_px=8)
    with pytest.raises(EncoderError, match=f"model.start_from: timm:{name}.*{says}"):
        start.load(vit, Model(encoder="vit_tiny", start_from=f"timm:{name}"))
    assert hub_server.requests == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"init_values": 1e-5}, r"its blocks\.0\.ls1 is LayerScale\(\), not Identity\(\)"),
        ({"qk_norm": True}, r"its blocks\.0\.attn\.q_norm is LayerNorm"),
        ({"reg_tokens": 4}, "its num_reg_tokens is 4, not 0"),
        ({"class_token": False, "global_pool": "avg"}, "its has_class_token is False, not True"),
        ({"act_layer": "relu"}, r"its blocks\.0\.mlp\.act is ReLU"),
        ({"pre_norm": True}, r"its norm_pre is LayerNorm"),
        ({"global_pool": "avg"}, r"its norm is Identity\(\), not LayerNorm"),
        ({"num_heads": 4}, "192x2x4, not 192x2x3"),
    ],
)
def test_a_network_that_computes_something_else_is_refused_with_what_it_is(args: dict[str, Any], says: str) -> None:
    with torch.device("meta"):
        ours = encoder.build("192x2x3", image_px=48, patch_px=8)
        theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{"depth": 2, **args})
    with pytest.raises(EncoderError, match=f"X is not the recipe's encoder: .*{says}"):
        start._refuse_another(theirs, ours, "X")


def test_weights_of_another_mean_are_refused_with_the_keys_to_set(weights: str) -> None:
    with pytest.raises(EncoderError) as caught:
        started(Model(encoder="vit_tiny", start_from=FROM))
    assert str(caught.value).endswith("has another mean or std; set model.mean=[0.5,0.5,0.5] model.std=[0.5,0.5,0.5]")


def test_without_safetensors_it_is_said_and_no_pickle_is_fetched(weights: str, hub_server: Hub) -> None:
    repo = hub_server.store.repos[REPO]
    files = {name: file for name, file in repo.at("main").files.items() if name != "model.safetensors"}
    repo.commit(files, "pickles only")
    with pytest.raises(HubError, match=f"hf://{REPO}: holds no model.safetensors"):
        started(SMALL)
    assert not [request for request in hub_server.requests if "pytorch_model.bin" in request]


def test_without_a_network_they_come_from_the_cache_unless_that_is_damaged(
    weights: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = started(SMALL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_server.stop()
    again, facts = started(SMALL)
    assert facts["address"] == weights
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.state_dict().items())
    file = hub.pull(weights).folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        HubError, match=r"model\.safetensors is damaged in the cache; pull it again where there is a net"
    ):
        started(SMALL)


def test_an_encoder_of_ours_takes_other_patches_too(make_encoder: Callable[..., Path], tmp_path: Path) -> None:
    place, data = make_encoder(tmp_path / "faces"), [{"name": "one", "licence": "mit"}, {"name": "two", "licence": "?"}]
    said = json.loads((place / "config.json").read_text())
    said["fer_scale"] |= {"data": data[:1], "base_data": data[1:]}
    (place / "config.json").write_text(json.dumps(said))
    artifact.seal(place)
    vit, facts = started(Model(encoder="64x2x2", image_px=24, patch_px=4, start_from=str(place)))
    assert facts.pop("adapted") == "positions 4x4 -> 6x6, patches 8 -> 4 px"
    assert facts == {"address": str(place), "licence": "mit", "data": data}
    assert [*finetune_start.start(finetune_recipe.Model(start_from=str(place)), 4, 0).base_data] == data
    assert vit.patch_embed.proj.weight.shape == (64, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "tensor"), [("pos_embed", torch.ones(1, 10, 64)), ("patch_embed.proj.weight", torch.ones(64, 3, 4, 4))]
)
def test_weights_that_are_not_what_their_own_config_says_are_not_adapted_but_refused(
    make_encoder: Callable[..., Path], tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    place = make_encoder(tmp_path / "faces")
    (place / "manifest.json").unlink()
    save_file(load_file(place / "model.safetensors") | {name: tensor}, place / "model.safetensors")
    with pytest.raises(EncoderError, match=f"does not fit its config: {name} is"):
        started(Model(encoder="64x2x2", image_px=24, patch_px=4, start_from=str(place)))


def test_a_start_leaves_the_draws_of_its_process_alone(make_encoder: Callable[..., Path], tmp_path: Path) -> None:
    place = make_encoder(tmp_path / "faces")
    vit = encoder.build("64x2x2", image_px=24, patch_px=4)
    before = torch.random.get_rng_state()
    start.load(vit, Model(encoder="64x2x2", image_px=24, patch_px=4, start_from=str(place)))
    assert torch.equal(torch.random.get_rng_state(), before), "only rank 0 loads, and all must draw alike"


@pytest.mark.parametrize(
    ("front", "block", "licence"),
    [
        ("license: mit # c", {}, "mit"),
        ("license: 'apache-2.0'", {}, "apache-2.0"),
        ("license: other\nlicense_name: my-own  # mine", {}, "my-own"),
        ("license: mit\x1b[31m", {}, "unknown"),
        ("license: [mit, cc-by-nc-4.0]", {}, "unknown"),
        ("license:\n- mit\n- cc-by-nc-4.0", {}, "unknown"),
        ("library_name: timm", {}, "mit"),
        ("license: mit", {"base_licence": "cc-by-nc-4.0"}, "mit, from cc-by-nc-4.0"),
        ("license: mit", {"base_licence": "mit, from cc-by-nc-4.0"}, "mit, from cc-by-nc-4.0"),
        ("license: mit", {"base_licence": "two words"}, "mit, from unknown"),
    ],
)
def test_a_licence_is_a_plain_name_and_brings_that_of_the_weights_before(
    make_encoder: Callable[..., Path], tmp_path: Path, front: str, block: dict[str, Any], licence: str
) -> None:
    place = make_encoder(tmp_path / "faces")
    (place / "README.md").write_text(f"---\n{front}\n---\n")
    said = json.loads((place / "config.json").read_text())
    said["fer_scale"] |= block
    (place / "manifest.json").unlink()
    (place / "config.json").write_text(json.dumps(said))
    assert started(Model(encoder="64x2x2", image_px=32, patch_px=8, start_from=str(place)))[1]["licence"] == licence
    tuned = finetune_start.start(finetune_recipe.Model(start_from=str(place)), 4, 0)
    assert tuned.base_licence == licence, "a fine-tuned model's card says it as well"


@pytest.mark.parametrize("changes", [[], ["model.start_from=elsewhere"]])
def test_a_run_that_goes_on_refuses_another_start_even_as_a_change(tmp_path: Path, changes: list[str]) -> None:
    before, now = config.dump(recipe(out=tmp_path)), recipe("model.start_from=elsewhere", out=tmp_path)
    (tmp_path / "recipe.toml").write_text(before)
    with pytest.raises(ConfigError, match=r"are in its checkpoint, and it began with none; .* start from elsewhere"):
        setup.same_run(now, {"shards": ["print"], "recipe": before}, ["print"], changes, tmp_path)


def test_a_run_starts_from_timms_weights_goes_on_without_them_and_its_card_says_so(
    weights: str, hub_server: Hub, faces: Path, folder: Path, tmp_path: Path, launch: Any
) -> None:
    out = tmp_path / "run"
    model = ["encoder=vit_tiny", "image_px=48", "mean=[0.5,0.5,0.5]", "std=[0.5,0.5,0.5]", f"start_from={FROM}"]
    run = ["steps=4", "stop_after_steps=2", f"out={out}"]
    given = [f"data.shards={faces}", *(f"model.{word}" for word in model), *(f"run.{word}" for word in run)]
    words = ["-m", "fer_scale", "pretrain", str(ROOT / "tests/ranks/pretrain.toml"), *given]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub_server.url}
    said = launch(2, *words, **home).wait()
    assert f"from {weights} (licence: cc-by-nc-4.0)" in said
    fetched = [request for request in hub_server.requests if request.startswith("GET /cdn/")]
    assert len(fetched) == 1, "rank 0 fetches for all"
    before = len(hub_server.requests)
    launch(1, *words, "run.stop_after_steps=3", **home | {"HF_HOME": str(tmp_path / "empty")}).wait()
    assert len(hub_server.requests) == before, "a run that goes on has its weights in its checkpoint"

    with pytest.raises(PublishError, match=r"the encoder that it started from: cc-by-nc-4\.0"):
        publish(out, str(tmp_path / "published"))
    publish(out, str(tmp_path / "published"), licence="cc-by-nc-4.0")
    card = (tmp_path / "published" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == REPO
    assert f"Training started from `{weights}`, whose licence is cc-by-nc-4.0." in card
    assert "Its weights were resampled for this size: positions 14x14 -> 6x6, patches 16 -> 8 px." in card
    block = json.loads((tmp_path / "published" / "config.json").read_text())["fer_scale"]
    assert block["base_model"] == weights and block["base_licence"] == "cc-by-nc-4.0" and block["step"] == 3
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=48, patch_size=8, num_classes=0)
    ours = load_file(tmp_path / "published" / "model.safetensors")
    assert torch.equal(ours["pos_embed"], theirs.pos_embed), "frozen positions travel with the weights"
    assert not torch.equal(ours["blocks.0.mlp.fc1.weight"], theirs.blocks[0].mlp.fc1.weight)
