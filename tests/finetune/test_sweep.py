"""Sweeps: which rows there are, what the table says of them, and that a killed one ends in the same table."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState

from fer_scale import artifact, config, encoder, log
from fer_scale.__main__ import main
from fer_scale.command_line import VERBS, parse
from fer_scale.config import ConfigError
from fer_scale.finetune import evaluate, jobs, loop, sweep_table
from fer_scale.finetune.protocols import PROTOCOLS, published
from fer_scale.finetune.statistics import interval, mcnemar, student_quantile
from fer_scale.finetune.sweep import _plan, _votes, sweep
from fer_scale.finetune.sweep_rows import Wish, cell_of, load, names, rows_of
from shards.errors import UserError


def test_student_quantiles_are_those_of_the_tables() -> None:
    """Percentage points of the t distribution, two-sided 5 %, as every book prints them."""
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}
    assert {n: round(student_quantile(0.975, n), 3) for n in printed} == printed
    assert round(student_quantile(0.995, 4), 3) == 4.604 and student_quantile(0.5, 3) < 1e-9


def test_an_interval_is_mean_and_t_times_the_error_of_the_mean() -> None:
    found = interval([0.5, 0.6, 0.7])  # deviation .1, so half of it is 4.303 * .1 / sqrt(3)
    assert found["mean"] == pytest.approx(0.6) and found["count"] == 3
    assert found["interval_95"] == pytest.approx([0.6 - 0.24841, 0.6 + 0.24841], abs=1e-5)
    assert interval([0.5]) == {"mean": 0.5, "interval_95": None, "count": 1}


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert mcnemar(0, 5) == mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(2, 5) == 2 * (1 + 7 + 21) / 128


@pytest.fixture
def start(tmp_path: Path) -> str:
    """An encoder that nobody has trained."""
    vit = encoder.build("32x2x2", image_px=16, patch_px=8)
    args = encoder.model_args("32x2x2", image_px=16, patch_px=8)
    said = encoder.make_config(vit, args, image_px=16, mean=(0.5,) * 3, std=(0.25,) * 3, block={"views": 1234})
    encoder.write(tmp_path / "encoder", vit.state_dict(), said)
    return str(tmp_path / "encoder")


@pytest.fixture
def wish(recipe: Callable[..., Path], labeled_set: Path, start: str, tmp_path: Path) -> Wish:
    """A sweep over the coloured blobs from that encoder: 6 steps of each stage."""
    file = recipe(steps=6, semi=6, extra="[augment]\nlabeled = 'weak'")
    kept = [
        line for line in file.read_text().splitlines() if not re.match("shards|split|start|arch|image|patch|out", line)
    ]
    file.write_text("\n".join(kept))
    return Wish(
        recipe=file,
        data=str(labeled_set),
        start_from=start,
        out=tmp_path / "sweep 😀",
        seeds=[0],
        labels=["12"],
        valid="12",
    )


def test_the_rows_are_the_ladder_and_the_product_of_what_varies(wish: Wish, start: str, tmp_path: Path) -> None:
    begun = encoder.config_of(Path(start))
    wide = replace(
        wish,
        vary=["semi.labeler=fixed,soft", "augment.crop_scale=[0.2,1],[0.7,1]"],
        more=[("x", wish.recipe, ("semi.lr=1",))],
    )
    rows = rows_of(wide, begun)
    assert [row.name for row in rows] == [
        "majority", "logistic regression on pixels", "small CNN from scratch (resnet10t)",
        "the same network from scratch", f"{names(wide)[0]}, stage 2", *names(wide), "x",
    ]  # fmt: skip
    assert names(wide)[1] == "run semi.labeler=fixed augment.crop_scale=[0.7,1]" and len(names(wide)) == 4
    assert "model.architecture=32x2x2" in rows[3].overrides and "model.patch_px=8" in rows[3].overrides
    assert "batch.micro=14" in rows[2].overrides  # batch norm sees whole batches
    sharp = replace(wish, overrides=["model.image_px=32"])
    assert load(sharp, rows_of(sharp, begun)[3]).model.image_px == 32  # as what it is compared with
    odd = rows_of(replace(wish, overrides=["supervised.batch=13"]), begun)[2]
    assert "batch.micro=14" in odd.overrides  # which are cut into pairs
    loose = rows_of(replace(wish, overrides=["augment.crop_of=face"]), begun)[1]
    [job] = _plan(wish, loose, cell_of(wish, "24", 0))
    assert job.commands[0][-2:] == ("--crop-of", "face") and job.makes.parent.parent.name == "pixels-face"
    steep = ["supervised.lr=0.3", "supervised.start_lr=0.1", "supervised.end_lr=0.02"]
    scratch = [load(wish, row).supervised for row in rows_of(replace(wish, overrides=steep), begun)[2:4]]
    assert [(p.start_lr, p.lr, p.end_lr, p.layer_decay) for p in scratch] == [(0, 1e-3, 0, 1.0)] * 2
    tracks = rows_of(replace(wish, ladder=False, vary=["supervised.target=argmax,votes"]), begun)
    assert [_votes(wish, row) for row in [*rows, *tracks]] == [False] * len(rows) + [False, True]
    assert [row.name for row in rows_of(replace(wish, ladder=False), begun)] == ["run"]
    with pytest.raises(UserError, match="two rows have one name: majority, "):
        rows_of(replace(wish, more=[("majority", wish.recipe, ())]), begun)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vary": ["semi.labeler"]}, "--vary semi.labeler: write section.key=ONE,ANOTHER"),
        ({"vary": ["semi.labeller=fixed"]}, "semi.labeller: unknown key; did you mean semi.labeler"),
        ({"vary": ["run.seed=1,2"]}, "run.seed=1,2: a sweep gives run.seed itself"),
        ({"overrides": ["model.start_from=other"]}, "model.start_from=other: a sweep gives model.start_from itself"),
        ({"vary": ["batch.micro=32,64"]}, "compute the same; leave one of them out"),
        ({"list_name": "tset"}, "--list tset: the splits of this sweep hold labeled, unlabeled, valid, test"),
        ({"list_name": "valid", "valid": None}, "hold labeled, unlabeled, test; draw one with --valid"),
    ],
)
def test_a_mistake_is_told_before_any_work(wish: Wish, given: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ConfigError), match=re.escape(message)):
        sweep(replace(wish, **given))
    assert not wish.out.exists()


def test_a_sweep_whose_facts_are_damaged_is_told(wish: Wish) -> None:
    wish.out.mkdir()
    (wish.out / "sweep.json").touch()
    with pytest.raises(UserError, match=r"sweep\.json: damaged"):
        sweep(wish)


def test_seeds_and_labels_are_read_as_lists() -> None:
    typed = ["sweep", "r.toml", "--data", "S", "--out", "O", "--labels", "284,5%,25/class", "--seeds", "0-2,7"]
    args = parse(VERBS, [*typed, "--recipe", "ssfer=s.toml supervised.lr=1", "semi.steps=3", "--jobs", "auto"])
    assert args.seeds == [0, 1, 2, 7] and args.labels == ["284", "5%", "25/class"]
    assert (
        args.more == [("ssfer", Path("s.toml"), ("supervised.lr=1",))]
        and args.overrides == ["semi.steps=3"]
        and args.jobs == 0
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--seeds", "0..4"], "0..4: write numbers, as 0-4 or 0,3"),
        (["--seeds", "4-0"], "4-0: there are none in it"),
        (["--seeds", "0-3,2"], "0-3,2: one stands twice"),
        (["--labels", ","], "there is nothing in it"),
        (["--jobs", "0"], "0: write auto, or how many runs at once"),
        (["--recipe", "ssfer"], "ssfer: write NAME=FILE"),
    ],
)
def test_what_cannot_be_read_is_told(typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(VERBS, ["sweep", "r.toml", "--data", "S", "--out", "O", "--labels", "284", *typed])
    assert message in capsys.readouterr().err


def test_as_many_jobs_run_on_a_gpu_as_fit_its_memory_and_the_cores() -> None:
    assert jobs.fit(80e9, 6e9, 32) == 12  # nine tenths of it
    assert jobs.fit(80e9, 6e9, 16) == 8  # two cores each
    assert jobs.fit(4e9, 6e9, 16) == 1


def evaluation(folder: Path, right: str, **more: Any) -> Path:
    """An evaluation of len(right) faces, answered right where it says "y"; its metrics.json."""
    folder.mkdir(parents=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "expression", "predicted", "confidence"])
        table.writerows([number, "fear", "fear" if r == "y" else "anger", "1.0"] for number, r in enumerate(right))
    share = right.count("y") / len(right)
    (folder / "metrics.json").write_text(json.dumps({"accuracy": share, "uar": share / 2, "ece": 0.1} | more))
    return folder / "metrics.json"


def test_the_table_pairs_runs_with_the_same_labels_and_leaves_open_what_is_not_there(tmp_path: Path) -> None:
    flip = {"flip": {"accuracy": 1.0, "uar": 1.0}}
    made = {
        ("ours", "5%", 0): evaluation(tmp_path / "a", "yyyyyyyynn", **flip),
        ("ours", "5%", 1): evaluation(tmp_path / "b", "yyyyyyyyyn", **flip),
        ("theirs", "5%", 0): evaluation(tmp_path / "c", "nnnnnnnnny"),
        ("theirs", "5%", 1): tmp_path / "failed" / "metrics.json",
    }
    (tmp_path / "split.json").write_text('{"labels": 1064}')
    splits = {("5%", seed): tmp_path / "split.json" for seed in (0, 1)}
    facts = {"set": "s", "list": "test", "test": "25%", "test_seed": 0, "encoder": None, "known_as": "FERPlus argmax"}
    table = sweep_table.write(tmp_path, ["ours", "theirs"], "ours", made, splits, facts | {"votes": ["theirs"]})
    ours, theirs = table["rows"]["ours"]["5%"], table["rows"]["theirs"]["5%"]
    assert ours["accuracy"]["mean"] == pytest.approx(0.85) and ours["flip_uar"]["mean"] == 1 and "against" not in ours
    assert theirs["accuracy"] == {"mean": 0.1, "interval_95": None, "count": 1}
    assert theirs["against"]["accuracy"]["mean"] == pytest.approx(-0.7) and theirs["against"]["uar"]["count"] == 1
    assert theirs["against"]["mcnemar"] == [
        {"seed": 0, "only_this_right": 1, "only_reference_right": 8, "p": pytest.approx(2 * 10 / 512)}
    ]
    text = (tmp_path / "table.md").read_text()
    assert "| ours | 85.0 ± 63.5 / 42.5 ± 31.8 |" in text and "| theirs | 10.0 / 5.0 |" in text
    assert "Trained on annotators' votes, another track than hard labels: theirs." in text
    assert "0 better, 1 worse" in text and "5% (1,064 labels)" in text
    assert "| published: SSFER, README (7,099 faces, other test faces) | 81.8 (with 1,419 labels) |" in text
    assert table == json.loads((tmp_path / "table.json").read_text())
    for name in ("accuracy", "uar"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_figures_of_another_list_than_test_are_not_taken_for_a_test(tmp_path: Path) -> None:
    facts = {"set": "s", "test": "official", "test_seed": None, "encoder": None, "known_as": "FERPlus argmax"}
    (tmp_path / "split.json").write_text('{"labels": 1419}')
    made, splits = {("r", "5%", 0): evaluation(tmp_path / "a", "yn")}, {("5%", 0): tmp_path / "split.json"}
    said = {}
    for name in ("test", "valid"):
        table = sweep_table.write(tmp_path, ["r"], "r", made, splits, facts | {"list": name, "votes": []})
        assert all(row["other_test_faces"] == (name == "valid") for row in table["published"])
        said[name] = sweep_table.markdown(table)
    assert "it is no test" in said["valid"] and "it is no test" not in said["test"]


def test_what_was_published_stands_beside_its_number_of_labels() -> None:
    drawn: dict[str, list[int | None]] = {"1419": [1419], "10%": [2129], "4/class": [32]}
    readme, weights = published("FERPlus argmax", drawn, official=True)
    assert readme["accuracy"] == pytest.approx({"1419": 0.8177, "10%": 0.8395}) and not readme["other_test_faces"]
    assert weights["accuracy"]["1419"] == pytest.approx(0.8194) and weights["test_faces"] == 7099
    assert published("FERPlus majority", drawn, official=True) == published(None, drawn, official=False) == []


def test_the_counts_of_the_protocols_are_shares_of_their_training_faces() -> None:
    for known in PROTOCOLS:
        for share, count in known.labels.items():
            exact = known.train * float(share.rstrip("%")) / 100
            assert abs(count - exact) <= known.classes / 2, (known.name, share)  # each expression is rounded
        assert all(len(accuracies) == len(known.labels) for accuracies in known.published.values())


def sweep_words(wish: Wish, *more: str) -> list[str]:
    given = ["--data", wish.data, "--from", wish.start_from, "--out", str(wish.out), "--valid", "12"]
    return ["sweep", str(wish.recipe), *given, "--labels", ",".join(wish.labels), "--seeds", "0", "--jobs", "2", *more]


def begin(wish: Wish, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fer_scale", *sweep_words(wish, *more)]
    env = os.environ | {"DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)


def straight(wish: Wish, tmp_path: Path) -> Path:
    """The one run of a sweep's cell as anybody would do it by hand: both stages in one go; its metrics.json."""
    split = wish.out / "splits" / "12-seed0.json"
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    given = [f"data.shards={wish.data}", f"data.split={split}", f"model.start_from={wish.start_from}"]
    loop.finetune(wish.recipe, [*given, f"run.out={tmp_path / 'straight'}"])
    evaluate.evaluate(str(tmp_path / "straight/model"), wish.data, tmp_path / "straight/found", split_file=split)
    return tmp_path / "straight" / "found" / "metrics.json"


