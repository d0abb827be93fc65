"""Whether a rank sees the run's folder, and what it says where it cannot keep its log."""

import threading
from pathlib import Path

import torch

from fer_scale import ending, resume
from fer_scale.pretrain import begin
from fer_scale.pretrain.world import World


def rank(number: int) -> World:
    return World(number, 2, torch.device("cpu"))


def test_a_folder_that_another_node_made_may_come_late(tmp_path: Path) -> None:
    claimed = ending.claim(tmp_path)
    claim = claimed.folder / "claim.json"
    text = claim.read_text()
    claim.unlink()
    late = threading.Timer(0.3, claim.write_text, [text])
    late.start()
    assert resume.as_seen_here(claimed) == claimed
    late.join()
    claim.write_text(text.replace(claimed.nonce, "0" * 16))  # a folder of the same name on another disk
    assert resume.as_seen_here(claimed).folder.name == f"0001.{claimed.nonce}"


def test_what_is_in_the_way_of_a_log_is_said_with_its_host(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = tmp_path / "file" / "rank-1.log"
    assert begin._kept(wrong, rank(1)) == f"{rank(1).name}: run.out: {wrong}: File exists"
