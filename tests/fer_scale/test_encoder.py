"""The encoder folder: what is written loads, and what does not fit is named."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fer_scale import encoder, model_config
from fer_scale.artifact import ArtifactError
from fer_scale.encoder import EncoderError
from fer_scale.finetune.recipe import Model
from fer_scale.finetune.start import start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = encoder.build("32x2x2", image_px=32, patch_px=8)
    args = encoder.model_args("32x2x2", image_px=32, patch_px=8)
    config = encoder.make_config(model, args, image_px=32, mean=(0.5,) * 3, std=(0.25,) * 3, block={})
    encoder.write(tmp_path / "encoder", model.state_dict(), config)
    (tmp_path / "encoder" / "manifest.json").unlink()  # what is changed below is not damage
    return tmp_path / "encoder"


def test_positions_are_the_papers_sines_and_cosines() -> None:
    """He et al.'s util/pos_embed.py, written out for one token: column 2, row 1 of a grid of 4."""
    got = encoder.sincos_positions(16, 4)
    assert got.shape == (17, 16) and not got[0].any()
    omega = [10000 ** -(i / 4) for i in range(4)]
    expected = [np.sin(2 * w) for w in omega] + [np.cos(2 * w) for w in omega]
    expected += [np.sin(1 * w) for w in omega] + [np.cos(1 * w) for w in omega]
    np.testing.assert_allclose(got[1 + 1 * 4 + 2], expected, atol=1e-6)


def test_what_was_written_gives_the_same_features(folder: Path) -> None:
    torch.manual_seed(0)
    fresh = encoder.build("32x2x2", image_px=32, patch_px=8).eval()
    loaded, config = encoder.load(folder)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), fresh(images))
    assert config["pretrained_cfg"]["mean"] == [0.5] * 3


def test_a_new_head_and_another_size_are_given_on_request(folder: Path) -> None:
    model, _ = encoder.load(folder, num_classes=8, image_px=48)
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 8)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"norm__weight": None}, "norm.weight is missing"),
        ({"norm__weight": torch.full((32,), float("nan"))}, "NaN or infinite values in norm.weight"),
        ({"norm__weight": torch.ones(31)}, r"norm.weight is \[31\], not \[32\]"),
        ({"surplus": torch.ones(1)}, "surplus is not part of vit_base_patch16_224"),
        ({"pos_embed": torch.ones(1, 10, 32)}, r"pos_embed is \[1, 10, 32\], not \[1, 17, 32\]"),
        ({"patch_embed__proj__weight": torch.ones(32, 3, 4, 4)}, r"is \[32, 3, 4, 4\], not \[32, 3, 8, 8\]"),
    ],
)
@pytest.mark.parametrize("image_px", [None, 48])
def test_a_tensor_that_is_not_as_it_should_be_is_named(
    folder: Path, tensors: dict[str, torch.Tensor], says: str, image_px: int | None
) -> None:
    change(folder, **tensors)
    with pytest.raises(EncoderError, match=says):
        encoder.load(folder, image_px=image_px)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("{}", "names no architecture"),
        ('{"architecture": "vit_of_nobody"}', "timm .* knows no architecture 'vit_of_nobody'"),
        ('{"architecture": "vit_base_patch16_224", "model_args": {"depht": 2}}', "model_args may not hold depht"),
        ('{"architecture": "vit_base_patch16_224", "fer_scale": {"format": 99}}', "written in format 99"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(folder: Path, content: str, says: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=says):
        encoder.load(folder)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"architecture": ["x"]}, r"architecture is \['x'\], not a printable text"),
        ({"fer_scale": "x"}, "fer_scale is 'x', not an object"),
        ({"num_classes": None}, "num_classes is None, not a whole number of 0 to 100,000"),
        ({"model_args": [1]}, r"model_args is \[1\], not an object"),
        ({"model_args": {"act_layer": "nope"}}, r"model_args\.act_layer is 'nope', not one of 'gelu'"),
        ({"model_args": {"patch_size": 0}}, r"model_args\.patch_size is 0, not a whole number of 1 to 256, or two"),
        ({"model_args": {"embed_dim": 30, "num_heads": 4}}, r"model_args do not fit vit_base_patch16_224 \(Assertion"),
        ({"pretrained_cfg": None}, "pretrained_cfg is None, not an object"),
        ({"pretrained_cfg": [1]}, r"pretrained_cfg is \[1\], not an object"),
        ({"pretrained_cfg": {"mean": 0.5}}, r"pretrained_cfg\.mean is 0\.5, not three times a number of 0 to 1"),
        (
            {"pretrained_cfg": {"std": [0.5, "x", 0.5]}},
            r"pretrained_cfg\.std is \[0\.5, 'x', 0\.5\], not three times a n",
        ),
        ({"pretrained_cfg": {"mean": [0, 0, 0]}}, "pretrained_cfg does not say input_size, std"),
    ],
)
def test_a_value_of_a_strange_kind_in_the_config_gives_one_message(
    folder: Path, values: dict[str, Any], says: str
) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(EncoderError, match=f"config.json: .*{says}"):
        encoder.load(folder)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of a server of no weights, and what it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("where", ["url", "file", "checkpoint_path", "cache_dir", "pretrained_cfg_overlay"])
