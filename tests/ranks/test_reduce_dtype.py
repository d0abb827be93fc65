"""run.reduce_dtype=bf16 halves what gradients cost on the network, and hardly moves the curve. Two real ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
from runs import layout

TRAFFIC = str(Path(__file__).parent / "traffic.py")


def test_gradients_travel_in_the_type_that_the_recipe_names(tmp_path: Path, launch: Any) -> None:
    for stage in range(4):
        layout(tmp_path, stage)
    said = launch(2, TRAFFIC, str(tmp_path)).wait()
    cases = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    found = {(c.pop("precision"), c.pop("stage"), c.pop("reduce_dtype")): c for c in cases}
    assert len(found) == 16
    assert "use stage 2, or fp32" in found.pop(("bf16", 3, "bf16"))["refused"]
    for (precision, stage, reduce_dtype), case in found.items():
        assert case["alike"], "all ranks hold the same weights"
        times = 2 if stage >= 2 else 1  # a step has two micro-batches, and DeepSpeed's stages 2 and 3 reduce each
        wanted = times * (2 if reduce_dtype == "bf16" else 4)
        assert case["sent"]["reduced"] == pytest.approx(wanted, rel=0.05), (precision, stage, reduce_dtype)
        exact = found[precision, stage, "fp32"]
        assert case["sent"].get("gathered") == exact["sent"].get("gathered"), "weights travel as ever"
        assert case["loss"] == pytest.approx(exact["loss"], rel=1e-3)
        assert (case["loss"] == exact["loss"]) == (reduce_dtype == "fp32")
