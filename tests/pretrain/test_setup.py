"""What a pre-training run refuses to start or to go on from, and what it makes of several shard sets."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from runs import recipe

from fer_scale import config
from fer_scale.checkpoint import CheckpointError
from fer_scale.config import ConfigError
from fer_scale.pretrain import begin, setup
from fer_scale.pretrain.recipe import Pretrain, plan
from fer_scale.pretrain.slip import refuse_another
from shards.errors import ShardError, UserError
from shards.index import ShardSet
from shards.mix import Mix
from shards.order import Order


def test_a_run_of_fine_tuning_is_not_gone_on_with(tmp_path: Path) -> None:
    progress = {"step": 3, "adam_step": 3, "made_for": {}}
    with pytest.raises(CheckpointError, match=r"holds a run of fine-tuning; use another run.out"):
        setup.same_run(recipe(out=tmp_path), progress, [], [], tmp_path / "checkpoints" / "step_00000003")


def test_a_checkpoint_whose_recipe_cannot_be_read_is_named(tmp_path: Path) -> None:
    progress = {"step": 3, "shards": ["a"], "recipe": '[card]\ncontact = "two\nlines"\n'}
    with pytest.raises(ConfigError, match=r"step_00000003: the recipe in its progress.json cannot be read"):
        setup.same_run(recipe(out=tmp_path), progress, ["a"], [], tmp_path / "checkpoints" / "step_00000003")


@pytest.mark.parametrize("slip", ["optim.lr=1e-3", "model.start_from=elsewhere", "run.resume=never"])
def test_a_slip_typed_at_a_run_that_has_ended_leaves_it_as_it_ended(tmp_path: Path, slip: str) -> None:
    (tmp_path / "recipe.toml").write_text(config.dump(recipe(out=tmp_path)))
    (tmp_path / "outcome.json").write_text('{"outcome": "done"}')
    (tmp_path / "checkpoints/step_00000003").mkdir(parents=True)
    (tmp_path / "checkpoints/step_00000003/manifest.json").touch()
    with pytest.raises(UserError, match=slip.partition("=")[0]):
        begin._claimed(recipe(slip, out=tmp_path), ["model.start_from=elsewhere"])
    assert (tmp_path / "outcome.json").exists() and not (tmp_path / "attempts").exists()
    assert begin._claimed(recipe("optim.lr=1e-3", out=tmp_path), ["optim.lr=1e-3"]).number == 1


# ---- several sets


def mixture(out: Path, one: Path, other: Path, *overrides: str) -> Pretrain:
    """A recipe of seven parts of one set and three of the other."""
    return recipe(f'data.shards=["{one}=7", "{other}=3"]', *overrides, out=out)


def test_sets_with_weights_are_mixed_and_sets_without_are_one_pool(
    faces: Path, mixed_sizes: Path, tmp_path: Path
) -> None:
    rec = mixture(tmp_path, faces, mixed_sizes)
    _, mix, _ = setup.table(rec, setup.opened(rec.data))
    assert isinstance(mix, Mix) and mix.shares == [Fraction(7, 10), Fraction(3, 10)] and mix.batch == 25
    rec = recipe(f'data.shards=["{faces}", "{mixed_sizes}"]', out=tmp_path)
    table, pool, _ = setup.table(rec, setup.opened(rec.data))
    assert isinstance(pool, Order) and sum(table.counts) == 150
    assert pool.slots(3, 0, 25).key.tolist() == Order(table.counts, seed=0, batch=25).slots(3, 0, 25).key.tolist()


def test_what_is_excluded_from_a_set_of_a_mixture_never_comes(faces: Path, mixed_sizes: Path, tmp_path: Path) -> None:
    other = ShardSet.open(mixed_sizes)
    keys = [key for number in range(len(other.counts)) for key in other.keys(number)][:20]
    split = {"set": other.name, "fingerprint": other.fingerprint, "test": keys}
    (tmp_path / "split.json").write_text(json.dumps(split))
    rec = mixture(tmp_path, faces, mixed_sizes, f"data.exclude={tmp_path / 'split.json'}#test")
    table, order, fell_out = setup.table(rec, setup.opened(rec.data))
    assert fell_out == [0, 20]
    seen = set()
    for step in range(12):
        slots = order.slots(step, 0, 25)
        seen |= set(table.batch(slots.shard, slots.row, slots.key).ids.tolist())
    assert seen & set(range(110, 130)) == set() and len(seen & set(range(130, 150))) == 20


def test_a_mixture_is_said_with_shares_and_epochs_and_a_set_that_comes_very_often_is_noted(
    faces: Path, mixed_sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rec = mixture(tmp_path, faces, mixed_sizes, "run.steps=600")
    sets = setup.opened(rec.data)
    _, order, fell_out = setup.table(rec, sets)
    setup.describe(rec, plan(rec, 1, order), order, sets, fell_out, 1)
    said = capsys.readouterr().err.splitlines()
    assert "images   110 of faces: 70 % of a batch, 17.5 images a step, 102.9 epochs" in said
    assert "images   40 of mixed: 30 % of a batch, 7.5 images a step, 128.6 epochs" in said
    assert "steps    600: 15,000 views; warm-up 5" in said
    assert "note     mixed comes 129 times over: is its weight meant so?" in said


def test_the_weights_stand_in_the_facts_of_the_run(faces: Path, mixed_sizes: Path, tmp_path: Path) -> None:
    for rec, weights in (
        (mixture(tmp_path, faces, mixed_sizes), [0.7, 0.3]),
        (recipe(f'data.shards=["{faces}", "{mixed_sizes}"]', out=tmp_path), [None, None]),
    ):
        sets = setup.opened(rec.data)
        _, order, fell_out = setup.table(rec, sets)
        setup.write_facts(rec, plan(rec, 1, order), sets, fell_out)
        assert [row["weight"] for row in json.loads((tmp_path / "data.json").read_text())] == weights


def test_a_run_goes_on_with_the_same_shares_elsewhere_and_refuses_others_unless_they_are_a_change(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.toml").write_text(config.dump(mixture(tmp_path, Path("/a"), Path("/b"))))
    refuse_another(recipe('data.shards=["/moved/a=0.7", "/moved/b=0.3"]', out=tmp_path), [])
    for shards, now in (('["/a=1", "/b=1"]', "1/2, 1/2"), ('["/a", "/b"]', "none")):
        other = recipe(f"data.shards={shards}", out=tmp_path)
        with pytest.raises(ConfigError, match=f"weights 7/10, 3/10 -> {now}\n.* by --change data.shards="):
            refuse_another(other, ["optim.lr=1"])
        refuse_another(other, [f"data.shards={shards}"])


def test_a_folder_whose_name_ends_like_a_weight_is_not_taken_for_another(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "faces=3").symlink_to(faces)
    with pytest.raises(
        ShardError, match=r"is a folder, but reads as .*/faces with the weight 3; write .*/faces=3/ for"
    ):
        setup.opened(recipe(f"data.shards={tmp_path}/faces=3", out=tmp_path).data)
    [opened] = setup.opened(recipe(f"data.shards={tmp_path}/faces=3/", out=tmp_path).data)
    assert opened.samples == 110
