"""What a run says of its health is true, at every ZeRO stage. Two real ranks over gloo."""

import json
from pathlib import Path
from typing import Any

import pytest
from runs import layout

SEEN = str(Path(__file__).parent / "seen.py")
KEY_BIASES = 3 * 32  # of three blocks
DEAD_UNIT = 32 + 1 + 32  # the weights into it, its bias, the weights out of it


def test_update_dead_exploding_and_communication_are_what_they_say_at_every_stage(tmp_path: Path, launch: Any) -> None:
    for stage in range(4):
        layout(tmp_path, stage)
    said = launch(2, SEEN, str(tmp_path)).wait()
    stages = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert len(stages) == 4
    for seen in stages:
        assert seen["update_ratio"] == pytest.approx(seen["true_ratio"], rel=1e-5) and seen["true_ratio"] > 1e-4
        dead = seen["dead"] * seen["numel"]
        assert DEAD_UNIT <= round(dead) <= DEAD_UNIT + KEY_BIASES + 10, "a few more by chance"
        assert (seen["exploding"], seen["bad"]["exploding"]) == (0, 0.5), "all of one rank's of two"
        assert seen["bad"]["update_ratio"] is None, "the step was skipped"
        assert 0 < seen["communication"] < 1
        assert seen["otherwise"] == {}, "a step that is not logged is not looked at"
