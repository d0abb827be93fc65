"""What a published decoder promises: that pre-training goes on from it where it was. Real runs on two ranks."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub.looking import contents
from runs import RECIPE, losses, recipe
from safetensors.torch import load_file, save_file

from fer_scale import artifact, decoder, encoder
from fer_scale.artifact import ArtifactError
from fer_scale.config import ConfigError
from fer_scale.encoder import EncoderError
from fer_scale.pretrain import setup, start
from fer_scale.pretrain.mae import MaskedAutoencoder
from fer_scale.publish import PublishError, publish

PARTS = ["encoder", "decoder"]


def test_pre_training_goes_on_from_a_published_decoder_and_a_step_is_published_alike_then_and_later(
    faces: Path, tmp_path: Path, launch: Any
) -> None:
    words = ["-m", "fer_scale", "pretrain", str(RECIPE), f"data.shards={faces}", "run.checkpoint_every_steps=20"]
    run, then, later, last = (tmp_path / name for name in ("run", "then", "later", "last"))
    launch(1, *words, f"run.out={run}", "run.steps=40", "run.stop_after_steps=20").wait()
    publish(run, str(then), licence="mit", parts=PARTS)
    launch(2, *words, f"run.out={run}", "run.steps=40").wait()
    publish(run, str(later), licence="mit", parts=PARTS, step=20)
    assert contents(then) == contents(later)
    card = (later / "README.md").read_text()
    assert f"| last loss | {losses(run)[19]:.4f} |" in card and "| devices | 1 x " in card and "| starts | 1 |" in card

    publish(run, str(last), licence="mit", parts=PARTS)
    assert artifact.manifest(last).keys() == {"config.json", "curves.png", "decoder.safetensors", "model.safetensors"}
    more = [f"model.start_from={last}", "model.start_decoder=true", f"run.out={tmp_path / 'next'}", "run.seed=1"]
    assert "start    with its decoder" in launch(1, *words, *more, "run.steps=1").wait()
    reached = sum(losses(run)[-5:]) / 5  # 0.834; the next run began at 0.871, with a fresh decoder at 1.233
    assert losses(tmp_path / "next")[0] == pytest.approx(reached, rel=0.1)


# ---- what is taken, and what is refused


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A model folder with a decoder, whose weights are those of seed 3."""
    rec = recipe("run.seed=3", out=tmp_path)
    whole = setup.fresh(rec).state_dict()
    model = encoder.build(rec.model.encoder, image_px=32, patch_px=8)
    args = encoder.model_args(rec.model.encoder, image_px=32, patch_px=8)
    block = {"decoder": decoder.facts(asdict(rec.model))}
    pixels = {"mean": rec.model.mean, "std": rec.model.std}
    folder = tmp_path / "published"
    state = {k.removeprefix("encoder."): v for k, v in whole.items() if k.startswith("encoder.")}
    encoder.write(folder, state, encoder.make_config(model, args, image_px=32, licence="mit", block=block, **pixels))
    decoder.write(folder, decoder.of(whole))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    artifact.seal(folder)
    return folder


def begun(tmp_path: Path, published: Path, *words: str) -> MaskedAutoencoder:
    """A model of seed 0 after its start from the folder."""
    rec = recipe(f"model.start_from={published}", "model.start_decoder=true", *words, out=tmp_path)
    model = setup.fresh(rec)
    start.load(model.encoder, rec.model, model)
    return model


def test_a_decoder_that_is_not_asked_for_is_told_of(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = begun(tmp_path, published, "model.start_decoder=false")
    fresh = setup.fresh(recipe(out=tmp_path)).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in decoder.of(model.state_dict()).items())
    assert "its decoder is there too: model.start_decoder=true goes on with it" in capsys.readouterr().err


def test_every_weight_of_the_decoder_is_taken_at_another_image_size_too(tmp_path: Path, published: Path) -> None:
    theirs = setup.fresh(recipe("run.seed=3", out=tmp_path)).state_dict()
    ours = begun(tmp_path, published).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    larger = begun(tmp_path, published, "model.image_px=48").state_dict()
    taken = decoder.of(theirs)
    assert len(taken) == 19 and all(torch.equal(larger[name], taken[name]) for name in taken)
    fresh = setup.fresh(recipe("model.image_px=48", out=tmp_path)).state_dict()
    assert torch.equal(larger["decoder_positions"], fresh["decoder_positions"])


def test_a_decoder_travels_with_its_encoder_and_is_checked_with_it(tmp_path: Path, published: Path) -> None:
    publish(published, str(tmp_path / "copy"))
    assert contents(tmp_path / "copy") == contents(published)
    data = bytearray((published / decoder.FILE).read_bytes())
    data[-1] ^= 1
    (published / decoder.FILE).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"decoder\.safetensors has changed since it was published"):
        begun(tmp_path, published)


def _without(folder: Path) -> None:
    (folder / decoder.FILE).unlink()


def _untold(folder: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    said["fer_scale"]["decoder"] = ["what a stranger wrote"]
    (folder / "config.json").write_text(json.dumps(said))


def _another(folder: Path) -> None:
    state = load_file(folder / decoder.FILE)
    save_file(state | {"mask_token": torch.zeros(1, 1, 8)}, folder / decoder.FILE)


def _broken(folder: Path) -> None:
    state = load_file(folder / decoder.FILE)
    save_file(state | {"mask_token": state["mask_token"] * float("nan")}, folder / decoder.FILE)


@pytest.mark.parametrize(
    ("harm", "words", "says"),
    [
        (_without, [], "holds no decoder; publish it with --parts encoder,decoder, or set model.start_decoder=false"),
        (None, ["model.decoder_depth=2"], "its decoder has decoder_depth 1, not 2: set model's keys alike, or"),
        (None, ["model.norm_pixels=true"], "its decoder has norm_pixels False, not True"),
        (None, ["model.patch_px=4"], "its decoder has patch_px 8, not 4"),
        (_untold, [], "its decoder has decoder_width None, not 32"),
        (_another, [], r"decoder\.safetensors is not the decoder that its config\.json tells of: mask_token"),
        (_broken, [], r"decoder\.safetensors NaN or infinite values in mask_token; pull or publish it again"),
    ],
)
def test_a_decoder_that_is_not_the_recipes_is_refused_with_what_to_set(
    tmp_path: Path, published: Path, harm: Callable[[Path], None] | None, words: list[str], says: str
) -> None:
    if harm:
        harm(published)
        artifact.seal(published)
    with pytest.raises(EncoderError, match=re.escape(f"model.start_from: {published} ") + ".*" + says):
        begun(tmp_path, published, *words)


def test_a_decoder_is_asked_for_only_where_there_can_be_one(tmp_path: Path, finetuned: Path, pretrained: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.start_decoder: needs start_from, whose decoder it is"):
        recipe("model.start_decoder=true", out=tmp_path)
    with pytest.raises(PublishError, match="holds one finished model; a decoder is for runs of pre-training"):
        publish(finetuned, str(tmp_path / "out"), licence="mit", parts=PARTS)
    with pytest.raises(PublishError, match="--parts: deocder: write encoder, or encoder,decoder"):
        publish(pretrained, str(tmp_path / "out"), licence="mit", parts=["encoder", "deocder"])
    with pytest.raises(PublishError, match="--parts: no encoder: write encoder, or"):
        publish(pretrained, str(tmp_path / "out"), licence="mit", parts=["decoder"])


def test_timm_looks_at_the_encoder_alone(published: Path) -> None:
    model = timm.create_model(f"local-dir:{published}", pretrained=True)
    assert model.state_dict().keys() == load_file(published / "model.safetensors").keys()
