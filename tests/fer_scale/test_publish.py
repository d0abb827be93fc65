"""What publish promises: the encoder exactly, an honest card, no default licence, and no faces by accident."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.server import Hub
from safetensors.torch import load_file
from torch import Tensor

from fer_scale import artifact, checkpoint, encoder, hub
from fer_scale.publish import PublishError, publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

RECIPE = """\
[data]
shards = ["/secret/place/faces"]
[model]
encoder = "64x2x2"
image_px = 32
patch_px = 8
mask_ratio = 0.75
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[batch]
size = 16
[run]
out = "/secret/place/run"
precision = "fp32"
seed = 7
[card]
"""
DATA = [
    {
        "name": "drawn",
        "source": "folder",
        "licence": "apache-2.0",
        "samples": 1200,
        "excluded": 30,
        "fingerprint": "ab" * 32,
    },
    {"name": "found", "source": "tar", "licence": "unknown", "samples": 50, "excluded": 0, "fingerprint": "cd" * 32},
]


def weights(seed: int) -> dict[str, Tensor]:
    """An encoder's tensors, each one random."""
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in model.state_dict().items()}


def save_checkpoint(run: Path, step: int, *, broken: bool = False) -> dict[str, Tensor]:
    """A checkpoint as pre-training writes it, in two files; the encoder in it."""
    state = weights(step)
    if broken:
        state["norm.bias"][3] = float("nan")
    whole = {f"{'f' if name == 'pos_embed' else 'w'}.encoder.{name}": value for name, value in state.items()}
    whole |= {f"{kind}{name[1:]}": value.clone() for name, value in whole.items() if name[0] == "w" for kind in "mv"}
    whole |= {"w.decoder_embed.weight": torch.ones(2, 2), "w.mask_token": torch.ones(1)}
    place = checkpoint.folder_of(run, step)
    part = place.with_suffix(".part")
    names = sorted(whole)
    lines = [checkpoint.write_part(part, k, 2, {name: whole[name] for name in names[k::2]}) for k in (0, 1)]
    progress = {"step": step, "images": step * 16, "adam_step": step, "recipe": (run / "recipe.toml").read_text()}
    checkpoint.finish(part, place, lines, progress)
    return state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of pre-training with checkpoints of steps 10 and 20."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "data.json").write_text(json.dumps(DATA))
    rows = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in (5, 10, 15, 20)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "curves.png").write_bytes(b"a curve")
    (folder / "reconstructions.png").write_bytes(b"faces of people")
    save_checkpoint(folder, 10)
    save_checkpoint(folder, 20)
    return folder


@pytest.fixture
def finetuned(tmp_path: Path) -> Path:
    """A run of fine-tuning as it ends."""
    folder = tmp_path / "finetuned"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "recipe.toml").write_text('[semi]\nlabeler = "softmatch"\n[run]\nseed = 3\nprecision = "fp32"\n')
    (folder / "data.json").write_text(json.dumps([DATA[0] | {"labels": 600}]))
    (folder / "evaluation" / "confusion_matrix.png").write_bytes(b"counts")
    metrics = {
        "samples": 700,
        "accuracy": 0.612,
        "uar": 0.4,
        "macro_f1": 0.41,
        "ece": 0.05,
        "intervals_95": {"accuracy": [0.6, 0.63]},
        "per_class": {"neutral": {"count": 500, "recall": 0.7, "precision": 0.6}, "fear": {"count": 0, "recall": None}},
    }
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    names = ["neutral", "happiness", "fear"]
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    model.reset_classifier(len(names))
    config = encoder.make_config(
        model,
        encoder.model_args("64x2x2", image_px=32, patch_px=8),
        image_px=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        label_names=names,
        licence="cc-by-nc-4.0",
        block={"base_model": "/secret/place/encoder", "face_box": [0.1, 0.1, 0.9, 0.98], "folded_temperature": 1.7},
    )
    encoder.write(folder / "model", model.state_dict(), config)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is cut


