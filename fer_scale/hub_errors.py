"""What may go wrong between here and the Hub: one error a case, and huggingface_hub's in plain words.

    NotLoggedIn    no token, or one that the Hub does not know     Missing         no such repository for this token
    NoRight        the token may not do that                       WrongRevision   no such branch, tag or commit
    Gated          access must be asked for first                  RateLimited     too many requests; has .seconds
    NoNetwork      no answer, or nothing of use, for too long      DiskFull        nothing fits there any more
    Damaged        other bytes than the Hub's own hashes say       Changed         somebody else pushes, or took the tag
    StrangeHub     answers as no Hub does: a proxy, or worse       HubError        the rest; all these are HubErrors

Measured with huggingface_hub 2.4: a fault of the network may come as httpx's error, as RuntimeError with the cause
beneath (uploads), or as ConnectionError (Xet); 401 stands for a missing repository as well as for a missing login.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_token, is_offline_mode
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]  # exported lazily

from shards.access import LOG_IN, clean
from shards.errors import Broken, UserError

_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone at the next try
_FULL = (errno.ENOSPC, errno.EDQUOT)


class HubError(UserError):
    """What could not be pushed or pulled, with what to do about it."""


class NotLoggedIn(HubError):
    """There is no token, or the Hub does not know it (any more)."""


class NoRight(HubError):
    """This token may not do that."""


class Gated(HubError):
    """Its owners want to be asked for access."""


class Missing(HubError):
    """No such repository, or a private one that this token may not see: the Hub does not tell these apart."""


class WrongRevision(HubError):
    """The repository has no such branch, tag or commit."""


class RateLimited(HubError, Broken):
    """Too many requests; `seconds` until the Hub takes new ones, None if it does not say."""

    def __init__(self, text: str, seconds: float | None = None) -> None:
        super().__init__(text)
        self.seconds = seconds


class NoNetwork(HubError):
    """No answer, or none of use for too long, or none is wanted (HF_HUB_OFFLINE)."""


class NoAnswer(NoNetwork, Broken):
    """One was wanted, and the same again may get it: exit code 75."""


class DiskFull(HubError):
    """No room for what is pulled."""


class Damaged(HubError):
    """What arrives, or lies in the cache, has other bytes than the Hub's hashes say."""


class Changed(HubError):
    """Somebody else pushes to the same place, or has set the tag."""


class Crowded(Changed, Broken):
    """Somebody else pushes just now, and the same again may come through: exit code 75."""


class StrangeHub(HubError):
    """An answer as no Hub gives it: a proxy, a wrong HF_ENDPOINT, or somebody who means harm."""


class Intercepted(StrangeHub, Broken):
    """One that harms nobody, as of a proxy that wants a login: it may be gone when asked again, exit code 75."""


class Silent(Exception):
    """Nothing of use has come for too long, however often it was asked for; NoNetwork for users."""


class Strange(Exception):
    """An answer that is none, found while it is read; StrangeHub for users. After a `harmful` one nobody asks again."""

    def __init__(self, text: str, *, harmful: bool = False) -> None:
        super().__init__(text)
        self.harmful = harmful


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what lies under it."""
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if any; an upload's is hidden under a RuntimeError, Xet's in a text."""
    for e in causes(error):
        if isinstance(e, HfHubHTTPError):
            return int(e.response.status_code)
        if not isinstance(e, httpx.HTTPError) and (said := re.search(r"\bstatus(?: code)?:? \(?(\d{3})\b", str(e))):
            return int(said[1])
    return None


def pause_s(response: httpx.Response) -> float | None:
    """When to come again, as the Hub says it in either of two headers; it sends RateLimit with every answer."""
    if response.status_code not in (429, 503):
        return None
    limit = parse_ratelimit_headers(response.headers)
    if limit and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    wanted = response.headers.get("Retry-After", "")
    return float(wanted) if re.fullmatch(r"\d{1,6}", wanted) else None


def asked_pause_s(error: BaseException) -> float | None:
    """The pause that the answer behind an error asks for."""
    return next((pause_s(e.response) for e in causes(error) if isinstance(e, HfHubHTTPError)), None)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    chain = list(causes(error))
    if any(_is_full(e) or isinstance(e, OfflineModeIsEnabled | httpx.TooManyRedirects | Silent) for e in chain):
        return False
    for e in chain:
        if isinstance(e, Strange | FileMetadataError):  # such as a page of HTML
            return not getattr(e, "harmful", False)
    if isinstance(error, LocalEntryNotFoundError):  # tried often enough by huggingface_hub
        return False
    if (status := status_of(error)) is not None:
        return status in _PASSING
    cut = "Consistency check failed"  # a response shorter than promised
    return any(isinstance(e, httpx.RequestError | ConnectionError | TimeoutError) or cut in str(e) for e in chain)


