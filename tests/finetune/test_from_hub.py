"""Fine-tuning from a repository of the Hub: a branch that moves moves no run, and the artifact says its commit."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState

sys.path.append(str(Path(__file__).parents[1]))  # `hub` is tests/hub
from hub import tiny
from hub.client import running
from hub.server import Hub

from fer_scale import hub
from fer_scale.finetune.loop import finetune
from fer_scale.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload
START = ["model.start_from=hf://lab/faces", 'model.architecture=""', "model.image_px=0", "model.patch_px=0"]


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    AcceleratorState._reset_state(True)  # accelerate keeps one state a process
    PartialState._reset_state()
    with running(tmp_path, monkeypatch) as server:
        yield server


def test_a_run_stays_with_the_commit_that_it_began_with_and_its_artifact_names_it(
    hub_server: Hub, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    first = hub.push(tiny.encoder_folder(tmp_path / "one"), "hf://lab/faces", message="one")
    file = recipe(steps=4, semi=2)
    assert finetune(file, [*START, "run.stop_after_steps=2"])["outcome"] == "preempted"
    asked = [request for request in hub_server.requests if request.startswith("GET /api/models/lab/faces")]
    assert "GET /api/models/lab/faces/revision/main" not in asked and asked.count("GET /api/models/lab/faces") <= 3
    second = hub.push(tiny.encoder_folder(tmp_path / "two", seed=1), "hf://lab/faces", message="two")
    assert second != first
    before = len(hub_server.requests)
    assert finetune(file, START)["outcome"] == "done"
    assert not hub_server.requests[before:], "what it began with is known, and lies in the cache"
    block = json.loads((tmp_path / "run/model/config.json").read_text())["fer_scale"]
    assert block["base_model"] == first
    address = publish(tmp_path / "run", "hf://lab/expressions", licence="mit", contact="https://example.org/contact")
    published = hub.pull(address).folder
    assert json.loads((published / "config.json").read_text())["fer_scale"]["base_model"] == first
    assert "base_model:" in (published / "README.md").read_text()
    assert first.partition("@")[2] in (published / "README.md").read_text()