def test_a_sweep_that_was_killed_ends_in_the_table_of_runs_that_went_straight_through(
    wish: Wish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in stage 2; then stage 3 goes on from a copy. The same bytes as by one run of both stages, by hand."""
    long = replace(wish, overrides=["supervised.steps=40"])
    killed = begin(long, "--no-ladder", "supervised.steps=40")
    while not (curves := list(wish.out.glob("runs/*/stage2-*/metrics.jsonl"))) or not log.rows(curves[0]):
        assert killed.poll() is None, "it ended too early"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (wish.out / "table.json").exists()
    assert main(sweep_words(long, "--no-ladder", "--json", "supervised.steps=40")) == 0
    table = json.loads(capsys.readouterr().out)
    assert table.pop("failed") == []
    by_hand = tmp_path / "by-hand.toml"
    by_hand.write_text(wish.recipe.read_text().replace("steps = 6\nbatch = 14", "steps = 40\nbatch = 14"))
    made = {("run", "12", 0): straight(replace(long, recipe=by_hand), tmp_path)}
    splits = {("12", 0): wish.out / "splits" / "12-seed0.json"}
    (tmp_path / "again").mkdir()
    sweep_table.write(tmp_path / "again", ["run"], "run", made, splits, table["about"])
    for name in ("table.json", "table.md"):
        assert (tmp_path / "again" / name).read_bytes() == (wish.out / name).read_bytes()
    assert (found := list(wish.out.glob("runs/*/stage3-*/evaluation/predictions.csv")))
    assert found[0].read_bytes() == (tmp_path / "straight/found/predictions.csv").read_bytes()
    assert not list(wish.out.glob("runs/*/stage3-*/checkpoints"))
    assert re.search(r"\| run \| \d+ \|", (wish.out / "seconds.md").read_text())


def test_what_was_trained_is_not_trained_again_for_another_list(wish: Wish) -> None:
    """Its checkpoints are gone by then, so it would begin anew; with other values than it was trained with it ends."""
    [row], cell = rows_of(replace(wish, ladder=False), {}), cell_of(wish, "12", 0)
    first = _plan(wish, row, cell)[-1]
    assert [command[0] for command in first.commands] == ["finetune", "evaluate"]
    run = first.said.parent
    (run / "model").mkdir(parents=True)
    (run / "model" / artifact.MANIFEST).touch()
    trained = load(wish, row, cell)
    (run / "recipe.toml").write_text(config.dump(trained))
    again = _plan(replace(wish, list_name="valid"), row, cell)[-1]
    assert [command[0] for command in again.commands] == ["evaluate"] and again.copy is None
    (run / "recipe.toml").write_text(config.dump(replace(trained, semi=replace(trained.semi, lr=9.0))))
    with pytest.raises(ConfigError, match=r"semi\.lr"):
        _plan(replace(wish, list_name="valid"), row, cell)


@pytest.mark.slow
def test_a_sweep_killed_at_any_moments_ends_in_the_table_of_one_that_was_let_be(wish: Wish, tmp_path: Path) -> None:
    """Two labelers, two label counts and the ladder; killed five times, the moments drawn by a seed."""
    more = ["--vary", "semi.labeler=fixed,softmatch"]
    both = replace(wish, labels=["12", "4/class"])
    let_be = replace(both, out=tmp_path / "let-be")
    began = time.monotonic()
    assert begin(let_be, *more).wait() == 0
    whole_s = time.monotonic() - began
    draw = random.Random(0)
    for _ in range(5):
        process = begin(both, *more)
        time.sleep(draw.uniform(0.05, 0.4) * whole_s)
        process.kill()
        process.wait()
    assert begin(both, *more).wait() == 0
    for name in ("table.json", "table.md"):
        assert (both.out / name).read_bytes() == (let_be.out / name).read_bytes()
    assert len(list(both.out.glob("runs/*/stage3-*"))) == 4  # and one stage 2 for both labelers
    assert len(list(both.out.glob("runs/*/stage2-*"))) == 2 * 3


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(wish: Wish, capsys: pytest.CaptureFixture[str]) -> None:
    """There are not so many labels: that draw fails, and what needs it; the other number of labels is measured."""
    assert main(sweep_words(replace(wish, labels=["100", "12"]), "--no-ladder", "semi.steps=0")) == 2
    said = capsys.readouterr()
    assert "split, 100 seed 0: exit code 2: fer-scale split: --labels 100: is 100 of" in said.err
    assert "run, 100 seed 0: not begun, for what it needs failed" in said.err
    table = json.loads((wish.out / "table.json").read_text())
    assert table["labels"] == {"100": [None], "12": [12]} and table["rows"]["run"]["100"]["runs"] == []
    assert len(table["rows"]["run"]["12"]["runs"]) == 1
    with pytest.raises(UserError, match="holds a sweep with test 25%, not 20%; give another --out"):
        sweep(replace(wish, test="20%"))
