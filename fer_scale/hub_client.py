"""The Hub behind a client that neither waits for ever nor gives up at once, and its errors in plain words.

Measured with huggingface_hub 2.4: its HTTP client has no time limit (a silent peer hangs an upload for good), and
`create_repo`, `model_info`, tags, commits and the first byte of a download are not tried again after a 500 or a cut
connection. hub.py is the only user of this file; these two alone know the Hub.
"""

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_session, get_token, is_offline_mode, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]  # exported lazily

from fer_scale import artifact
from shards.errors import UserError

Result = TypeVar("Result")

SILENCE_S = 30.0  # a peer that says nothing for so long is given up
TRIES = 5
WAIT_S = 0.5  # before the second try; doubles with each
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone at the next try
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(UserError):
    """A model that could not be pushed or pulled, with what to do about it."""


@functools.cache
def connect() -> HfApi:
    """The Hub's API, over a client whose every request has a time limit (some of its calls ask for none)."""
    hooks = list(get_session().event_hooks["request"])

    def limit(request: httpx.Request) -> None:
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: min(asked.get(phase) or SILENCE_S, SILENCE_S) for phase in ("connect", "read", "write", "pool")
        }

    set_client_factory(lambda: httpx.Client(event_hooks={"request": [*hooks, limit]}, follow_redirects=True))
    return HfApi()


def patiently(call: Callable[[], Result]) -> Result:
    """The call's result, tried again while what fails may pass."""
    for attempt in range(TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise
            wait(attempt, error)
    return call()


def wait(attempt: int, error: Exception) -> None:
    """Wait after a failed attempt, as the Hub asks or twice as long each time; raise `error` if that is too long."""
    seconds = _asked_pause_s(error) or WAIT_S * 2**attempt
    if seconds > SILENCE_S:
        raise error
    time.sleep(seconds)


def _asked_pause_s(error: BaseException) -> float | None:
    """What the Hub says about when to come again, in either of its two headers."""
    if not isinstance(error, HfHubHTTPError):
        return None
    if limit := parse_ratelimit_headers(error.response.headers):
        return float(limit.reset_in_seconds)
    wanted = error.response.headers.get("Retry-After", "")
    return float(wanted) if wanted.isdigit() else None


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if any; an upload's is hidden under a RuntimeError."""
    return next((e.response.status_code for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):  # tried often enough by huggingface_hub
        return False
    if (status := status_of(error)) is not None:
        return status in _PASSING
    cut = "Consistency check failed"  # a response shorter than promised
    return any(isinstance(e, httpx.TransportError) or cut in str(e) for e in _causes(error))


@contextmanager
def plain_words(address: str, repo: str) -> Iterator[None]:
    """Turns what huggingface_hub raises inside into a HubError about `address`."""
    try:
        with artifact.disk_errors(Path(constants.HF_HUB_CACHE)):
            yield
    except UserError:
        raise
    except Exception as error:
        if (words := _words(error, f"{constants.ENDPOINT}/{repo}")) is None:
            raise
        raise HubError(f"{address}: {words}") from error


def _words(error: Exception, page: str) -> str | None:
    """What happened and what to do, or None for an error that is nobody's but ours."""
    status, token = status_of(error), get_token()
    if isinstance(error, GatedRepoError):
        return f"is gated: ask for access at {page}, then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        hint = "one that this token may not see" if token else f"a private one: then {_LOG_IN}"
        return f"no such repository at {page}, or {hint}"
    if status == 401:
        return (
            f"the Hub does not accept this token (has it expired?); {_LOG_IN}" if token else f"not logged in; {_LOG_IN}"
        )
    if status == 403:
        return f"this token may not do that; it needs the right to write to {page}"
    if status == 429:
        pause = _asked_pause_s(error)
        return f"too many requests for the Hub's rate limit; try again {f'in {pause:.0f} s' if pause else 'later'}"
    if isinstance(error, HFValidationError):
        return f"not a name that the Hub allows ({_clean(str(error))})"
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and is_offline_mode()):
        return "not in the cache, and HF_HUB_OFFLINE=1 is set; pull it once where there is a network"
    if status is not None:
        said = next((e.server_message for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)
        return f"the Hub answered {status} ({_clean(said or 'no reason given')}); try again later"
    if isinstance(error, LocalEntryNotFoundError | ConnectionError) or may_pass(error):
        cause = list(_causes(error))[-1]
        return (
            f"no answer from {constants.ENDPOINT} ({_clean(str(cause)) or type(cause).__name__}); look at network and "
            "proxy; a model that was pulled before can be used with HF_HUB_OFFLINE=1"
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what lies under it."""
    while error is not None:
        yield error
        error = error.__cause__


def _clean(text: str) -> str:
    """One line without anything that looks like a token."""
    return re.sub(r"hf_\w{4,}", "hf_...", " ".join(text.split()))[:200]