def test_the_encoder_of_the_newest_checkpoint_is_cut_exactly_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    assert publish(run, str(out), licence="mit") == str(out)
    assert set(contents(out)) == {"config.json", "model.safetensors", "README.md", "curves.png", "manifest.json"}
    cut, expected = load_file(out / "model.safetensors"), weights(20)
    assert cut.keys() == expected.keys()
    assert all(torch.equal(cut[name], expected[name]) for name in expected)
    _, config = encoder.load(out)
    assert config["fer_scale"]["step"] == 20 and config["fer_scale"]["views"] == 320
    artifact.check(out)


@pytest.mark.parametrize("how", ["step", "folder", "moved"])
def test_any_checkpoint_can_be_published(run: Path, tmp_path: Path, how: str) -> None:
    out, place = tmp_path / "encoder", checkpoint.folder_of(run, 10)
    if how == "step":
        publish(run, str(out), licence="mit", step=10)
    elif how == "folder":
        publish(place, str(out), licence="mit")
    else:
        shutil.copytree(place, tmp_path / "elsewhere")
        publish(tmp_path / "elsewhere", str(out), licence="mit")
        assert "is not recorded beside these weights" in (out / "README.md").read_text()
    expected = weights(10)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(out / "model.safetensors").items())
    if how != "moved":
        assert "| last loss | 0.1000 |" in (out / "README.md").read_text(), "the loss at step 10, not the newest"


def test_the_same_checkpoint_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(run, str(tmp_path / name), licence="mit")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_published_folder_goes_on_to_the_hub_byte_for_byte(run: Path, tmp_path: Path, hub_server: Hub) -> None:
    publish(run, str(tmp_path / "encoder"), licence="mit")
    address = publish(tmp_path / "encoder", "hf://lab/faces")
    pulled = hub.pull("hf://lab/faces", tmp_path / "pulled")
    assert pulled.address == address
    assert contents(pulled.folder) == contents(tmp_path / "encoder")


def test_a_run_goes_to_the_hub_in_one_commit_under_its_own_name(run: Path, tmp_path: Path, hub_server: Hub) -> None:
    address = publish(run, "hf://lab/faces@v1", licence="mit", private=True)
    repo = hub_server.store.repos["lab/faces"]
    assert address == f"hf://lab/faces@{repo.tags['v1']}" and repo.private
    assert len(repo.commits) == 2
    card = (hub.pull(address).folder / "README.md").read_text()
    assert 'timm.create_model("hf-hub:lab/faces", pretrained=True)' in card
    assert publish(run, "hf://lab/faces@v1", licence="mit") == address


def test_an_expression_model_is_published_with_its_evaluation(finetuned: Path, tmp_path: Path) -> None:
    for source in (finetuned, finetuned / "model"):
        out = tmp_path / f"of-{source.name}"
        publish(source, str(out), licence="cc-by-nc-4.0")
        assert set(contents(out)) == {
            "config.json",
            "model.safetensors",
            "README.md",
            "confusion_matrix.png",
            "manifest.json",
        }
        card = (out / "README.md").read_text()
        for line in (
            "pipeline_tag: image-classification",
            "| accuracy | 61.2 % | 60.0 to 63.0 |",
            "| neutral | 500 | 70.0 % | 60.0 % |",
            "| fear | 0 | - | - |",
            'names = ["neutral", "happiness", "fear"]',
            "the temperature is part of the weights",
            "Training started from `encoder`.",
            "(0.10, 0.10, 0.90, 0.98)",
            "![True against predicted expressions](confusion_matrix.png)",
        ):
            assert line in card
        assert b"/secret/place" not in b"".join(contents(out).values())
    assert json.loads((out / "config.json").read_text())["label_names"] == ["neutral", "happiness", "fear"]


def test_a_base_model_on_the_hub_stands_in_the_front_matter(finetuned: Path, tmp_path: Path) -> None:
    place = finetuned / "model" / "config.json"
    config = json.loads(place.read_text())
    config["fer_scale"]["base_model"] = "hf://lab/faces@" + "0" * 40
    place.write_text(json.dumps(config))
    publish(finetuned, str(tmp_path / "out"), licence="mit")
    assert "\nbase_model: lab/faces\n" in (tmp_path / "out" / "README.md").read_text()


# ---- the card


