"""`pack --detector`: the model file by its path or from the Hub, and only the one whose bytes are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from hub.server import Hub

from fer_scale.__main__ import main
from fer_scale.demo.face import act, draw_face, person
from fer_scale.faces import finder
from shards.detector import DETECTOR
from shards.index import ShardSet

ADDRESS, FILE = "hf://opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three drawn faces, unlabeled."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        rng = np.random.default_rng(number)
        picture, _ = draw_face(person(rng), act("fear", rng), rng)
        picture.save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def publish(server: Hub, data: bytes, name: str = FILE) -> None:
    """Put a large file on the Hub, where the real one lies."""
    repo = server.store.create("opencv/face_detection_yunet")
    repo.commit({name: server.store.large(server.store.keep(data))}, "a model")


def packing(faces: Path, *options: str) -> int:
    return main(["pack", str(faces), str(faces.parent / "set"), "--source", "folder", "--workers", "1", *options])


def test_the_detector_comes_from_the_hub_once_and_then_from_the_cache(
    hub_server: Hub, yunet: Path, faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub_server, yunet.read_bytes())
    assert packing(faces, "--detector", ADDRESS, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["boxes"], said["detector"]) == ({"detector": 3}, "face_detection_yunet_2023mar")
    boxes = [sample.face and sample.face.box for sample in ShardSet.open(faces.parent / "set").samples_in_order()]
    assert all(boxes)
    hub_server.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = ["pack", str(faces), str(faces.parent / "again"), "--source", "folder", "--workers", "1"]
    assert main([*again, "--detector", ADDRESS]) == 0 and not hub_server.requests


def test_whoever_looks_for_faces_by_it_asks_the_hub_once(hub_server: Hub, yunet: Path) -> None:
    publish(hub_server, yunet.read_bytes())
    assert finder(ADDRESS).name == DETECTOR and hub_server.requests
    hub_server.requests.clear()
    assert finder(ADDRESS).name == DETECTOR and not hub_server.requests


def test_other_bytes_under_its_name_are_refused(
    hub_server: Hub, yunet: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub_server, b"no detector")
    assert packing(faces, "--detector", ADDRESS) == 2
    assert f"{FILE}: has other bytes (11) than" in capsys.readouterr().err
    assert not (faces.parent / "set").exists()


def test_a_repository_without_it_says_so(hub_server: Hub, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(hub_server, b"another", "face_detection_yunet_2026may.onnx")
    assert packing(faces, "--detector", ADDRESS) == 2
    assert f"{ADDRESS}: holds no {FILE}" in capsys.readouterr().err


def test_a_byte_damaged_on_the_way_is_fetched_again(hub_server: Hub, yunet: Path, faces: Path) -> None:
    publish(hub_server, yunet.read_bytes())
    hub_server.faults.add("damaged", "GET", "/cdn/")
    assert packing(faces, "--detector", ADDRESS) == 0 and hub_server.faults.fired == 1


def test_without_decoding_there_is_nothing_to_look_at(
    yunet: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert packing(faces, "--detector", str(yunet), "--no-decode-check") == 2
    assert "the detector needs pixels" in capsys.readouterr().err
    assert packing(faces, "--boxes", "detector") == 2
    assert "--detector" in capsys.readouterr().err
