"""`fer-scale check`: mistakes before a job is queued, what a recipe costs, and the largest micro-batch that fits."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import RECIPE, recipe

from fer_scale.__main__ import main
from fer_scale.pretrain import check, setup
from fer_scale.pretrain.check import Wish
from shards.errors import UserError

ROOT = Path(__file__).parents[2]
KEEPS_MUCH = ["model.patch_px=2", "model.decoder_width=64", "model.decoder_depth=8"]  # 9 MB an image
LIMIT = 1_500_000_000  # bytes of data of a process; torch and DeepSpeed take about half of it


def checked(faces: Path, wish: Wish, *overrides: str) -> dict[str, Any]:
    return check.check(RECIPE, [f"data.shards={faces}", "run.out=none", *overrides], wish)


def test_a_column_for_each_number_of_ranks(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(RECIPE), f"data.shards={faces}", "run.out=none", "--ranks", "1,5,25"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ranks", "1", "5", "25"]
    assert next(line for line in lines if line.startswith("images a rank")).split()[-3:] == ["25", "5", "1"]
    assert any("25 ranks do not pay: 1 images each" in line for line in lines)


def test_json_has_every_figure_of_the_table(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(RECIPE), f"data.shards={faces}", "run.out=none", "--ranks", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [plan] = found["plans"]
    assert plan["ranks"] == 2 and plan["accumulation"] == 1 and plan["steps"] == 50 and plan["images_per_s"] > 0
    parts = plan["memory_gb"]
    always = parts["weights"] + parts["optimizer"] + parts["buffers"]
    assert parts["total"] == pytest.approx(always + max(parts["activations"], parts["gradients"]))
    assert 0 < plan["weak_rate_of_one_rank"] <= 1 and plan["weak_images_per_s"] > 0
    assert set(plan["memory_gb_by_stage"]) == {"0", "1", "2", "3"}


def test_the_memory_of_saves_is_that_of_the_whole_state(faces: Path) -> None:
    model = setup.build(recipe())
    whole = sum((12 if weight.requires_grad else 4) * weight.numel() for weight in model.parameters())
    [plan] = checked(faces, Wish())["plans"]
    assert plan["saving_gb"] == whole / 1e9 and plan["checkpoints_gb"] == 3 * whole / 1e9


def test_checkpoints_that_are_kept_for_good_are_counted_among_those_on_the_disk(faces: Path) -> None:
    keeps = ["run.checkpoint_every_steps=2", "run.keep_every_steps=6", "run.steps=none", "run.epochs=4"]
    [plan] = checked(faces, Wish(), *keeps)["plans"]
    assert plan["steps"] == 16 and plan["checkpoints_gb"] == pytest.approx((2 + 3) * plan["saving_gb"])  # 6 and 12


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["true", "false"])
def test_a_run_keeps_as_much_memory_for_its_saves_as_is_foretold(
    beside: str, faces: Path, tmp_path: Path, launch: Any
) -> None:
    large = ["model.encoder=512x10x8", "model.decoder_width=128", "model.decoder_heads=4"]  # 32 M weights
    words = [f"data.shards={faces}", f"run.out={tmp_path}", *large, f"run.checkpoint_async={beside}"]
    steps = ["batch.size=5", "run.steps=4", "run.checkpoint_every_steps=2"]
    said = launch(1, str(RECIPE.with_name("resident.py")), "pretrain", str(RECIPE), *words, *steps).wait()
    first, *more = [int(line.split()[-1]) for line in said.splitlines() if line.startswith("saving keeps ")]
    foretold = check.check(RECIPE, words, Wish())["plans"][0]["saving_gb"] * 1e9
    print(f"{first / 1e6:.0f} MB where {foretold / 1e6:.0f} are foretold, then {[round(m / 1e6) for m in more]}")
    assert first == pytest.approx(foretold, rel=0.1) and max(more) < foretold / 20


def test_gradients_in_bf16_halve_what_is_reduced(faces: Path) -> None:
    zero0 = f"run.deepspeed={ROOT}/configs/deepspeed/zero0.json"
    full, half = (checked(faces, Wish("2"), zero0, f"run.reduce_dtype={dtype}") for dtype in ("fp32", "bf16"))
    assert full["plans"][0]["wire_mb_a_step"] == 2 * half["plans"][0]["wire_mb_a_step"]


def test_what_a_stage_refuses_is_refused_before_a_job_is_queued(faces: Path) -> None:
    zero3 = f"run.deepspeed={ROOT}/configs/deepspeed/zero3.json"
    with pytest.raises(UserError, match=r"run\.compile: not at ZeRO stage 3"):
        checked(faces, Wish(), zero3, "run.compile=true")
    with pytest.raises(UserError, match=r"run\.reduce_dtype: bf16 at ZeRO stage 3 needs run\.precision=fp32"):
        checked(faces, Wish(), zero3, "run.reduce_dtype=bf16", "run.precision=bf16")


def test_a_layout_that_the_model_does_not_follow_is_said(faces: Path, tmp_path: Path) -> None:
    layout = tmp_path / "zero3.json"
    layout.write_text('{"zero_optimization": {"stage": 3, "stage3_max_reuse_distance": 1000}}')
    found = checked(faces, Wish(), f"run.deepspeed={layout}")
    assert any("stage3_max_reuse_distance is counted at its default" in line for line in check.table(found))


def test_half_the_network_is_twice_the_time_on_the_wire(faces: Path) -> None:
    gigabit, half = (checked(faces, Wish("2", node=1, network_gbps=gbps)) for gbps in (0.001, 0.0005))
    slow, slower = (found["plans"][0]["step_ms"]["wire"] for found in (gigabit, half))
    assert slower / slow == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "eight"], r"--ranks eight: give numbers of ranks with commas"),
        (["--ranks", "4,0"], r"--ranks 4,0: give numbers"),
        (["--ranks", "26"], r"batch.size = 25 is smaller than the number of ranks, 26"),
        (["--gpu", "h10"], r"--gpu h10: one of h100, h200, a100, l40s, cpu; did you mean"),
        (["--gpus-per-node", "0"], r"--gpus-per-node 0: a node has at least one rank"),
        (["--gpu", "h100", "--try"], r"--try measures on this machine, which has no GPU: say --gpu cpu"),
        (["--network-gbps", "-1"], r"--network-gbps -1.0: must be above 0"),
    ],
)
def test_mistakes_of_the_command_line_are_one_message(
    faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["check", str(RECIPE), f"data.shards={faces}", "run.out=none", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_share_is_priced_by_the_micro_batches_that_were_timed() -> None:
    timed = [(1, 7.0), (2, 7.0), (4, 8.0), (16, 14.0)]
    assert [check._timed(timed, micro) for micro in (0.5, 1, 3, 10, 16, 32)] == [7.0, 7.0, 7.5, 11.0, 14.0, 28.0]


def test_a_trial_that_fails_for_another_reason_than_memory_says_it(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"data.shards={faces}", "run.out=none", "model.start_from=nowhere", "--gpu", "cpu", "--try"]
    assert main(["check", str(RECIPE), *given]) == 2
    said = capsys.readouterr().err
    assert "--try: " in said and "nowhere" in said and "Traceback" not in said


def limited(*command: str) -> subprocess.CompletedProcess[str]:
    """A command that cannot have more than LIMIT bytes of data."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))

    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "fer_scale", *command]
    return subprocess.run(words, cwd=ROOT, env=env, preexec_fn=limit, capture_output=True, text=True, timeout=240)


