"""A publisher killed at any request: the Hub holds the old version or the new one, and the same command goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # `hub` is tests/hub
from hub.client import WRITER
from hub.looking import commits, contents, held
from hub.schedules import release
from hub.server import Hub

from fer_scale import artifact

ROOT = Path(__file__).parents[2]
MOMENTS = 20


@pytest.fixture(params=[False, True], ids=["LFS", "Xet"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    started = Hub(tmp_path / "server", xet=request.param)
    yield started
    started.stop()


def _publisher(server: Hub, folder: Path, tag: str) -> subprocess.Popen[str]:
    home = folder.parent / "home"
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": WRITER, "PYTHONPATH": str(ROOT)}
    settings["HF_HUB_DISABLE_XET"] = "" if server.store.xet else "1"
    command = [sys.executable, str(ROOT / "tests/chaos/publisher.py"), str(folder), f"hf://lab/faces@{tag}"]
    return subprocess.Popen(
        command, env=os.environ | settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _hashes(server: Hub, folder: Path) -> dict[str, str]:
    return {name: server.store.digest(data) for name, data in contents(folder).items()}


@pytest.mark.chaos
def test_a_publisher_killed_at_20_moments_leaves_the_old_version_or_the_new_and_the_next_one_succeeds(
    server: Hub, tmp_path: Path
) -> None:
    def version(number: int) -> Path:
        folder = release(tmp_path / f"version{number}", number)
        artifact.seal(folder)
        return folder

    def publish(folder: Path, tag: str) -> int:
        process = _publisher(server, folder, tag)
        server.faults.clear()
        said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return len(server.requests)

    before = publish(version(0), "v0")
    length = publish(version(1), "v1") - before
    assert length > 10
    old = _hashes(server, tmp_path / "version1")
    seen = {"old": 0, "new": 0}
    for moment in range(MOMENTS):
        folder, tag = version(moment + 2), f"v{moment + 2}"
        new = _hashes(server, folder)
        process = _publisher(server, folder, tag)
        # The request of that moment is not done where it is reset, and done with nobody to hear of it otherwise.
        kind, nth = ("reset", "meanwhile")[moment % 2], moment * length // MOMENTS
        server.faults.add(kind, "", "", skip=nth, act=process.kill)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, "or this moment has shown nothing"
        holds = held(server)
        assert holds in (old, new)
        seen["new" if holds == new else "old"] += 1
        publish(folder, tag)
        assert held(server) == new == held(server, revision=tag)
        assert commits(server) == moment + 3, "one commit a version"
        old = new
    print(seen)
    assert seen["old"] and seen["new"]