def test_a_config_cannot_make_timm_fetch_or_open_other_weights(
    folder: Path, elsewhere: tuple[str, list[str]], tmp_path: Path, where: str
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"a pickle")
    url, asked = elsewhere
    other = {
        "url": {"pretrained": True, "pretrained_cfg": {"url": f"{url}/w.pth"}},
        "file": {"pretrained": True, "pretrained_cfg": {"file": f"{tmp_path}/weights.bin"}},
        "checkpoint_path": {"checkpoint_path": f"{tmp_path}/weights.bin"},
        "cache_dir": {"cache_dir": str(tmp_path)},
        "pretrained_cfg_overlay": {"pretrained": True, "pretrained_cfg_overlay": {"url": f"{url}/w.pth"}},
    }[where]
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model_args": config["model_args"] | other}))
    with pytest.raises(EncoderError, match=f"model_args may not hold {', '.join(other)}; only what is known to be"):
        encoder.load(folder)
    assert asked == []


def test_a_folder_that_is_none_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no config.json and .* a model folder is what `fer-scale publish` writes"):
        encoder.load(tmp_path)


def test_a_cut_weights_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EncoderError, match=r"cannot be read: 1,000 bytes, fewer than .*; pull or publish it again"):
        encoder.load(folder)


@pytest.mark.parametrize("name", ["vit_huge", "192x6", "192x6x5", "0x1x1"])
def test_an_encoder_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(EncoderError, match=f"encoder '{name}'"):
        encoder.build(name, image_px=32, patch_px=8)


def test_the_config_holds_what_loaders_need_and_nothing_of_an_unrelated_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert "num_classes" not in config["model_args"]  # transformers would pass it twice
    assert config["model_args"]["global_pool"] == "avg" and config["model_args"]["fc_norm"] is False
    assert not {"license", "url", "hf_hub_id"} & set(config["pretrained_cfg"])


HEAVY = [
    "beitv2_base_patch16_224",
    "convnext_atto",
    "deit_tiny_patch16_224",
    "densenet121",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
]
HEAVY += ["resnetv2_50", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vgg11_bn", "vit_tiny_patch16_224"]
LIGHT = ["mobilenetv3_small_050", "regnetx_002", "resnet10t"]


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_a_model_of_each_family_of_timm_that_may_be_trained_may_be_loaded(name: str, tmp_path: Path) -> None:
    px = 256 if name.endswith("256") else 224
    begun = start(Model(start_from="none", architecture=name, image_px=px, drop_path=0.0), 3, 0)
    given = {"image_px": px, "mean": begun.mean, "std": begun.std, "label_names": ["a", "b", "c"], "block": {}}
    config = encoder.make_config(begun.model, begun.model_args, architecture=name, **given)
    config["global_pool"] = "avg"  # finish.py says it of convolutional networks, which keep a layer under this name
    encoder.write(tmp_path, begun.model.state_dict(), config)
    loaded, _ = encoder.load(tmp_path)
    pictures = torch.randn(1, 3, px, px)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pictures), begun.model.eval()(pictures))


@pytest.mark.parametrize(
    ("name", "args", "px", "says"),
    [
        (
            "resnet10t",
            {"global_pool": ""},
            32,
            r"model_args\.global_pool is '', so that a picture gives no single vector",
        ),
        (
            "convnext_atto",
            {},
            16,
            r"input_size is 16 px, and its convnext_atto takes no pictures of that size \(Runtime",
        ),
        (
            "vit_base_patch16_224",
            {**encoder.model_args("32x2x2", image_px=32, patch_px=8), "class_token": False, "global_pool": "map"}
            | {"norm_layer": "batchnorm2d"},
            32,
            r"its vit_base_patch16_224 cannot be run with model_args img_size, .*, norm_layer \(ValueError: expected",
        ),
    ],
)
def test_a_network_that_cannot_run_is_refused_with_the_key_at_fault(
    tmp_path: Path, name: str, args: dict[str, Any], px: int, says: str
) -> None:
    model = timm.create_model(name, num_classes=3, **args)
    given = {"image_px": px, "mean": (0.5,) * 3, "std": (0.5,) * 3, "label_names": ["a", "b", "c"], "block": {}}
    config = encoder.make_config(model, args, architecture=name, **given)
    encoder.write(tmp_path, model.state_dict(), config | {"global_pool": "avg"})
    with pytest.raises(EncoderError, match=f"config.json: .*{says}"):
        encoder.load(tmp_path)


def test_the_families_that_may_be_loaded_are_all_tried() -> None:
    assert {timm.models._registry._model_to_module[name] for name in [*LIGHT, *HEAVY]} == {*model_config.FAMILIES}


def test_a_network_that_keeps_much_beside_its_weights_is_refused_before_it_is_built(tmp_path: Path) -> None:
    """BEiT keeps an index of patches x patches in each block: 5 blocks of 1024 px have 84 million numbers."""
    args = {"img_size": 1024, "patch_size": 16, "embed_dim": 4, "depth": 5, "num_heads": 1}
    with torch.device("meta"):
        model = timm.create_model("beit_base_patch16_224", num_classes=0, **args)
    config = encoder.make_config(
        model, args, architecture="beit_base_patch16_224", image_px=1024, mean=(0.5,) * 3, std=(0.5,) * 3, block={}
    )
    encoder.write(tmp_path, {name: torch.zeros(value.shape) for name, value in model.state_dict().items()}, config)
    with pytest.raises(EncoderError, match=r"keeps 83,\d{3},\d{3} numbers beside its weights, and may 64,000,000"):
        encoder.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"num_features": "<b>"}, {"num_features": 0}, {"global_pool": "[x](y)"}, {"fer_scale": {"data": [1]}}]
)
def test_what_a_card_shows_of_a_config_is_of_the_lists_too(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EncoderError, match=f"config.json: .*{next(iter(change))}"):
        encoder.read(folder)
