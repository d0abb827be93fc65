"""Evaluation, baselines and the one command, on coloured blobs."""

import base64
import csv
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor, nn

from fer_scale import encoder
from fer_scale.__main__ import main
from fer_scale.finetune import baselines, worst
from fer_scale.finetune.apply import ask
from fer_scale.finetune.evaluate import EvaluationError, evaluate, summary
from fer_scale.finetune.evaluate import _probabilities as of_both
from fer_scale.finetune.evaluate import _votes as votes_block
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.oneshot import Wish, oneshot
from fer_scale.finetune.pool import Pool
from fer_scale.finetune.split import split
from fer_scale.finetune.steps import Input
from fer_scale.loader import Batch
from fer_scale.log import progress, rows
from shards.errors import UserError
from shards.remote import open_set
from shards.sample import Face

sys.path.append(str(Path(__file__).parents[1] / "shards"))
from servers import Web


def test_an_evaluation_leaves_figures_predictions_and_pictures(
    model: str, labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    result = evaluate(model, labeled_set, tmp_path / "ev", split_file=split_file)
    assert result["samples"] == 30 and result["accuracy"] > 0.8 and result["warning"] is None
    assert json.loads((tmp_path / "ev/metrics.json").read_text()) == result
    for file, figures in (("predictions.csv", result), ("predictions_flip.csv", result["flip"])):
        lines = list(csv.DictReader((tmp_path / "ev" / file).read_text().splitlines()))
        right = sum(line["expression"] == line["predicted"] for line in lines)
        assert len(lines) == 30 and right / 30 == pytest.approx(figures["accuracy"])
        names = result["label_names"]
        squares = [(float(line[name]) - (name == line["expression"])) ** 2 for line in lines for name in names]
        assert sum(squares) / 30 == pytest.approx(figures["brier"], abs=1e-4)
    for name in ("confusion_matrix.png", "reliability.png", "coverage.png"):
        assert (tmp_path / "ev" / name).read_bytes()[:4] == b"\x89PNG"
    assert any("recall" in line for line in summary(result))
    assert sum("with flip" in line for line in summary(result)) == 4
    assert result["coverage"][-1]["accuracy"] == pytest.approx(result["accuracy"]) and result["votes"] is None


class Sides(nn.Module):
    """Looks at the left half of a picture for the first expression, at the right half for the second one."""

    def forward(self, pictures: Tensor) -> Tensor:
        left, right = pictures[..., :4], pictures[..., 4:]
        return 400 * torch.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], dim=1)


