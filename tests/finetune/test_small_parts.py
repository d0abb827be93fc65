"""Targets, the teacher's average, the temperature, keyed drop path, and the recipe's errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fer_scale import config, images
from fer_scale.config import ConfigError
from fer_scale.finetune import begin, ema, fold, processes, targets
from fer_scale.finetune.recipe import Finetune, Model
from fer_scale.finetune.start import SampleDropPath, cuts_matter, draw_paths, start
from fer_scale.finetune.table import whence
from shards.errors import Broken, UserError
from shards.index import ShardSet
from shards.sample import Face

NAMES = ["neutral", "happiness", "fear"]
INDEX = {"name": "made-up", "shards": [], "samples": 0}


# --- targets --------------------------------------------------------------------------------------------------------


def test_classes_are_the_expressions_that_have_labels_in_the_one_order() -> None:
    assert targets.label_names({"fear": 3, "neutral": 1, "anger": 0, "happiness": 2}) == NAMES
    with pytest.raises(UserError, match=r"labels of 1 expression\(s\) \(fear\)"):
        targets.label_names({"fear": 3})


def test_classes_are_mapped_by_name_and_strangers_are_marked() -> None:
    faces = [Face("fear"), Face("neutral"), Face("anger"), None, Face()]
    assert targets.classes(faces, NAMES).tolist() == [2, 0, -1, -1, -1]


def test_votes_become_shares_without_single_ones() -> None:
    faces = [
        Face("neutral", votes={"neutral": 6, "happiness": 3, "fear": 1}),
        Face("fear", votes={"fear": 1, "neutral": 1, "unknown": 8}),
        Face("happiness", votes={"happiness": 4, "anger": 6}),
    ]
    found = targets.matrix(faces, NAMES, "votes")
    assert found.tolist() == [pytest.approx([6 / 9, 3 / 9, 0]), [0, 0, 1], [0, 1, 0]]
    assert targets.matrix(faces, NAMES, "argmax").argmax(1).tolist() == [0, 2, 1]


def test_votes_where_there_are_none_is_an_error() -> None:
    with pytest.raises(UserError, match="carry no votes; use argmax"):
        targets.matrix([Face("fear")], NAMES, "votes")


# --- boxes ----------------------------------------------------------------------------------------------------------


def test_a_model_says_which_detector_found_most_boxes_that_it_learned_from() -> None:
    annotated, detected, none = (Face("fear", box_source=source) for source in ("annotation", "detector", None))
    by_yunet, by_somebody = ShardSet(Path(), INDEX | {"detector": "yunet"}), ShardSet(Path(), INDEX)
    assert whence([annotated, detected, detected, none], by_yunet) == "yunet"
    assert whence([annotated, detected, detected, none], by_somebody) == "detector"
    assert whence([annotated, annotated, detected], by_yunet) == "annotation"
    assert whence([annotated, none, none], by_yunet) == "template"


# --- the average ----------------------------------------------------------------------------------------------------


def test_the_decay_grows_to_its_limit() -> None:
    assert [ema.decay_at(t, 0.999) for t in (0, 90)] == [pytest.approx(0.1), pytest.approx(0.91)]
    assert ema.decay_at(10**6, 0.999) == 0.999


def test_the_teacher_averages_numbers_and_copies_counters() -> None:
    student = nn.BatchNorm1d(2)
    teacher = ema.teacher_of(student)
    student(torch.tensor([[4.0, 8.0], [8.0, 16.0]]))
    student.weight.data.fill_(3.0)
    ema.update(teacher, student, 0.75)
    assert teacher.weight.tolist() == [1.5, 1.5]
    assert teacher.running_mean.tolist() == pytest.approx([0.6 * 0.25, 1.2 * 0.25])  # type: ignore[union-attr]
    assert teacher.num_batches_tracked.item() == 1  # type: ignore[union-attr]
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


# --- what is folded into the weights --------------------------------------------------------------------------------


def test_the_temperature_that_was_put_in_is_found_and_changes_no_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    classes = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fold.fit_temperature(logits * 3, classes) == pytest.approx(3, rel=0.05)
    assert fold.fit_temperature(logits / 2, classes) == pytest.approx(0.5, rel=0.05)
    assert not fold.is_bound(fold.fit_temperature(logits, classes))
    right = torch.eye(3)[[0, 1, 2]]  # all of them: the colder the better, without end
    assert fold.is_bound(fold.fit_temperature(right, torch.arange(3)))


def test_a_folded_temperature_divides_the_logits() -> None:
    model = start(Model(start_from="none", architecture="32x1x2", image_px=16, patch_px=8), 4, 0).model.eval()
    nn.init.normal_(model.get_classifier().weight)  # type: ignore[operator]
    nn.init.normal_(model.get_classifier().bias)  # type: ignore[operator]
    pictures = torch.randn(3, 3, 16, 16)
    before = model(pictures)
    fold.temperature(model, 2.5)
    assert torch.allclose(model(pictures), before / 2.5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["32x1x2", "resnet10t"])
def test_a_model_folded_grey_sees_colours_as_their_grey_version(architecture: str) -> None:
    patch = 8 if architecture == "32x1x2" else 0
    model = start(Model(start_from="none", architecture=architecture, image_px=32, patch_px=patch), 4, 0).model.eval()
    nn.init.normal_(model.get_classifier().weight)  # type: ignore[operator]
    colour = torch.rand(3, 3, 32, 32)
    greyed = images.grey(colour, np.ones(3, bool))
    before = model((greyed - 0.5) / 0.25)
    assert fold.grey(model)
    assert torch.allclose(model((greyed - 0.5) / 0.25), before, atol=1e-4)
    assert torch.allclose(model((colour - 0.5) / 0.25), before, atol=1e-4)


# --- the network ----------------------------------------------------------------------------------------------------


def test_blocks_are_left_out_by_the_sample_not_by_the_batch() -> None:
    drop = SampleDropPath(0.5)
    keys = np.arange(2000, dtype=np.uint64)
    model = nn.Sequential(drop)
    draw_paths(model, keys, torch.device("cpu"))
    whole = model(torch.ones(2000, 3, 1))
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert whole.mean().item() == pytest.approx(1, abs=0.1)
    draw_paths(model, keys[700:900], torch.device("cpu"))
    assert torch.equal(model(torch.ones(200, 3, 1)), whole[700:900])
    assert torch.equal(model.eval()(torch.ones(5, 3, 1)), torch.ones(5, 3, 1))


@pytest.mark.parametrize(
    ("architecture", "cuts"), [("32x2x2", False), ("resnet10t", True), ("vit_tiny_patch16_224", False)]
)
def test_any_architecture_starts_from_scratch_with_keyed_drop_path(architecture: str, cuts: bool) -> None:
    patch = 8 if architecture == "32x2x2" else 0
    begun = start(Model(start_from="none", architecture=architecture, image_px=32, patch_px=patch), 5, 0)
    again = start(Model(start_from="none", architecture=architecture, image_px=32, patch_px=patch), 5, 0)
    assert cuts_matter(begun.model) == cuts
    assert any(isinstance(m, SampleDropPath) and m.probability > 0 for m in begun.model.modules())
    assert begun.model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    pairs = zip(begun.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert begun.base_model is None and begun.layers == 0


def test_a_head_on_a_token_that_is_not_there_is_refused() -> None:
    """It could be trained, and the result not be loaded again."""
    there = Model(start_from="none", architecture="vit_tiny_patch16_224", image_px=32, patch_px=8, pool="token")
    assert start(there, 3, 0).model_args["global_pool"] == "token"
    with pytest.raises(ConfigError, match=r"model\.pool: vit_dpwee\w+ has no class token here; use avg"):
        start(replace(there, architecture="vit_dpwee_patch16_reg1_gap_256"), 3, 0)


def test_an_unknown_architecture_is_named_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"timm [\d.]+ knows no 'resnet1o'|knows no"):
        start(Model(start_from="none", architecture="resnet1o", image_px=32), 5, 0)
    with pytest.raises(ConfigError, match="knows no 'vit_tiny_patch16_22'; near: "):
        start(Model(start_from="none", architecture="vit_tiny_patch16_22", image_px=32), 5, 0)
    with pytest.raises(ConfigError, match="xcit_nano_12_p8_224 is of none of timm's families beit, convnext"):
        start(Model(start_from="none", architecture="xcit_nano_12_p8_224", image_px=32), 5, 0)


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_shipped_recipes_load_and_write_themselves_out(tmp_path: Path) -> None:
    given = ["data.shards=s", "data.split=f", "model.start_from=e", "run.out=r"]
    for file in sorted((Path(__file__).parents[2] / "configs/finetune").glob("*.toml")):
        recipe = config.load(Finetune, file, given)
        (tmp_path / "again.toml").write_text(config.dump(recipe))
        assert config.load(Finetune, tmp_path / "again.toml") == recipe


def test_all_mistakes_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[facemix]\nweighting = 'additiv'\n[semi]\nlabeller = 'soft'\n[augment]\ngrey = 2\n")
    with pytest.raises(ConfigError) as caught:
        config.load(Finetune, file, ["data.shards=s", "data.split=f", "model.start_from=none", "run.out=r"])
    text = str(caught.value)
    for line in (
        "did you mean 'additive'?",
        "did you mean semi.labeler?",
        "grey: must lie in 0..1",
        "start_from is none",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("supervised.start_lr=0.002", "start_lr: must lie between 0 and supervised.lr"),
        ("supervised.end_lr=-0.1", "end_lr: must lie between 0 and supervised.lr"),
        ("supervised.decay_steps=1001", "decay_steps: must be 0 or lie between"),
        ("supervised.decay_steps=99", "decay_steps: must be 0 or lie between"),
        ("supervised.logit_adjustment=-0.5", "logit_adjustment: must be"),
        ("semi.end_lr=0.01", "end_lr: must lie between 0 and semi.lr"),
        ("facemix.stages=3", "stages: must be one of 'both', 2"),
        ("semi.sampling=root", "sampling: must be one of 'natural', 'sqrt'"),
        ("data.max_bad=-3", "max_bad: must lie in 0..1"),
        ("data.memory_mb=-1", "memory_mb: must be 0 or more"),
        ("model.image_px=-8", "image_px: must be 0 or more"),
        ("model.patch_px=8", "patch_px: only where start_from = none; an encoder knows its own"),
        ("run.seed=18446744073709551616", "seed: must lie in 0..2\\^63-1"),
    ],
)
def test_schedules_and_options_that_cannot_be_meant_are_refused(tmp_path: Path, key: str, told: str) -> None:
    (tmp_path / "r.toml").write_text("[supervised]\nsteps = 1000\nlr = 0.001\nwarmup_steps = 100\n[semi]\nlr = 0.001\n")
    given = ["data.shards=s", "data.split=f", "model.start_from=e", "run.out=r"]
    config.load(Finetune, tmp_path / "r.toml", given)
    with pytest.raises(ConfigError, match=told):
        config.load(Finetune, tmp_path / "r.toml", [*given, key])


def test_the_rival_for_two_cores_has_the_proportions_of_the_rival() -> None:
    """What of ssfer.toml differs in ssfer_cpu.toml: lengths, and the rates by one factor."""
    given = ["data.shards=s", "data.split=f", "model.start_from=e", "run.out=r"]
    files = (Path(__file__).parents[2] / "configs/finetune" / name for name in ("ssfer.toml", "ssfer_cpu.toml"))
    large, small = (config.values(config.load(Finetune, file, given)) for file in files)
    differ = {key for key in large if large[key] != small[key]}
    rates = {"supervised.lr", "supervised.start_lr", "supervised.end_lr", "semi.lr", "semi.end_lr"}
    lengths = {"supervised.steps", "supervised.warmup_steps", "supervised.decay_steps", "semi.steps"}
    assert differ == rates | lengths | {"run.precision"}
    factors = {key: float(small[key]) / float(large[key]) for key in rates}
    assert list(factors.values()) == pytest.approx([factors["supervised.lr"]] * 5)
    for recipe in (large, small):
        steps, decay, warmup = (int(recipe[f"supervised.{key}"]) for key in ("steps", "decay_steps", "warmup_steps"))
        assert decay / steps == pytest.approx(0.5, abs=0.001) and warmup / steps == pytest.approx(0.05, abs=0.001)


def test_a_slip_typed_at_a_fine_tuning_that_has_ended_leaves_it_as_it_ended(tmp_path: Path) -> None:
    demo = Path(__file__).parents[2] / "configs/finetune/demo.toml"
    words = ["data.shards=s", "data.split=s", "model.start_from=e", f"run.out={tmp_path}"]
    (tmp_path / "recipe.toml").write_text(config.dump(config.load(Finetune, demo, words)))
    (tmp_path / "outcome.json").write_text('{"outcome": "done"}')
    slip = config.load(Finetune, demo, [*words, "supervised.lr=1e-3"])
    with pytest.raises(ConfigError, match=r"holds a run with another recipe:\n  supervised\.lr"):
        begin._claimed(slip, [])
    assert (tmp_path / "outcome.json").exists() and not (tmp_path / "attempts").exists()
    assert begin._claimed(slip, ["supervised.lr=1e-3"]).number == 1


def test_a_process_that_nobody_comes_to_meet_says_so_and_may_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour later, by torch's patience: so what it says then stands in for it."""

    def alone(**_: object) -> None:
        raise RuntimeError("Timed out after 1801 seconds waiting for clients. 1/2 clients joined.\nException raised")

    monkeypatch.setattr(processes, "Accelerator", alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Broken, match=r"did not find one another: .* Timed out after 1801 seconds .* joined\.$"):
        processes.join("fp32")