@contextmanager
def plain_words(address: str, page: str) -> Iterator[None]:
    """Turns what huggingface_hub raises inside into a HubError about `address`, whose page is `page`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (plain := _plain(error, f"{_endpoint()}/{page}")) is None:
            raise
        plain.args = (f"{address}: {plain}",)
        raise plain from error


def _plain(error: Exception, page: str) -> HubError | None:
    """What happened and what to do, or None for an error that is nobody's but ours."""
    if refused := _disk(error):
        return refused
    if isinstance(error, GatedRepoError):
        return Gated(f"is gated: ask for access at {page}, then {LOG_IN}")
    if isinstance(error, DisabledRepoError):
        return NoRight(f"the Hub has disabled {page}; its page says why")
    if isinstance(error, RepositoryNotFoundError):
        hint = "one that this token may not see" if get_token() else f"a private one: then {LOG_IN}"
        return Missing(f"no such repository at {page}, or {hint}")
    if isinstance(error, RevisionNotFoundError):
        return WrongRevision(f"no such branch, tag or commit at {page}")
    if isinstance(error, HFValidationError):
        return HubError(f"not a name that the Hub allows ({clean(str(error))})")
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and is_offline_mode()):
        return NoNetwork("not in the cache, and HF_HUB_OFFLINE=1 is set; pull it once where there is a network")
    if (status := status_of(error)) is not None:
        return _refused(error, status, page)
    return _unanswered(error)


def _refused(error: Exception, status: int, page: str) -> HubError:
    """What an HTTP status means."""
    if status == 401:
        known = f"the Hub does not accept this token (has it expired?); {LOG_IN}"
        return NotLoggedIn(known if get_token() else f"not logged in; {LOG_IN}")
    if status == 403:
        return NoRight(f"this token may not do that; it needs the right to write to {page}")
    if status == 412:
        return Crowded(f"somebody else pushes to {page} at the same time; publish again when they are done")
    if status == 429:
        pause = asked_pause_s(error)
        when = f"in {pause:.0f} s" if pause else "later"
        return RateLimited(f"too many requests for the Hub's rate limit; try again {when}", pause)
    said = next((e.server_message for e in causes(error) if isinstance(e, HfHubHTTPError)), None)
    words = f"the Hub answered {status} ({clean(said or 'no reason given')})"
    if status in _PASSING:
        return NoAnswer(f"{words}; try again later")
    return HubError(f"{words}; look at the page and at what was to be sent")


def _unanswered(error: Exception) -> HubError | None:
    """No answer at all, or one that makes no sense."""
    cause = list(causes(error))[-1]
    what = clean(str(cause)) or type(cause).__name__
    strange = (Strange, FileMetadataError, httpx.TooManyRedirects, httpx.UnsupportedProtocol)
    if answer := next((e for e in causes(error) if isinstance(e, strange)), None):
        harmful = isinstance(answer, httpx.UnsupportedProtocol) or getattr(answer, "harmful", False)
        return (StrangeHub if harmful else Intercepted)(
            f"{_endpoint()} does not answer as the Hub does ({what}); look at HF_ENDPOINT and proxy"
        )
    silent = any(isinstance(e, Silent) for e in causes(error))
    if silent or isinstance(error, LocalEntryNotFoundError | ConnectionError) or may_pass(error):
        return NoAnswer(
            f"no answer from {_endpoint()} ({what}); look at network and proxy; what was pulled before can be "
            "used with HF_HUB_OFFLINE=1"
        )
    return None


def _disk(error: Exception) -> HubError | None:
    """What the disk under the cache refused."""
    for e in causes(error):
        if _is_full(e):
            return DiskFull(
                f"no room left under {Path(constants.HF_HUB_CACHE)}; free some space, or set HF_HOME to another disk"
            )
        if isinstance(e, httpx.RequestError):
            return None  # what is below was refused by the network
        if isinstance(e, OSError) and e.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            return HubError(f"{e.filename or constants.HF_HUB_CACHE}: {e.strerror}; set HF_HOME to another folder")
    return None


def _is_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error)


def _endpoint() -> str:
    return clean(constants.ENDPOINT)
