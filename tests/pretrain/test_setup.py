"""What a pre-training run refuses to start or to go on from."""

from pathlib import Path

import pytest

from fer_scale import artifact, config, encoder
from fer_scale.checkpoint import CheckpointError
from fer_scale.encoder import EncoderError
from fer_scale.pretrain import setup
from fer_scale.pretrain.recipe import Pretrain


def recipe(out: Path, *overrides: str) -> Pretrain:
    file = Path(__file__).parents[1] / "ranks" / "pretrain.toml"
    return config.load(Pretrain, file, ["data.shards=/nowhere", f"run.out={out}", *overrides])


def test_a_run_of_fine_tuning_is_not_gone_on_with(tmp_path: Path) -> None:
    progress = {"step": 3, "adam_step": 3, "made_for": {}}
    with pytest.raises(CheckpointError, match=r"holds a run of fine-tuning; use another run.out"):
        setup.same_run(recipe(tmp_path), progress, [], [], tmp_path / "checkpoints" / "step_00000003")


def test_an_encoder_of_another_mean_is_refused_with_the_values_to_set(tmp_path: Path) -> None:
    args = encoder.model_args("32x2x4", image_px=32, patch_px=8)
    model = encoder.build("32x2x4", image_px=32, patch_px=8)
    facts = encoder.make_config(model, args, image_px=32, mean=(0.4, 0.5, 0.6), std=(0.25,) * 3, block={})
    encoder.write(tmp_path, model.state_dict(), facts)
    artifact.seal(tmp_path)
    with pytest.raises(EncoderError) as caught:
        setup.build(recipe(tmp_path, f"model.start_from={tmp_path}"))
    given = str(caught.value).partition("set ")[2].split()
    assert given == ["model.mean=[0.4,0.5,0.6]", "model.std=[0.25,0.25,0.25]"]
    setup.build(recipe(tmp_path, f"model.start_from={tmp_path}", *given))
