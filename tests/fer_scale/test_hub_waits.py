"""What only waits is not given up, and what may go better the next time says so by its exit code."""

import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub.client import running
from hub.looking import contents, held
from hub.server import Hub
from huggingface_hub import constants

from fer_scale import hub
from fer_scale.hub_errors import Changed, StrangeHub
from shards.errors import Broken

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload


@pytest.mark.parametrize("xet", [True, False], ids=["Xet", "LFS"])
def test_a_pull_waits_for_another_program_that_fetches_the_same_file_however_long_that_takes(
    xet: bool, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    with running(tmp_path, monkeypatch, xet=xet) as server:
        hub.push(encoder_folder, "hf://lab/faces", message="m")
        monkeypatch.setattr("fer_scale.hub_client.SILENCE_S", 0.7)
        monkeypatch.setattr("fer_scale.hub_client.PATIENCE_S", 0.7)
        locks = Path(constants.HF_HUB_CACHE) / ".locks" / "models--lab--faces"
        locks.mkdir(parents=True)
        with (locks / f"{held(server)['model.safetensors']}.lock").open("w") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            threading.Timer(2.5, fcntl.flock, (theirs, fcntl.LOCK_UN)).start()
            began = time.monotonic()
            pulled = hub.pull("hf://lab/faces")
        assert time.monotonic() - began > 2, "it waited"
        assert contents(pulled.folder) == contents(encoder_folder)


@pytest.mark.parametrize("again", [True, False], ids=["another push", "a proxy's page"])
def test_what_another_push_or_a_proxys_page_stopped_may_be_tried_again(
    again: bool,
    published: str,
    hub_server: Hub,
    make_encoder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    if again:
        hub_server.faults.add("status", "POST", "/commit/main", status=412, times=99)
        with pytest.raises(Changed) as caught:
            hub.push(make_encoder(tmp_path / "other", seed=1), "hf://lab/faces", message="m")
    else:
        hub_server.faults.add("portal", "GET", "/api/models/", times=99)
        with pytest.raises(StrangeHub) as caught:  # type: ignore[assignment]
            hub.pull("hf://lab/faces")
    assert isinstance(caught.value, Broken), "exit code 75"
