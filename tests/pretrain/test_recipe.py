"""What a pre-training recipe comes to, and what it refuses."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import recipe

from fer_scale import config
from fer_scale.config import ConfigError
from fer_scale.encoder import SHAPES
from fer_scale.pretrain.layout import zero_layout
from fer_scale.pretrain.recipe import ENCODERS, Plan, Pretrain, plan
from shards.mix import Mix, Part
from shards.order import Order, share

RECIPES = Path(__file__).parents[2] / "configs"


def planned(ranks: int, *overrides: str) -> Plan:
    rec = recipe(*overrides)
    return plan(rec, ranks, Order([1000], seed=0, batch=rec.batch.size))


def test_accumulation_is_derived_so_that_no_micro_batch_is_too_large() -> None:
    assert planned(1, "batch.size=64", "batch.micro=64").accumulation == 1
    assert planned(3, "batch.size=64", "batch.micro=64").accumulation == 1
    assert planned(3, "batch.size=64", "batch.micro=7").accumulation == 4  # 21 or 22 a rank
    assert planned(2, "batch.size=64", "batch.micro=1").accumulation == 32


@given(ranks=st.integers(1, 9), size=st.integers(1, 200), micro=st.integers(1, 64))
def test_every_rank_runs_as_many_micro_batches_and_none_is_empty_or_too_large(
    ranks: int, size: int, micro: int
) -> None:
    try:
        accumulation = planned(ranks, f"batch.size={size}", f"batch.micro={micro}", "run.steps=1").accumulation
    except ConfigError:
        assert size < ranks or size % ranks  # only shares of unequal size are ever refused
        return
    for rank in range(ranks):
        mine = share(rank, ranks, size)
        assert len(mine) // accumulation >= 1 and -(-len(mine) // accumulation) <= micro


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch.size = 3 is smaller than the number of ranks, 4: use fewer ranks"):
        planned(4, "batch.size=3")


def test_an_empty_micro_batch_is_refused_with_the_size_that_works() -> None:
    with pytest.raises(ConfigError, match=r"2 ranks share 3 images as 1 or 2, .*; use batch.micro = 2"):
        planned(2, "batch.size=3", "batch.micro=1")


def test_the_rate_scales_with_the_batch_where_it_is_given_per_256_images() -> None:
    rec = config.load(Pretrain, RECIPES / "pretrain" / "vit_small_112.toml", ["data.shards=/nowhere"])
    assert plan(rec, 4, Order([10_000], seed=0, batch=rec.batch.size)).lr == pytest.approx(1.5e-4 * 4)


def test_steps_of_epochs_come_from_the_order() -> None:
    rec = config.load(
        Pretrain, RECIPES / "pretrain" / "ssfer_vit_base.toml", ["data.shards=/nowhere", "run.epochs=3.5"]
    )
    order = Order([1000, 500], seed=0, batch=256)
    derived = plan(rec, 1, order)
    assert derived.steps == order.steps(3.5) == int(3.5 * order.samples_per_epoch / 256)


@pytest.mark.parametrize(
    ("spec", "path", "weight"),
    [
        ("/data/faces=0.7", "/data/faces", "7/10"),
        ("faces=2", "faces", "2"),
        ("faces=.5", "faces", "1/2"),
        ("faces=1e-2", "faces", "1/100"),
        ("/runs/lr=0.1/faces=3", "/runs/lr=0.1/faces", "3"),
        ("/runs/lr=0.1/faces", "/runs/lr=0.1/faces", None),
        ("a=b=0.25", "a=b", "1/4"),
        ("a=b", "a=b", None),
        ("lr=3/", "lr=3/", None),
        ("faces=nan", "faces=nan", None),
        ("=3", "=3", None),
    ],
)
def test_a_weight_is_a_number_behind_the_last_equals_sign(spec: str, path: str, weight: str | None) -> None:
    [found] = recipe(f"data.shards={spec}").data.sets()
    assert found == (path, None if weight is None else Fraction(weight))


def test_weights_are_relative_to_their_sum_and_exact() -> None:
    assert recipe('data.shards=["a=0.7", "b=0.1", "c=0.2"]').data.weights() == [
        Fraction(7, 10),
        Fraction(1, 10),
        Fraction(1, 5),
    ]
    assert recipe('data.shards=["a=1", "b=2"]').data.weights() == [Fraction(1, 3), Fraction(2, 3)]
    assert recipe('data.shards=["a", "b"]').data.weights() == []


def test_the_plan_of_a_mixture_counts_each_sets_epochs() -> None:
    rec = recipe('data.shards=["a=1", "b=3"]', "batch.size=16", "run.steps=20")
    parts = [Part("a", 1, [40], Fraction(1)), Part("b", 2, [80], Fraction(3))]
    derived = plan(rec, 1, Mix(parts, seed=0, batch=16))
    assert (derived.steps, derived.views, derived.images) == (20, 320, 112)  # 4 lanes of 10, 12 of 6
    assert derived.epochs == (2.0, pytest.approx(240 / 72))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optim.base_lr=1e-4"], "optim.lr: give exactly one of lr and base_lr"),
        (["run.epochs=2"], "run.steps: give exactly one of steps and epochs"),
        (["model.image_px=30"], "model.image_px: 30 px is not a whole number of 8 px patches"),
        (["model.mask_ratio=1.0"], "model.mask_ratio: must lie between 0 and 1, not 1.0"),
        (
            ["model.patch_px=16", "model.mask_ratio=0.8"],
            "model.mask_ratio: 0.8 hides all of 4 patches; the encoder must be shown one",
        ),
        (["augment.crop_scale=[0.9, 0.2]"], "augment.crop_scale: must be 0 < low <= high <= 1"),
        (["run.precision=fp8"], "run.precision: must be one of 'fp32', 'bf16', not 'fp8'"),
        (["run.steps=0"], "run.steps: must be 1 or more, not 0"),
        (["run.steps=-5"], "run.steps: must be 1 or more, not -5"),
        (["run.steps=none", "run.epochs=0"], "run.epochs: must be above 0, not 0.0"),
        (["run.seed=-1"], "run.seed: must lie in 0..2^63-1, not -1"),
        (["run.checkpoint_every_steps=-1"], "run.checkpoint_every_steps: must be 1 or more, not -1"),
        (["run.keep_checkpoints=-1"], "run.keep_checkpoints: must be 1 or more, not -1"),
        (["run.stop_after_steps=-1"], "run.stop_after_steps: must be 0 or more, not -1"),
        (["run.hang_seconds=0"], "run.hang_seconds: must be above 0, not 0.0"),
        (["run.hang_seconds=step=0"], "run.hang_seconds: must be above 0, not 0.0"),
        (["run.hang_seconds=step=soon"], "run.hang_seconds: step=soon: must be a number of seconds"),
        (["run.hang_seconds=stap=60"], "run.hang_seconds: 'stap' is no phase; did you mean 'step'?"),
        (["run.hang_seconds=x=60"], "run.hang_seconds: 'x' is no phase; one of start, load, compile, step"),
        (['run.hang_seconds=["step=60", "step=6"]'], "run.hang_seconds: step is given twice"),
        (["run.hang_seconds=soon"], "run.hang_seconds: 'soon': write one number for all phases, or a list of PHASE="),
        (["run.hang_seconds=[60]"], "run.hang_seconds: must be a string, not 60"),
        (["run.hang_seconds=true"], "run.hang_seconds: must be a number, not True"),
        (["batch.micro=-1"], "batch.micro: must be 1 or more, not -1"),
        (["data.shards=[]"], "data.shards: must name at least one folder"),
        (["data.shards="], "data.shards: must name at least one folder"),
        (['data.shards=["a=0.7", "b"]'], "data.shards: 'b' has no weight and others have; write b=NUMBER"),
        (['data.shards=["a=0.7", "b=0"]'], "data.shards: weights must be above 0, not a=0.7 b=0"),
        (['data.shards=["a=0.7", "b=-.3"]'], "data.shards: weights must be above 0, not a=0.7 b=-.3"),
        (["data.shards=a=1", "run.steps=none", "run.epochs=2"], "run.epochs: a mixture of weighted sets has no epoch"),
        (
            ["data.shards=a=1", "optim.warmup_steps=none", "optim.warmup_epochs=2"],
            "optim.warmup_epochs: a mixture of weighted sets has no epoch of its own; set optim.warmup_steps=N",
        ),
        (["data.workers=-1"], "data.workers: must be 0 or more, not -1"),
        (["data.max_bad=2"], "data.max_bad: must lie in 0..1, not 2.0"),
        (["augment.grey=7"], "augment.grey: must lie in 0..1, not 7.0"),
        (["optim.lr=-1"], "optim.lr: must be above 0, not -1.0"),
        (["optim.lr=nan"], "optim.lr: must be a number, not nan"),
        (["optim.lr=inf"], "optim.lr: must be a number, not inf"),
        (["optim.betas=[0.9, 1.5]"], "optim.betas: must lie in 0..1, below 1, not [0.9, 1.5]"),
        (["optim.warmup_steps=-3"], "optim.warmup_steps: must be 0 or more, not -3"),
        (["optim.weight_decay=-0.1"], "optim.weight_decay: must be 0 or more, not -0.1"),
        (["optim.clip_norm=-1"], "optim.clip_norm: must be 0 or more, not -1.0"),
        (["model.std=[0, 0, 0]"], "model.std: must be above 0, not [0.0, 0.0, 0.0]"),
        (["model.mean=[0, 0, 127]"], "model.mean: must lie in 0..1, not [0.0, 0.0, 127.0]"),
        (["model.norm_eps=0"], "model.norm_eps: must be above 0, not 0.0"),
        (["model.patch_px=0"], "model.patch_px: must be 1 or more, not 0"),
        (["model.image_px=0"], "model.image_px: must be 1 or more, not 0"),
        (["model.decoder_heads=0"], "model.decoder_heads: must be 1 or more, not 0"),
        (["model.decoder_width=0"], "model.decoder_width: must be 1 or more, not 0"),
        (["model.encoder=vit_bse"], "as 192x6x6, not 'vit_bse'; did you mean 'vit_base'?"),
        (["model.encoder=30x2x0"], "model.encoder: 30x2x0 must have a width that is a multiple of 4"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(*overrides)
    assert says in str(caught.value)
    assert ": 1 mistake\n" in str(caught.value)


def test_three_mistakes_of_one_section_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe("model.mask_ratio=2", "model.patch_px=7", "model.decoder_width=50", "data.workers=-1", "optim.lr=fast")
    assert str(caught.value).splitlines()[1:] == [
        "  data.workers: must be 0 or more, not -1",
        "  model.image_px: 32 px is not a whole number of 7 px patches",
        "  model.mask_ratio: must lie between 0 and 1, not 2.0",
        "  model.decoder_width: 50 must be a multiple of 4 and of decoder_heads",
        "  optim.lr: must be a number, not 'fast'",
    ]


def test_the_encoders_that_a_recipe_may_name_are_those_that_can_be_built() -> None:
    assert list(ENCODERS) == list(SHAPES)


def test_the_layouts_that_we_ship_are_the_four_stages() -> None:
    files = sorted((RECIPES / "deepspeed").glob("*.json"))
    assert [zero_layout(file)["stage"] for file in files] == [0, 1, 2, 3]


def test_a_layout_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text("[]")
    with pytest.raises(ConfigError, match="must be an object"):
        zero_layout(tmp_path / "layout.json")


def test_every_mistake_of_a_layout_comes_at_once(tmp_path: Path) -> None:
    file = tmp_path / "layout.json"
    layout = {"zero_optimizaton": {}, "train_batch_size": 8, "zero_optimization": {"stage": 4, "overlap_com": True}}
    file.write_text(json.dumps(layout))
    with pytest.raises(ConfigError) as caught:
        zero_layout(file)
    assert str(caught.value).splitlines() == [
        f"{file}: 4 mistakes",
        "  zero_optimizaton: not a layout key; did you mean zero_optimization?",
        "  train_batch_size: is set in the recipe, by batch.size; remove it here",
        "  zero_optimization.overlap_com: not a layout key; did you mean zero_optimization.overlap_comm?",
        "  zero_optimization.stage: must be 0, 1, 2 or 3, not 4",
    ]