def test_the_card_says_what_it_was_made_of_and_no_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    publish(run, str(tmp_path / "out"), licence="cc-by-nc-4.0", title="Tiny faces")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(
        "---\nlicense: cc-by-nc-4.0\nlibrary_name: timm\npipeline_tag: image-feature-extraction\ntags:\n- timm\n"
    )
    for line in (
        "# Tiny faces",
        "| drawn | 1,200 | 30 | apache-2.0 | folder | abababababab |",
        "| found | 50 | 0 | unknown | tar | cdcdcdcdcdcd |",
        "| views | 320 |",
        "mask_ratio = 0.75",
        '.convert("RGB")',
        "It takes square face crops only",
        "Article 5(1)(f)",
        "![Loss, learning rate and speed over the steps](curves.png)",
        "No image is part of this repository.",
    ):
        assert line in card
    assert "/secret/place" not in card + (tmp_path / "out" / "config.json").read_text()


def test_a_licence_unknown_to_the_hub_is_other_with_its_name(run: Path, tmp_path: Path) -> None:
    publish(run, str(tmp_path / "out"), licence="Non-commercial research only")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other\nlicense_name: non-commercial-research-only\n" in card
    assert "Non-commercial research only. The licences of the data" in card


def test_faces_of_the_training_data_leave_only_when_asked_for(run: Path, tmp_path: Path) -> None:
    publish(run, str(tmp_path / "quiet"), licence="mit")
    publish(run, str(tmp_path / "shown"), licence="mit", pictures=True)
    assert not (tmp_path / "quiet" / "reconstructions.png").exists()
    assert (tmp_path / "shown" / "reconstructions.png").read_bytes() == b"faces of people"
    assert "No image is part of this repository, but for the pictures" in (tmp_path / "shown" / "README.md").read_text()


# ---- what is refused


def test_without_a_licence_nothing_is_published(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PublishError,
        match=r"no licence given, and there is no default\. Add --licence.*drawn: apache-2\.0; found: unknown",
    ):
        publish(run, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_recipes_card_gives_licence_and_title(run: Path, tmp_path: Path) -> None:
    (run / "recipe.toml").write_text(RECIPE + 'license = "mit"\ntitle = "From the recipe"\n')
    save_checkpoint(run, 30)
    publish(run, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "# From the recipe" in card


def _nan(run: Path) -> Path:
    save_checkpoint(run, 30, broken=True)
    return run


def _damaged(run: Path) -> Path:
    file = next(checkpoint.folder_of(run, 20).glob("state-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return run


def _empty(run: Path) -> Path:
    shutil.rmtree(run / "checkpoints")
    return run


@pytest.mark.parametrize(
    ("prepare", "more", "words"),
    [
        (_nan, {}, r"step_00000030: NaN or infinite values in norm\.bias; publish an earlier step"),
        (_damaged, {}, "damaged"),
        (_empty, {}, "no checkpoint, and no model; give a run"),
        (lambda run: run / "nowhere", {}, "no such folder; give a run"),
        (lambda run: run, {"step": 15}, "no checkpoint of step 15; there are 10, 20"),
        (lambda run: checkpoint.folder_of(run, 10), {"step": 20}, "is one checkpoint; give the run instead"),
    ],
)
def test_what_cannot_be_published_says_why_and_leaves_nothing(
    run: Path, tmp_path: Path, prepare: Callable[[Path], Path], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        publish(prepare(run), str(tmp_path / "out"), licence="mit", **more)
    assert not (tmp_path / "out").exists()


def test_a_published_folder_takes_no_new_facts_and_no_damage(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(run, str(out), licence="mit")
    with pytest.raises(PublishError, match="was published already and goes on byte for byte"):
        publish(out, str(tmp_path / "more"), licence="apache-2.0")
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors has changed since it was published"):
        publish(out, str(tmp_path / "more"))


def test_publishing_never_needs_deepspeed(run: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['deepspeed'] = None\n"
        "from pathlib import Path; from fer_scale.publish import publish\n"
        f"publish(Path({str(run)!r}), {str(tmp_path / 'out')!r}, licence='mit')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out" / "manifest.json").is_file()