def test_the_largest_micro_batch_under_a_limit_of_memory_runs_twenty_steps(faces: Path, tmp_path: Path) -> None:
    given = [str(RECIPE), f"data.shards={faces}", *KEEPS_MUCH, f"run.out={tmp_path / 'run'}"]
    found = limited("check", *given, "batch.size=110", "--gpu", "cpu", "--try", "--json")
    assert found.returncode == 0, found.stderr
    tried = json.loads(found.stdout)["tried"]
    assert 8 <= tried["micro"] < 110 and tried["limit"], tried
    micro = [f"batch.size={tried['micro']}", f"batch.micro={tried['micro']}"]
    run = limited("pretrain", *given, *micro, "run.steps=20")
    assert run.returncode == 0, run.stderr


def test_a_run_that_is_out_of_memory_says_what_to_change(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [str(RECIPE), f"data.shards={faces}", *KEEPS_MUCH, f"run.out={out}", "batch.size=110", "batch.micro=110"]
    run = limited("pretrain", *given)
    assert run.returncode == 2, run.stderr
    assert (
        "out of memory with batch.micro = 110: a smaller one changes the layout only" in run.stderr
        and "Traceback" not in run.stderr
    )
    ended = json.loads((out / "outcome.json").read_text())
    assert ended["outcome"] == "failed" and "out of memory" in ended["reason"]
    assert "can't allocate memory" in json.loads((out / "first_failure.json").read_text())["traceback"]
