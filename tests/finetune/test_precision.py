"""What half the precision changes: the speed, and hardly the answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from fer_scale import checkpoint
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.processes import join
from fer_scale.log import rows

DOOMED = str(Path(__file__).with_name("doomed.py"))


def test_half_precision_on_a_processor_takes_attention_apart_and_answers_nearly_the_same() -> None:
    """torch's fused attention of a CPU has a backward pass in bf16 that takes nine times as long."""
    torch.manual_seed(0)
    args = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_base_patch16_224", **args).eval()
    pictures = torch.randn(5, 3, 16, 16)
    exact = model(pictures)
    here = join("bf16")
    settled = here.settle(model)
    with here.autocast():
        found = settled(pictures).float()
    assert [block.attn.fused_attn for block in settled.blocks] == [False, False]
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


def test_fp16_goes_on_to_the_last_digit_with_the_scale_it_had(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Of a loss that is too large for fp16 the first steps are done again with half the scale, and none is lost."""
    asked = ["run.precision=fp16", "semi.weight=20000", "supervised.clip_norm=0.1"]
    finetune(recipe(steps=2, semi=4, out="whole"), asked)
    finetune(recipe(steps=2, semi=4, out="parts"), [*asked, "run.stop_after_steps=4"])
    finetune(recipe(steps=2, semi=4, out="parts"), asked)
    whole, parts = (rows(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts"))
    assert [(row["loss"], row["grad_norm"]) for row in whole] == [(row["loss"], row["grad_norm"]) for row in parts]
    assert [row["skipped_steps"] for row in whole] == [0] * 6
    scales = [row["scale"] for row in rows(tmp_path / "whole/events.jsonl") if row["event"] == "overflow"]
    assert scales == [2.0 ** (15 - i) for i in range(len(scales))] and scales
    newest, _ = checkpoint.newest(tmp_path / "whole")
    assert newest is not None and checkpoint.progress_of(newest)["scaler"]["scale"] == scales[-1]


@pytest.mark.slow
def test_fp16_leaves_out_a_step_whose_loss_is_no_number(
    recipe: Callable[..., Path], tmp_path: Path, launch: Callable[..., Any]
) -> None:
    """No scale helps against that: the step is told and left out, as in fp32, and not done again."""
    words = ["finetune", str(recipe()), f"run.out={tmp_path / 'run'}", "run.precision=fp16"]
    launch(1, DOOMED, *words, DOOM="loss", AT="3").wait()
    told = [row for row in rows(tmp_path / "run/events.jsonl") if row["event"] in ("skipped", "overflow")]
    assert [row["event"] for row in told if row["step"] == 3] == ["skipped"]
    assert rows(tmp_path / "run/metrics.jsonl")[-1]["skipped_steps"] == 1