def test_figures_never_stand_beside_the_predictions_of_another_model(
    labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    """The second evaluation ends where it cannot write a picture; the first one's metrics.json is gone by then."""
    evaluate("baseline:majority", labeled_set, tmp_path, split_file=split_file)
    (tmp_path / "coverage.png").unlink()
    (tmp_path / "coverage.png").mkdir()
    with pytest.raises(IsADirectoryError):
        evaluate("baseline:pixels", labeled_set, tmp_path, split_file=split_file)
    assert (tmp_path / "predictions.csv").exists() and not (tmp_path / "metrics.json").exists()


def test_test_time_flip_asks_about_the_mirror_image_and_takes_the_mean_probability(labeled_set: Path) -> None:
    shard_set = open_set(labeled_set)
    pool = Pool(shard_set, shard_set.keys(0)[:20], slot_px=24)
    with progress("asking") as tick:
        answers = ask(Sides(), pool, Input(8, (0.0,) * 3, (1.0,) * 3), torch.device("cpu"), tick, mirror=True)
    assert answers.mirrored is not None
    assert torch.allclose(answers.mirrored, answers.logits.flip(1), atol=1e-2)
    seen, flipped = of_both(answers, np.arange(20) < 15)
    assert seen.shape == (15, 2) and abs(seen - 0.5).max() > 0.1
    assert flipped == pytest.approx(np.full((15, 2), 0.5), abs=1e-2)


def test_votes_are_measured_against_where_faces_carry_them() -> None:
    known = [Face(expression="happiness", votes={"happiness": 6.0, "neutral": 2.0, "fear": 1.0}), Face("neutral")]
    said = votes_block(known, np.array([[0.5, 0.5], [0.9, 0.1]]), ["neutral", "happiness"])
    assert said is not None and said["samples"] == 1
    assert said["cross_entropy"] == pytest.approx(math.log(2))
    assert said["entropy"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert votes_block(known[1:], np.array([[0.9, 0.1]]), ["neutral", "happiness"]) is None


def test_the_page_of_the_worst_mistakes_holds_the_surest_first_and_nothing_from_elsewhere(
    labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    page, out = tmp_path / "pages/worst.html", tmp_path / "ev"
    line = f"evaluate baseline:majority {labeled_set} --split {split_file} --out {out} --worst {page}"
    assert main(line.split()) == 0
    text = page.read_text()
    assert "faces of real people: do not publish" in text and "20 of 20 mistakes on 30 faces" in text
    assert text.count("<img") == text.count('src="data:image/png;base64,') == 20
    assert "http" not in text and not list(out.glob("*.html"))


def test_the_worst_mistakes_are_those_that_were_surest(labeled_set: Path, tmp_path: Path) -> None:
    shard_set = open_set(labeled_set)
    pool = Pool(shard_set, shard_set.keys(0)[:4], slot_px=24)
    said = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    names = ["fear", "<script>"]
    worst.write(tmp_path / "w.html", "a & b", pool, np.arange(4), said, np.array([1, 0, 0, 0]), names)
    text = (tmp_path / "w.html").read_text()
    found = re.findall(r"<figcaption>(.*?)<br>labeled (.*?)<br>(.*?)</figcaption>", text)
    assert [key for *_, key in found] == [pool.keys[2], pool.keys[3], pool.keys[0]]
    assert found[0][:2] == ("&lt;script&gt; 0.80", "fear 0.20") and "3 of 3 mistakes on 4 faces" in text
    assert "<script" not in text and "<title>a &amp; b</title>" in text
    first = base64.b64decode(re.findall(r"base64,([^\"]+)", text)[0])
    shown = np.asarray(Image.open(io.BytesIO(first)))
    assert np.array_equal(shown, pool.batch(np.array([2])).pixels[0].numpy())


def test_faces_the_model_may_have_seen_are_warned_of(
    model: str, labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    assert "by another split" in evaluate(model, labeled_set, tmp_path / "a")["warning"]
    named = evaluate(model, labeled_set, tmp_path / "b", split_file=split_file, list_name="valid")
    assert "'valid' were used in making" in named["warning"]


def test_faces_that_what_a_model_began_with_may_have_seen_are_warned_of(
    model: str, recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split(labeled_set, labels="24", seed=5, test="25%", out=tmp_path / "other.json")
    from_model = [f"model.start_from={model}", "model.architecture=", "model.image_px=0", "model.patch_px=0"]
    for run, start in (
        ("first", from_model),
        ("second", [f"model.start_from={tmp_path}/first/model", *from_model[1:]]),
    ):
        finetune(recipe(steps=2, semi=0, out=run), [*start, f"data.split={tmp_path / 'other.json'}"])
        assert "learned labels of this set by another split, perhaps of its list test" in capsys.readouterr().err
        AcceleratorState._reset_state(True)
        said = evaluate(
            str(tmp_path / run / "model"), labeled_set, tmp_path / f"ev-{run}", split_file=tmp_path / "other.json"
        )
        assert said["warning"] == (
            "what the model began with was trained on faces of this set by another split than this: "
            "it may have seen these faces"
        )


def test_faces_of_an_expression_the_model_does_not_know_are_left_out_and_counted(
    model: str, labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    config, state = encoder.read(Path(model))
    config["label_names"][2] = "contempt"
    encoder.write(tmp_path / "other", state, config)
    result = evaluate(str(tmp_path / "other"), labeled_set, tmp_path / "ev", split_file=split_file)
    assert result["samples"] == 20 and result["left_out"]["unknown_expression"] == 10
    assert result["per_class"]["contempt"]["recall"] is None


def test_the_baselines_learn_from_the_same_labels(labeled_set: Path, split_file: Path, tmp_path: Path) -> None:
    majority = evaluate("baseline:majority", labeled_set, tmp_path / "a", split_file=split_file)
    assert majority["accuracy"] == pytest.approx(1 / 3) and majority["uar"] == pytest.approx(1 / 3)
    pixels = evaluate("baseline:pixels", labeled_set, tmp_path / "b", split_file=split_file)
    assert pixels["accuracy"] > 0.6  # grey values hardly tell the colours apart
    again = evaluate("baseline:pixels", labeled_set, tmp_path / "c", split_file=split_file)
    assert again["confusion"] == pixels["confusion"]


def test_a_baseline_reads_faces_in_parts_and_learns_of_a_stand_in_what_it_shows(
    labeled_set: Path, split_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard_set = open_set(labeled_set)
    pool = Pool(shard_set, json.loads(split_file.read_text())["labeled"], slot_px=24)
    whole, numbers = baselines._pixels(pool)
    assert numbers.tolist() == list(range(24))
    monkeypatch.setattr(baselines, "_AT_ONCE", 5)
    read, asked = pool.batch, []

    def batch(ids: np.ndarray) -> Batch:
        asked.append(len(ids))
        return replace(read(np.where(ids == 7, 3, ids)), bad=("face 7",) if 7 in ids else ())

    monkeypatch.setattr(pool, "batch", batch)
    parts, numbers = baselines._pixels(pool)
    assert asked == [5, 5, 5, 5, 4] and numbers.tolist() == [*range(7), 3, *range(8, 24)]
    assert torch.allclose(parts, whole[numbers]) and "unreadable, replaced: face 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "with_split", "list_name", "message"),
    [
        (
            "baseline:pixel",
            True,
            "test",
            "baseline:pixel: no such baseline; there are baseline:majority, baseline:pixels",
        ),
        ("baseline:pixels", False, "test", "give one with --split"),
        ("baseline:pixels", True, "tests", "--list tests: a split holds the lists labeled"),
        ("baseline:pixels", True, "excluded", "its list 'excluded' is empty"),
    ],
)
def test_what_cannot_be_evaluated_says_why(
    labeled_set: Path, split_file: Path, tmp_path: Path, address: str, with_split: bool, list_name: str, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(
            address, labeled_set, tmp_path / "ev", split_file=split_file if with_split else None, list_name=list_name
        )


def test_an_encoder_without_expressions_is_no_model_to_evaluate(labeled_set: Path, tmp_path: Path) -> None:
    vit = encoder.build("32x2x2", image_px=16, patch_px=8)
    args = encoder.model_args("32x2x2", image_px=16, patch_px=8)
    said = encoder.make_config(vit, args, image_px=16, mean=(0.5,) * 3, std=(0.25,) * 3, block={})
    encoder.write(tmp_path / "encoder", vit.state_dict(), said)
    with pytest.raises(EvaluationError, match="is an encoder without expressions"):
        evaluate(str(tmp_path / "encoder"), labeled_set, tmp_path / "ev")


def test_the_one_command_packs_splits_trains_and_evaluates_and_goes_on(
    recipe: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    vit = encoder.build("32x2x2", image_px=16, patch_px=8)
    args = encoder.model_args("32x2x2", image_px=16, patch_px=8)
    said = encoder.make_config(vit, args, image_px=16, mean=(0.5,) * 3, std=(0.25,) * 3, block={})
    encoder.write(tmp_path / "encoder", vit.state_dict(), said)
    file = recipe(steps=40, semi=4)
    scratch = {"architecture", "image_px", "patch_px"}
    file.write_text("\n".join(x for x in file.read_text().splitlines() if x.split(" ")[0] not in scratch))
    wish = Wish(pictures, tmp_path / "all", "folder", "30", str(tmp_path / "encoder"))
    result = oneshot(file, [], wish)
    assert result["outcome"] == "done" and result["evaluation"]["samples"] == 30
    assert json.loads((tmp_path / "all/model/config.json").read_text())["fer_scale"]["base_model"] == str(
        tmp_path / "encoder"
    )
    for part in ("set/index.json", "split.json", "recipe.toml", "model/config.json", "evaluation/metrics.json"):
        assert (tmp_path / "all" / part).is_file(), part
    AcceleratorState._reset_state(True)
    assert oneshot(file, [], wish)["evaluation"]["confusion"] == result["evaluation"]["confusion"]
    longer = oneshot(file, [], wish, ["semi.steps=6"])
    assert longer["outcome"] == "done" and longer["step"] == 46
    with pytest.raises(UserError, match="was packed with source 'folder', not 'tar'"):
        oneshot(file, [], Wish(pictures, tmp_path / "all", "tar", "30", str(tmp_path / "encoder")))
    with pytest.raises(UserError, match="was drawn with"):
        oneshot(file, [], Wish(pictures, tmp_path / "all", "folder", "31", str(tmp_path / "encoder")))


def test_the_one_command_does_not_go_on_with_a_set_of_what_was_there_before(
    recipe: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    """Labels put right after the first look would have changed nothing, and nothing would have been said."""
    faces = shutil.copytree(pictures, tmp_path / "a/faces")
    wish = Wish(faces, tmp_path / "all", "folder", "24", licence="cc0-1.0")
    recipe, stop = recipe(), ["run.stop_after_steps=1"]
    assert oneshot(recipe, stop, wish)["outcome"] == "preempted"
    AcceleratorState._reset_state(True)
    other = shutil.copytree(pictures, tmp_path / "b/faces")
    for changed, words in (
        (replace(wish, data=other), "was packed with folder "),
        (replace(wish, licence="mit"), "was packed with licence 'cc0-1.0', not 'mit'"),
        (replace(wish, data=wish.out / "set"), "--source: .*set is a shard set"),
    ):
        with pytest.raises(UserError, match=words):
            oneshot(recipe, stop, changed)
    labels = (faces / "labels.jsonl").read_text()
    (faces / "labels.jsonl").write_text(labels + "\n")
    with pytest.raises(UserError, match=r"faces: has changed since .*set was packed; use another --out"):
        oneshot(recipe, stop, wish)
    shutil.rmtree(faces)
    assert oneshot(recipe, ["run.stop_after_steps=2"], wish)["step"] == 2


PACKED = "--labels 9999"  # what the split says of too many labels, so that a set is there and nothing is trained


def test_a_run_from_before_the_record_of_what_its_set_is_made_of_goes_on(pictures: Path, tmp_path: Path) -> None:
    wish = Wish(pictures, tmp_path / "all", "folder", "9999")
    for _ in range(2):
        with pytest.raises(UserError, match=PACKED):
            oneshot(tmp_path / "none.toml", [], wish)
        (wish.out / "set_made_of.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="was packed with licence 'unknown', not 'mit'"):
        oneshot(tmp_path / "none.toml", [], replace(wish, licence="mit"))


def test_packing_that_was_broken_off_goes_on_unless_a_picture_has_changed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of the same size is the same to the packer: its finished shards would hold the old one."""
    faces = shutil.copytree(pictures, tmp_path / "faces")
    file, wish = tmp_path / "none.toml", Wish(faces, tmp_path / "all", "folder", "9999")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shards.pack._finish", Mock(side_effect=KeyboardInterrupt))
        oneshot(file, [], wish)
    picture = next(faces.rglob("*.png"))
    was = picture.stat()
    os.utime(picture, (0, 0))
    with pytest.raises(UserError, match=r"has changed since .*; use another --out, or remove .*set\.unfinished to"):
        oneshot(file, [], wish)
    os.utime(picture, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(UserError, match=PACKED):
        oneshot(file, [], wish)


def test_pictures_behind_a_link_have_changed_too_but_not_by_what_is_hidden(pictures: Path, tmp_path: Path) -> None:
    real, linked = shutil.copytree(pictures, tmp_path / "real"), tmp_path / "linked"
    linked.mkdir()
    for name in [file.name for file in real.iterdir()]:
        (linked / name).symlink_to(real / name)
    (linked / "circle").symlink_to(linked)
    file, wish = tmp_path / "none.toml", Wish(linked, tmp_path / "all", "folder", "9999")
    for _ in range(2):
        with pytest.raises(UserError, match=PACKED):
            oneshot(file, [], wish)
        (linked / ".DS_Store").touch()
    os.utime(next(real.glob("*/*.png")), (0, 0))
    with pytest.raises(UserError, match="linked: has changed since"):
        oneshot(file, [], wish)


def test_an_out_inside_of_the_pictures_leaves_nothing_there(pictures: Path, tmp_path: Path) -> None:
    faces = shutil.copytree(pictures, tmp_path / "faces")
    with pytest.raises(UserError, match="lies inside of SRC"):
        oneshot(tmp_path / "none.toml", [], Wish(faces, faces / "all", "folder"))
    assert not (faces / "all").exists()


def test_the_one_command_takes_a_shard_set_as_it_is_and_asks_for_the_layout_of_else(
    recipe: Callable[..., Path], labeled_set: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    line = f"finetune {recipe(steps=2, semi=1)} supervised.steps=3 --data {labeled_set} --labels 20% --from none"
    assert main([*line.split(), *f"--seed 3 --test 30% --valid 10% --out {out} --json".split()]) == 0
    assert json.loads(capsys.readouterr().out)["set"] == "blobs" and not (out / "set").exists()
    drawn = json.loads((out / "split.json").read_text())
    assert drawn["sizes"] == {"test": "30%", "valid": "10%", "labeled": "20%"} and drawn["seed"] == 3
    assert rows(out / "metrics.jsonl")[-1]["step"] == 4
    with pytest.raises(UserError, match="is no shard set; say how its faces lie with --source"):
        oneshot(recipe(), [], Wish(pictures, tmp_path / "other", None, "5", "none"))


def test_the_one_command_reads_a_set_far_away(
    recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # the cache lies there
    web = Web(labeled_set)
    try:
        near, far = (oneshot(recipe(), [], Wish(where, tmp_path / name, None, "24", "none"))
                     for name, where in (("near", labeled_set), ("far", web.url)))  # fmt: skip
    finally:
        web.stop()
    assert near["evaluation"]["confusion"] == far["evaluation"]["confusion"]
    assert (tmp_path / "near/split.json").read_bytes() == (tmp_path / "far/split.json").read_bytes()
    tars = [name for name in web.requests if name.endswith(".tar")]
    assert len(tars) == len(set(tars)) > 1


def test_a_split_drawn_anew_does_not_fit_a_run_that_goes_on(
    recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path
) -> None:
    split(labeled_set, labels="24", seed=5, out=tmp_path / "other.json")
    finetune(recipe(), ["run.stop_after_steps=2"])
    AcceleratorState._reset_state(True)
    for word, option in (("run.out=elsewhere", "--out"), ("model.start_from=none", "--from")):
        with pytest.raises(UserError, match=f"{word}: --data gives .* itself; use {option}"):
            oneshot(recipe(), [word], Wish(labeled_set, tmp_path / "none", None, "24"))
    with pytest.raises(UserError, match="holds a run with another split"):
        finetune(recipe(), [f"data.split={tmp_path / 'other.json'}"])


def test_a_given_temperature_is_folded_in_and_what_was_measured_under_another_one_is_taken_back(
    recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path
) -> None:
    split(labeled_set, labels="24", seed=0, test="25%", out=tmp_path / "split.json")  # no list valid
    without = [f"data.split={tmp_path / 'split.json'}"]
    finetune(recipe(steps=2, semi=1), without)
    run = tmp_path / "run"
    plain = encoder.read(run / "model")
    assert (plain[0]["fer_scale"]["folded_temperature"], plain[0]["fer_scale"]["temperature_from"]) == (1.0, "none")
    evaluate(str(run / "model"), labeled_set, run / "evaluation", split_file=tmp_path / "split.json")
    AcceleratorState._reset_state(True)
    finetune(recipe(steps=2, semi=1), without, ["run.log_every_steps=2"])
    assert (run / "evaluation/metrics.json").exists()
    AcceleratorState._reset_state(True)
    finetune(recipe(steps=2, semi=1), without, ["run.temperature=2.5"])
    given = encoder.read(run / "model")
    assert (given[0]["fer_scale"]["folded_temperature"], given[0]["fer_scale"]["temperature_from"]) == (2.5, "given")
    assert torch.allclose(given[1]["head.weight"] * 2.5, plain[1]["head.weight"], atol=1e-7)
    assert not (run / "evaluation").exists()


def test_a_given_temperature_goes_before_the_one_that_valid_would_give(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    finetune(recipe(steps=2, semi=1, extra="temperature = 1.5"), [])
    block = encoder.read(tmp_path / "run/model")[0]["fer_scale"]
    assert (block["folded_temperature"], block["temperature_from"]) == (1.5, "given")
    with pytest.raises(UserError, match=r"temperature: must be 0 or lie in 0\.05\.\.20, not 0\.01"):
        finetune(recipe(extra="temperature = 0.01"), [])
