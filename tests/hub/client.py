"""huggingface_hub in this process pointed at a Hub of ours; it reads its environment once, when it is imported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub.server import Hub
from huggingface_hub import close_session, constants

from fer_scale import hub_client, hub_xet

WRITER = "hf_alicewritestolab"


def point_at(server: Hub, cache: Path, put: Callable[[object, str, object], None], *, silence_s: float = 2.0) -> None:
    """Set constants by `put(module, name, value)`, as monkeypatch.setattr or plain setattr: endpoint, cache, waiting.

    Xet is used where the server has it. Who is logged in is HF_TOKEN's matter.
    """
    put(constants, "ENDPOINT", server.url)
    put(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    put(constants, "HF_HUB_CACHE", str(cache))
    put(constants, "HF_TOKEN_PATH", str(cache.with_name("no token here")))
    put(constants, "HF_HUB_DISABLE_XET", server.store.xet is None)
    put(hub_xet, "CHUNKS_AT", r"local://.+" if server.store.xet else hub_xet.CHUNKS_AT)
    put(hub_client, "WAIT_S", 0.01)
    put(hub_client, "SILENCE_S", silence_s)
    put(hub_client, "PATIENCE_S", 4 * silence_s)
    hub_client.connect.cache_clear()


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch, *, xet: bool = False) -> Iterator[Hub]:
    """A Hub, with this process pointed at it for one test: alice, who may write to `lab`, is logged in."""
    server = Hub(folder / "server", xet=xet)
    point_at(server, folder / "cache", monkeypatch.setattr)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    yield server
    close_session()
    server.stop()
