"""A shard set on the Hub: there whole or not at all, sent once, and read by us and by others as it lies on disk."""

import contextlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import flip
from hub.server import Hub
from PIL import Image

from fer_scale import log, set_card, sets
from fer_scale.__main__ import main
from fer_scale.hub import HubError
from fer_scale.sets import SetError
from shards.index import ShardSet
from shards.pack import pack
from shards.remote import open_set
from shards.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

ROOT = Path(__file__).parents[2]
REPO, ADDRESS = "datasets/lab/faces", "hf://datasets/lab/faces"


@pytest.fixture(autouse=True)
def endpoint(hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """shards/ reads where the Hub is from the environment."""
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    monkeypatch.setenv("HOME", str(tmp_path))  # and where its cache is


@pytest.fixture
def mine(faces: Path, tmp_path: Path) -> Path:
    """The set in a folder that may be changed."""
    return shutil.copytree(faces, tmp_path / "mine")


def contents(server: Hub) -> dict[str, bytes]:
    """What lies on main, by name."""
    files = server.store.repos[REPO].at("main").files
    return {name: server.store.blob(file.sha256).read_bytes() for name, file in files.items()}


def commits(server: Hub) -> int:
    return len(server.store.repos[REPO].commits) - 1


def sent(server: Hub) -> list[str]:
    """The sha256 of each large file that arrived, and forget it."""
    found = [match[1] for one in server.requests if (match := re.fullmatch(r"PUT /lfs/([0-9a-f]{64}).*", one))]
    server.requests.clear()
    return found


# ---- publishing


def test_a_published_set_is_the_set_with_a_card_in_one_commit(hub_server: Hub, faces: Path, tmp_path: Path) -> None:
    address = sets.publish(faces, ADDRESS)
    assert re.fullmatch(rf"{ADDRESS}@[0-9a-f]{{40}}", address) and commits(hub_server) == 1
    there = contents(hub_server)
    on_disk = {file.name: file.read_bytes() for file in faces.iterdir()}
    assert {name: data for name, data in there.items() if name not in ("README.md", ".gitattributes")} == on_disk
    assert open_set(address, tmp_path / "far", 1).fingerprint == ShardSet.open(faces).fingerprint
    assert verify(address)["damaged"] == []


def test_the_same_again_sends_nothing(hub_server: Hub, faces: Path) -> None:
    address = sets.publish(faces, ADDRESS)
    assert len(sent(hub_server)) > 6, "tars and what lies beside them is no text"
    assert sets.publish(faces, ADDRESS) == address
    assert not sent(hub_server) and commits(hub_server) == 1


def test_a_tag_marks_a_release_and_a_new_version_takes_the_files_of_the_old_away(
    hub_server: Hub, faces: Path, mixed_sizes: Path
) -> None:
    first = sets.publish(faces, f"{ADDRESS}@v1")
    sets.publish(mixed_sizes, ADDRESS)
    assert not [name for name in contents(hub_server) if name.startswith("faces")]
    assert verify(f"{ADDRESS}@v1")["set"] == "faces" and verify(ADDRESS)["set"] == "mixed"
    with pytest.raises(HubError, match="a tag never moves"):
        sets.publish(mixed_sizes, f"{ADDRESS}@v1")
    assert sets.publish(faces, f"{ADDRESS}@v1") == first


def test_a_private_set_is_private_and_a_public_one_is_said_to_be_public(
    hub_server: Hub, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    sets.publish(faces, ADDRESS, private=True)
    assert hub_server.store.repos[REPO].private and not said
    sets.publish(faces, "hf://datasets/lab/open")
    assert said == ["note     110 pictures of people become public, unless the repository is private"]


def test_without_a_licence_nothing_is_sent_and_a_given_one_stands_in_the_index(
    hub_server: Hub, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = json.loads((mine / "index.json").read_text())
    (mine / "index.json").write_text(json.dumps(index | {"licence": "unknown"}))
    with pytest.raises(SetError, match=r"its index.json names no licence, and there is no default. Add --licence"):
        sets.publish(mine, ADDRESS)
    assert not hub_server.requests
    address = sets.publish(mine, ADDRESS, licence="research only, see the authors")
    assert open_set(address).index == index | {"licence": "research only, see the authors"}
    assert contents(hub_server)["LICENSE"] == b"research only, see the authors\n"
    assert json.loads((mine / "index.json").read_text())["licence"] == "unknown", "what lies here stays as it is"
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    (mine / "index.json").write_text(json.dumps(index))
    sets.publish(mine, ADDRESS, licence="mit")
    assert said[0] == "note     the set's index says 'cc0-1.0'; it is published as 'mit'"
    assert "LICENSE" not in contents(hub_server), "it was the former licence's"
    with pytest.raises(SetError, match="'unknown' is no licence; give the name of one"):
        sets.publish(mine, ADDRESS, licence="unknown")


@pytest.mark.parametrize("name", ["faces-000001.tar", "faces-000002.hashes", "left_out.jsonl"])
def test_a_damaged_set_is_not_sent(name: str, hub_server: Hub, mine: Path) -> None:
    flip(mine / name) if (mine / name).stat().st_size else (mine / name).write_text("{}")
    with pytest.raises(SetError, match=rf"mine: other bytes than were packed in {name}; nothing was sent"):
        sets.publish(mine, ADDRESS)
    assert not sent(hub_server) and REPO not in hub_server.store.repos


def test_who_may_not_write_there_hears_it_before_the_set_is_read(
    hub_server: Hub, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(mine / "faces-000001.tar")
    monkeypatch.setenv("HF_TOKEN", "hf_bobisastranger")
    with pytest.raises(HubError, match=r"lab/faces: there is none, and bob may not make one under lab"):
        sets.publish(mine, ADDRESS)


def test_what_cannot_be_meant_is_explained(
    hub_server: Hub, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for to in ("hf://lab/faces", str(tmp_path / "folder"), "hf://datasets/lab", "hf://datasets/lab/faces/one"):
        with pytest.raises(SetError, match=r"is a shard set, which is published to hf://datasets/ORG/NAME"):
            sets.publish(mine, to)
    monkeypatch.setattr(sets, "_MOST_FILES", 10)
    with pytest.raises(SetError, match=r"14 files; a folder of the Hub should hold 10 at most. Pack the set again"):
        sets.publish(mine, ADDRESS)
    assert main(["publish", str(mine), ADDRESS, "--step", "3"]) == 2
    assert "is a shard set; --step, --pictures" in capsys.readouterr().err
    index = json.loads((mine / "index.json").read_text())
    index["shards"][0]["name"] = "../../etc/passwd"
    (mine / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError):
        sets.publish(mine, ADDRESS)


def test_a_publication_that_is_killed_sends_only_the_rest_when_it_is_started_again(
    hub_server: Hub, faces: Path, tmp_path: Path
) -> None:
    index = ShardSet.open(faces).index
    held = index["shards"][2]["sha256"]
    hub_server.faults.add("silent", "PUT", f"/lfs/{held}", seconds=60)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub_server.url}
    command = [sys.executable, "-m", "fer_scale", "publish", str(faces), ADDRESS]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | home, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not hub_server.faults.fired:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)  # for the others that are under way
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = set(sent(hub_server)) - {held}
    assert commits(hub_server) == 0 and before
    sets.publish(faces, ADDRESS)
    after = sent(hub_server)
    assert held in after and not before & set(after) and len(after) == len(set(after))
    print(f"before {bytes_of(hub_server, before):,}, after {bytes_of(hub_server, after):,} bytes")
    large = {file.sha256: file.size for file in hub_server.store.repos[REPO].at("main").files.values() if file.lfs}
    assert bytes_of(hub_server, before) + bytes_of(hub_server, after) == sum(large.values())
    assert verify(ADDRESS)["damaged"] == []


@pytest.mark.chaos
def test_publications_killed_at_random_moments_send_each_file_once_and_leave_nothing_half(
    hub_server: Hub, tmp_path: Path
) -> None:
    src = tmp_path / "pictures"
    src.mkdir()
    for number in range(80):
        Image.effect_noise((24, 24), 99).save(src / f"{number}.png")
    pack(src, tmp_path / "many", source="folder", name="many", shard_mb=0.0005, workers=1, licence="mit")
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub_server.url}
    command = [sys.executable, "-m", "fer_scale", "publish", str(tmp_path / "many")]

    def start(to: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, to], cwd=ROOT, env=os.environ | home, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start("hf://datasets/lab/undisturbed").wait() == 0
    seconds, draw, arrived, killed = time.monotonic() - began, random.Random(0), list[str](), 0
    shutil.rmtree(hub_server.store.blob("x").parent)
    hub_server.store.blob("x").parent.mkdir()
    sent(hub_server)
    while killed < 20:
        process = start(ADDRESS)
        time.sleep(draw.uniform(0.2, 1.1) * seconds)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        arrived += sent(hub_server)
        assert REPO not in hub_server.store.repos or commits(hub_server) in (0, 1)
    sets.publish(tmp_path / "many", ADDRESS)
    arrived += sent(hub_server)
    assert commits(hub_server) == 1 and verify(ADDRESS)["damaged"] == []
    large = {file.sha256 for file in hub_server.store.repos[REPO].at("main").files.values() if file.lfs}
    twice = len(arrived) - len(set(arrived))
    print(f"{len(large)} large files, {twice} of them sent again after {killed} kills in {seconds:.1f} s")
    assert set(arrived) == large and twice <= 5 * killed, "those under way when the publisher died, five at once"


def bytes_of(server: Hub, sums: Any) -> int:
    return sum(server.store.blob(one).stat().st_size for one in sums)


# ---- reading


def test_the_whole_way_from_pictures_over_the_hub_to_the_losses_that_the_set_on_disk_gives(
    hub_server: Hub, faces: Path, tmp_path: Path, launch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(faces), ADDRESS, "--json"]) == 0
    address = json.loads(capsys.readouterr().out)["published"]
    assert main(["pull", ADDRESS, str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "pulled": address, "folder": str(tmp_path / "copy"),
    }  # fmt: skip
    driver, recipe = str(Path(__file__).with_name("from_hub.py")), str(ROOT / "tests/ranks/pretrain.toml")
    words = [driver, "pretrain", recipe, f"data.cache_dir={tmp_path / 'cache'}", "run.steps=3"]
    begun = [
        launch(1, *words, f"data.shards={shards}", f"run.out={tmp_path / place}", LOOPBACK=hub_server.url)
        for place, shards in (("disk", tmp_path / "copy"), ("hub", ADDRESS))
    ]
    for run in begun:
        run.wait()
    losses = [[row["loss"] for row in log.rows(tmp_path / place / "metrics.jsonl")] for place in ("disk", "hub")]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    assert json.loads((tmp_path / "hub" / "data.json").read_text())[0]["address"] == address


def code(server: Hub, word: str) -> str:
    """A block of the card as it is printed, but for where the Hub is."""
    blocks = re.findall(r"```python\n(.*?)```", contents(server)["README.md"].decode(), re.DOTALL)
    [found] = [block for block in blocks if word in block]
    return found.replace("https://huggingface.co", server.url)


def keys(said: str) -> list[str]:
    return [line.split()[0] for line in said.splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset fetches with curl")
def test_plain_webdataset_streams_it_as_the_card_says(hub_server: Hub, faces: Path) -> None:
    sets.publish(faces, ADDRESS)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code(hub_server, "import webdataset"), {})
    assert keys(said.getvalue()) == [f"{number:09d}" for number in range(110)]


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets (pip install -e .[dev])")
def test_plain_datasets_streams_it_as_the_card_says_whatever_its_samples_hold(
    hub_server: Hub, tmp_path: Path, labeled_and_mixed: Path
) -> None:
    sets.publish(labeled_and_mixed, ADDRESS)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub_server.url, "USE_TORCH": "0"}  # an import of seconds
    command = [sys.executable, "-c", code(hub_server, "import datasets")]
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert keys(done.stdout) == [f"{number:09d}" for number in range(24)]
    assert done.stdout.count("'jpg': <PIL.") == done.stdout.count("'png': <PIL.") == 12
    assert done.stdout.count("'expression': 'fear'") == 8 and done.stdout.count("'json': None") == 16


@pytest.fixture
def labeled_and_mixed(tmp_path: Path) -> Path:
    """24 pictures, half of them png, a third with a label: what lets `datasets` guess wrong."""
    src = tmp_path / "pictures"
    src.mkdir()
    for number in range(24):
        Image.new("RGB", (16, 16), (number * 9, 99, 9)).save(src / f"{number}.{'png' if number % 2 else 'jpg'}")
    lines = [{"path": f"{number}.{'png' if number % 2 else 'jpg'}", "expression": "fear"} for number in range(0, 24, 3)]
    (src / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings: dict[str, Any] = {"name": "mixed", "shard_mb": 0.01, "workers": 1, "licence": "cc-by-nc-4.0"}
    return pack(src, tmp_path / "labeled", source="folder", **settings).path


# ---- the card


FACTS = {
    "name": "lfw", "source": "folder", "split": "valid", "protocol": "argmax", "licence": "see https://vis-www.cs/lfw",
    "seed": 7, "samples": 13_233, "bytes": 70_000_000, "identities": 5_749, "detector": "yunet",
    "image_px": {"min": [20, 30], "max": [250, 250], "mean": [249.5, 249.9]}, "expressions": {"fear": 40},
    "boxes": {"detector": 13_000, "template": 233}, "left_out": {"cannot decode | x": 2}, "made": {"rotated, jpg": 3},
    "shards": [{"name": f"lfw-{number:06d}"} for number in range(3)],
}  # fmt: skip


def test_the_card_says_what_is_known_and_what_the_hub_indexes() -> None:
    card = set_card.text(FACTS, "ab" * 32, {"jpg", "json"}, name="lab/lfw", title="LFW", contact="privacy@lab.example")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other" and front["license_link"] == "https://vis-www.cs/lfw"
    assert front["size_categories"] == ["10K<n<100K"] and front["task_categories"] == ["image-classification"]
    assert front["configs"][0]["data_files"] == [{"split": "validation", "path": "lfw-*.tar"}]
    assert [column["name"] for column in front["dataset_info"]["features"]] == ["jpg", "json", "__key__", "__url__"]
    for words in (
        "# LFW", "13,233 pictures of faces of 5,749 people, 40 of them labeled by expression, in 3 tars", "fear 40",
        "min 20 x 30, mean 249.5 x 249.9, max 250 x 250", "detector 13,000, template 233", "cannot decode / x 2",
        "lfw-{000000..000002}.tar", 'face["jpg"], face.get("json")', 'split="validation"', "ab" * 32, "Take-down",
        "privacy@lab.example", "personal data", "see https://vis-www.cs/lfw.",
    ):  # fmt: skip
        assert words in card, words


@pytest.mark.parametrize(
    ("samples", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (42_000_000, "10M<n<100M"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_sizes_are_the_hubs_categories(samples: int, category: str) -> None:
    assert set_card._size(samples) == category
