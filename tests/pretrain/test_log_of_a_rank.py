"""What a rank says where it cannot keep its log."""

import threading
from pathlib import Path

import pytest
import torch

from fer_scale import tee
from fer_scale.pretrain import loop
from fer_scale.pretrain.world import World


def rank(number: int) -> World:
    return World(number, 2, torch.device("cpu"))


def test_a_folder_that_another_node_made_may_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tee, "keep", lambda file: file.open("x").close())  # not the output of these tests
    file = tmp_path / "logs" / "rank-1.log"
    late = threading.Timer(0.3, file.parent.mkdir)
    late.start()
    assert loop._kept(file, rank(1)) == ""
    late.join()


def test_what_is_in_the_way_is_said_with_its_host_and_a_hint_only_where_it_fits(tmp_path: Path) -> None:
    nowhere = tmp_path / "logs" / "rank-0.log"
    said = f"{rank(0).name}: run.out: {nowhere}: No such file or directory; every node needs this folder"
    assert loop._kept(nowhere, rank(0)).startswith(said)
    (tmp_path / "file").touch()
    wrong = tmp_path / "file" / "rank-1.log"
    assert loop._kept(wrong, rank(1)) == f"{rank(1).name}: run.out: {wrong}: Not a directory"
