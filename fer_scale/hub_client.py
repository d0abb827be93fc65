"""The Hub behind a client that neither waits for ever, nor gives up at once, nor believes everything.

Measured with huggingface_hub 2.4: its HTTP client has no time limit (a silent peer hangs an upload for good);
`create_repo`, `model_info`, tags, commits and the first byte of a download are not tried again after a 500 or a cut
connection; and it makes a file's name of the ETag that a server sends: `"../../../x"` was written outside the cache.
"""

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_session, set_client_factory
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import hf_raise_for_status, httpx  # type: ignore[attr-defined]  # exported lazily

from fer_scale.hub_errors import HubError, NotLoggedIn, Silent, Strange, asked_pause_s, may_pass, pause_s
from shards import access
from shards.access import LOG_IN, clean
from shards.errors import UserError

Result = TypeVar("Result")

SILENCE_S = 20.0  # a peer that says nothing for so long is given up
TRICKLE_BPS = 100  # so is one that sends less, on the average of a SILENCE_S
PATIENCE_S = 80.0  # no request is begun again where nothing has come for so long
TRIES = 5
WAIT_S = 0.5  # before the second try; doubles with each
LONGEST_WAIT_S = 30.0  # if the Hub asks for a longer pause, it is the user's to decide


@functools.cache
def connect() -> HfApi:
    """The Hub's API, over a client whose every request has a time limit (some of its calls ask for none)."""
    try:
        refused = access.distrust(constants.ENDPOINT)
        hooks = list(get_session().event_hooks["request"])
    except (ImportError, ValueError, OSError) as error:  # it is made of the environment
        raise HubError(
            f"no client for the Hub can be made ({clean(str(error))}); look at HF_ENDPOINT, ALL_PROXY, HTTPS_PROXY and "
            "SSL_CERT_FILE"
        ) from error
    if refused:
        raise HubError(refused)
    if access.token() is None:
        raise NotLoggedIn(f"what HF_TOKEN or its file holds is no token: other signs than a token has; {LOG_IN}")
    ours: dict[str, list[Callable[..., None]]] = {
        "request": [*hooks, _limit],
        "response": [_refuse_strange, _refuse_long_pause, _watch],
    }
    set_client_factory(lambda: httpx.Client(event_hooks=ours, follow_redirects=True))
    return HfApi()


class _Life:
    """When anything of use came last while we ask: huggingface_hub tries again by itself, and does not look."""

    latest = 0.0
    asking = 0  # calls of ours that go on, in all threads


def alive() -> None:
    """Something of use has come, or left."""
    _Life.latest = time.monotonic()


def silence_s() -> float:
    """How long nothing of use has come."""
    return time.monotonic() - _Life.latest


@contextmanager
def asking() -> Iterator[None]:
    """Requests in here end with Silent when nothing of use comes for PATIENCE_S, whoever repeats them."""
    if not _Life.asking:
        alive()
    _Life.asking += 1
    try:
        yield
    finally:
        _Life.asking -= 1


def _limit(request: httpx.Request) -> None:
    if _Life.asking and silence_s() > PATIENCE_S:
        raise Silent(f"nothing of use came for {silence_s():.0f} s")
    asked = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        phase: min(asked.get(phase) or SILENCE_S, SILENCE_S) for phase in ("connect", "read", "write", "pool")
    }


def _refuse_strange(response: httpx.Response) -> None:
    """huggingface_hub makes names of files of these headers: whatever could lead out of its folders is refused."""
    headers = response.headers
    if response.request.method == "HEAD":
        tag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        if not re.fullmatch(r"\w[\w+=.-]*|", tag):
            raise Strange(f"ETag {tag[:80]!r}", harmful=True)
    if not re.fullmatch("[0-9a-f]{40}|", commit := headers.get("X-Repo-Commit") or ""):
        raise Strange(f"X-Repo-Commit {commit[:80]!r}", harmful=True)

    if response.is_redirect and response.status_code < 307 and response.request.method not in ("GET", "HEAD"):
        raise Strange(f"{response.status_code} for a {response.request.method}, which would become a GET")


def _refuse_long_pause(response: httpx.Response) -> None:
    """huggingface_hub would wait as long as it is told to."""
    if (pause_s(response) or 0) > LONGEST_WAIT_S:
        response.read()
        hf_raise_for_status(response)


def _watch(response: httpx.Response) -> None:
    """Has the body give up on a peer that keeps a connection open by a few bytes now and then."""
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Watched(response.stream, of_use=response.status_code < 400)


class _Watched(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, *, of_use: bool) -> None:
        self._stream, self._of_use = stream, of_use

    def __iter__(self) -> Iterator[bytes]:
        since, arrived = time.monotonic(), 0
        for piece in self._stream:
            yield piece
            arrived += len(piece)
            if (now := time.monotonic()) - since > SILENCE_S:
                if arrived < TRICKLE_BPS * (now - since):
                    raise httpx.ReadTimeout(f"only {arrived} bytes in {now - since:.0f} s")
                since, arrived = now, 0
                self._tell()
        self._tell()

    def _tell(self) -> None:
        if self._of_use:
            alive()

    def close(self) -> None:
        self._stream.close()


def patiently(call: Callable[[], Result]) -> Result:
    """The call's result, tried again while what fails may pass."""
    with asking():
        for attempt in range(TRIES - 1):
            try:
                return once(call)
            except Exception as error:
                if not may_pass(error) or silence_s() > PATIENCE_S:
                    raise
                wait(attempt, error)
        return once(call)


def once(call: Callable[[], Result]) -> Result:
    """The call's result; what huggingface_hub stumbles over in an answer is the answer's fault."""
    try:
        with asking():
            return call()
    except (HFValidationError, UserError):
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        if "Invalid metadata in README.md" in str(error):
            raise HubError(f"the Hub refuses the card's front matter: {clean(str(error))}; mend README.md") from error
        raise Strange(f"{type(error).__name__}: {error}") from error


def wait(attempt: int, error: Exception) -> None:
    """Wait after a failed attempt, as the Hub asks or twice as long each time; raise `error` if that is too long."""
    seconds = asked_pause_s(error) or WAIT_S * 2**attempt
    if seconds > LONGEST_WAIT_S:
        raise error
    time.sleep(seconds)
