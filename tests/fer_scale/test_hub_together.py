"""Many processes of one machine that pull the same at the same time, as the jobs of an array do: fetched once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from damage import flip
from hub.client import WRITER
from hub.server import Hub

ROOT = Path(__file__).parents[2]
PULL = """
import os, sys, traceback
from fer_scale import hub
address, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    if os.fork() == 0:
        try:
            os.write(1, hub.pull(address).address.encode() + b"\\n")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count)))
"""


def together(count: int, server: Hub, home: Path, address: str) -> list[str]:
    """What so many processes say that begin to pull at one moment; forked, so that they need not import first."""
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
    settings["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", PULL, address, str(count)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def fetched(server: Hub, since: int = 0) -> Counter[str]:
    """How often each file's bytes were sent."""
    wanted = [r for r in server.requests[since:] if r.startswith(("GET /cdn/", "GET /lab/faces/resolve/"))]
    return Counter(wanted)


def _fetch_once(count: int, published: str, server: Hub, tmp_path: Path) -> None:
    home, before = tmp_path / "home", len(server.requests)
    assert together(count, server, home, "hf://lab/faces") == [published] * count
    sent = fetched(server, before)
    assert len(sent) == 4 and set(sent.values()) == {1}, sent
    flip(next(home.rglob("model.safetensors")).resolve())
    before = len(server.requests)
    assert together(count, server, home, published) == [published] * count, "and damage is mended once"
    assert list(fetched(server, before).values()) == [1]


def test_a_dozen_processes_that_begin_at_once_fetch_once(published: str, hub_server: Hub, tmp_path: Path) -> None:
    _fetch_once(12, published, hub_server, tmp_path)


@pytest.mark.slow
def test_a_hundred_processes_that_begin_at_once_fetch_once(published: str, hub_server: Hub, tmp_path: Path) -> None:
    _fetch_once(100, published, hub_server, tmp_path)
