"""What one can ask of checkpoints: what there is, whether it is whole, how two differ, and tensors out of one."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from damage import flip
from safetensors.torch import load_file

from fer_scale import checkpoint, checkpoints, compare
from fer_scale.__main__ import main

RECIPE = "[optim]\nlr = {lr}\n[run]\nsteps = 9\n"
SAID = Callable[..., str]


def state(step: float) -> dict[str, torch.Tensor]:
    """Tensors of all kinds and widths; an odd count of bytes comes before fp32."""
    return {
        "w.encoder.blocks.0.proj.weight": torch.full((3, 4), step),
        "w.encoder.blocks.1.proj.weight": torch.full((3, 4), 2.0),
        "w.mask_token": torch.ones(5, dtype=torch.bfloat16),
        "m.mask_token": torch.zeros(5),
        "v.mask_token": torch.zeros(5),
        "f.encoder.pos_embed": torch.linspace(0, 1, 6).reshape(2, 3),
        "b.flag": torch.tensor([True, False, True]),
        "b.count": torch.tensor(7),
    }


def save(
    run: Path, step: int, tensors: dict[str, torch.Tensor] | None = None, writers: int = 2, lr: object = 1
) -> Path:
    """A checkpoint; written by hand, since what trains refuses values that are not finite."""
    place = checkpoint.folder_of(run, step)
    part = place.with_suffix(".part")
    part.mkdir(parents=True)
    files = []
    for k in range(writers):
        data = safetensors.torch.save(dict(list((tensors or state(step)).items())[k::writers]))
        name = f"state-{k:02d}-of-{writers:02d}.safetensors"
        (part / name).write_bytes(data)
        files.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    checkpoint.finish(part, place, files, {"step": step, "adam_step": step - 1, "recipe": RECIPE.format(lr=lr)})
    return place


def unfinished(run: Path, step: int) -> None:
    """A save that was killed."""
    part = checkpoint.folder_of(run, step).with_suffix(".0001.part")
    part.mkdir()
    (part / "state-00-of-02.safetensors").write_bytes(b"half")


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (10, 20):
        save(tmp_path / "run", step)
    return tmp_path / "run"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> SAID:
    """said(code, ...): what `fer-scale checkpoint ...` prints where it ends with this code."""

    def call(code: int, *words: str | Path) -> str:
        assert main(["checkpoint", *map(str, words)]) == code
        printed = capsys.readouterr()
        return printed.err if printed.err else printed.out

    return call


def test_ls_tells_by_sizes_what_is_complete_incomplete_damaged_or_set_aside(run: Path, said: SAID) -> None:
    for step in (30, 40, 50):
        save(run, step)
    (run / "checkpoints/step_00000030/manifest.json").unlink()
    (run / "checkpoints/step_00000040").rename(run / "checkpoints/step_00000040.damaged")
    (run / "checkpoints/step_00000050/progress.json").write_text("{}")
    unfinished(run, 60)
    (run / "checkpoints/step_00000020.tar").touch()  # a copy that somebody made
    rows = json.loads(said(0, "ls", run, "--json"))
    assert [(row["step"], row["state"]) for row in rows] == [
        (10, "complete"), (20, "complete"), (30, "incomplete"), (40, "set aside"), (50, "damaged"), (60, "incomplete"),
    ]  # fmt: skip
    assert rows[0]["bytes"] == sum(f.stat().st_size for f in (run / "checkpoints/step_00000010").iterdir())
    lines = said(0, "ls", run).splitlines()
    assert len(lines) == 8 and lines[1].endswith("kB  complete") and "damaged: progress.json: 2 bytes, not" in lines[5]


@pytest.mark.parametrize("name", ["step_decay", "step_2"])
def test_a_run_may_be_called_as_a_checkpoint(run: Path, said: SAID, name: str) -> None:
    run = run.rename(run.with_name(name))
    assert len(json.loads(said(0, "ls", run, "--json"))) == 2
    assert f"extracted          {run}.safetensors" in said(0, "extract", run, f"{run}.safetensors")


def test_what_is_whole_is_verified_to_the_last_byte(run: Path, said: SAID) -> None:
    found = json.loads(said(0, "verify", run, "--json"))
    assert found["damaged"] == [] and found["checkpoints"] == 2
    assert found["bytes"] == sum(file.stat().st_size for file in run.rglob("*.*") if file.is_file())
    assert "damaged            none" in said(0, "verify", run / "checkpoints/step_00000010")


def test_every_damage_is_named_and_not_the_first_alone(run: Path, said: SAID) -> None:
    first, second = run / "checkpoints/step_00000010", run / "checkpoints/step_00000020"
    flip(first / "state-00-of-02.safetensors", -1)
    (first / "state-01-of-02.safetensors").write_bytes(b"")
    (first / "state-02-of-03.safetensors").write_text("?")
    (second / "progress.json").unlink()
    (first / ".nfs0001").touch()  # deleted, and still open somewhere: no damage, as little as the next two
    (first / "SHA256SUMS").touch()
    unfinished(run, 30)
    lines = said(2, "verify", run).splitlines()
    assert "SHA256SUMS" not in "".join(lines)
    assert [line.strip() for line in lines[-4:]] == [
        f"{first}/state-02-of-03.safetensors: is not in manifest.json",
        f"{first}/state-00-of-02.safetensors: another sha256 than its manifest's",
        f"{first}/state-01-of-02.safetensors: 0 bytes, not {(second / 'state-01-of-02.safetensors').stat().st_size:,}",
        f"{second}/progress.json: is missing",
    ]


def test_a_checkpoint_under_the_name_of_another_step_and_one_without_a_manifest_are_damaged(run: Path) -> None:
    first, second = run / "checkpoints/step_00000010", run / "checkpoints/step_00000020"
    second.rename(moved := second.with_name("step_00000099"))
    assert list(checkpoints.damages(moved, lambda _: None)) == [
        f"{moved}/progress.json: is of step 20; the folder has another one's name"
    ]
    copied = first.rename(run / "kept for good")  # a name of one's own says nothing of a step
    assert list(checkpoints.damages(copied, lambda _: None)) == []
    (copied / "manifest.json").write_text('{"version": 1, "fi')
    assert "manifest.json is damaged" in next(checkpoints.damages(copied, lambda _: None))
    (copied / "manifest.json").unlink()
    assert "not complete" in next(checkpoints.damages(copied, lambda _: None))


def test_values_that_are_not_finite_are_damage_though_every_byte_is_as_it_was_written(
    tmp_path: Path, said: SAID
) -> None:
    tensors = state(1) | {"v.mask_token": torch.tensor([1, math.nan, 2, math.inf, -math.inf])}
    place = save(tmp_path, 1, tensors, writers=1)
    assert f"{place}/state-00-of-01.safetensors: v.mask_token: 3 of 5 values are not finite" in said(2, "verify", place)


def test_a_form_that_this_code_does_not_know_is_no_damage(run: Path, said: SAID) -> None:
    manifest = run / "checkpoints/step_00000010/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    assert "kB  too new: " in said(0, "ls", run)
    for place in (run, manifest.parent):
        words = said(2, "verify", place)
        assert "written in version 99" in words and "damaged" not in words


def test_two_checkpoints_of_one_state_are_equal_however_many_wrote_them(run: Path, tmp_path: Path, said: SAID) -> None:
    place = save(tmp_path / "other", 20, writers=3)
    assert "8, all equal" in said(0, "diff", run, place)
    assert json.loads(said(0, "diff", run, place, "--json"))["equal"] is True


def test_a_difference_is_told_by_recipe_progress_and_group_with_the_tensor_where_it_is_largest(
    run: Path, tmp_path: Path, said: SAID
) -> None:
    tensors = state(20) | {"w.mask_token": torch.ones(6), "w.extra": torch.ones(1)}
    tensors["w.encoder.blocks.1.proj.weight"][0, :2] = torch.tensor([2.5, math.nan])
    del tensors["b.count"]
    place = save(tmp_path / "other", 30, tensors, lr=2)
    found = compare.diff(run, place, quiet)  # of the run, its newest: step 20
    assert found["recipe"] == {"optim.lr": [1, 2]}
    assert found["progress"] == {"step": [20, 30], "adam_step": [19, 29]}
    assert (found["only in a"], found["only in b"]) == (["b.count"], ["w.extra"])
    assert found["other shapes"] == {"w.mask_token": ["BF16 [5]", "F32 [6]"]}
    [group] = [group for group in found["groups"] if group["differ"]]
    # 12 values of 20 and 12 of 2; one is larger by 0.5, one is not finite.
    assert group == {
        "name": "w.encoder.blocks", "tensors": 2, "values": 24, "differ": 2, "largest": 0.5,
        "at": "w.encoder.blocks.1.proj.weight", "not_finite": 1,
        "relative": pytest.approx(0.5 / math.sqrt(12 * 400 + 12 * 4)),
    }  # fmt: skip
    words = said(0, "diff", run, place)
    assert "recipe    optim.lr 1 -> 2\nprogress  step 20 -> 30\n" in words
    assert "shape     w.mask_token BF16 [5] -> F32 [6]" in words
    assert "1 values are not finite on one side  w.encoder.blocks.1.proj.weight" in words


def test_a_recipe_that_cannot_be_read_is_said_with_the_checkpoint_that_has_it(
    run: Path, tmp_path: Path, said: SAID
) -> None:
    place = save(tmp_path / "other", 20, lr='"a line\nand another"')
    assert f"{place}: the recipe in its progress.json cannot be read" in said(2, "diff", run, place)


def test_a_change_of_what_was_nothing_and_of_hardly_anything_is_not_told_as_none() -> None:
    group = {"name": "m.bias", "tensors": 1, "values": 10**6, "differ": 3, "largest": 0.5, "not_finite": 0, "at": ""}
    [_, row] = compare._table([group | {"relative": None}])
    assert row.split() == ["m.bias", "1", "1,000,000", "<1%", "5.0e-01", "-"]
    [_, row] = compare._table([group | {"differ": 0, "largest": 0.0, "relative": 0.0}])
    assert row.split() == ["m.bias", "1", "1,000,000", "0%", "0", "0"]


def test_tensors_are_taken_out_as_they_are(run: Path, tmp_path: Path, said: SAID) -> None:
    said(0, "extract", run, tmp_path / "all.safetensors")
    taken = load_file(tmp_path / "all.safetensors")
    assert taken.keys() == state(20).keys()
    assert all(
        torch.equal(taken[name], tensor) and taken[name].dtype == tensor.dtype for name, tensor in state(20).items()
    )
    said(0, "extract", run / "checkpoints/step_00000010", tmp_path / "w.safetensors", "--weights")
    taken = load_file(tmp_path / "w.safetensors")
    assert sorted(taken) == sorted(name[2:] for name in state(10) if name[0] in "wfb")
    assert taken["encoder.blocks.0.proj.weight"].unique().tolist() == [10]
    said(0, "extract", run, tmp_path / "m.safetensors", "--match", "[mv].*")
    assert sorted(load_file(tmp_path / "m.safetensors")) == ["m.mask_token", "v.mask_token"]


def test_nothing_is_taken_out_of_a_damaged_checkpoint_nor_written_over_a_file(
    run: Path, tmp_path: Path, said: SAID
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    assert f"{out}: is there already" in said(2, "extract", run, out)
    assert out.read_text() == "mine"
    out.unlink()
    flip(run / "checkpoints/step_00000020/state-01-of-02.safetensors", -1)
    assert "another sha256 than its manifest's; use another step" in said(2, "extract", run, out)
    assert "another sha256" in said(2, "diff", run, run)
    assert "no tensor matches x.*" in said(2, "extract", run / "checkpoints/step_00000010", out, "--match", "x.*")
    inside = run / "checkpoints/step_00000010/progress.json/a"
    assert f"{inside}: " in said(2, "extract", run / "checkpoints/step_00000010", inside)
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == [], "no file, and no part of one"


def test_every_wrong_place_is_told_apart(run: Path, tmp_path: Path, said: SAID) -> None:
    nothing, file = tmp_path / "nothing", run / "checkpoints/step_00000010/progress.json"
    for verb, more in (("ls", ()), ("verify", ()), ("diff", (run,)), ("extract", (tmp_path / "x",))):
        assert f"{nothing}: no such folder" in said(2, verb, nothing, *more)
        assert f"{file}: is no folder" in said(2, verb, file, *more)
        assert f"{tmp_path}: no run (no folder checkpoints) and no checkpoint" in said(2, verb, tmp_path, *more)
    assert "is one checkpoint; give the folder of its run" in said(2, "ls", file.parent)
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    for verb, more in (("verify", ()), ("diff", (run,)), ("extract", (tmp_path / "x",))):
        assert f"{tmp_path / 'new'}: no complete checkpoint" in said(2, verb, tmp_path / "new", *more)
