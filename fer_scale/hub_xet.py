"""Xet, the Hub's storage of large files, as far as it must be watched: hf_xet works beside Python, in Rust.

Measured with hf_xet 1.8: against a peer that says nothing it waits for minutes, and its uploads of chunks have no limit
at all. It draws bars while it sends, and offers no other way to see how far it is. And it goes wherever the Hub says
that the chunks lie: to `local:///FOLDER` too, a folder of this machine, which it reads and writes.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    _xet,
    _xet_progress_reporting,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from huggingface_hub.utils._runtime import is_xet_available
from huggingface_hub.utils._xet import abort_xet_session, get_xet_session

from fer_scale import hub_client
from fer_scale.hub_errors import Silent, Strange

Result = TypeVar("Result")

CHUNKS_AT = r"https?://.+"  # where the Hub may say that they lie; for tests to change


def watched(call: Callable[[], Result]) -> Result:
    """The call's result; Silent when nothing comes or leaves for a while and it does not end by itself.

    Bytes that move are told by `hub_client.alive`.
    """
    if not is_xet_available():
        return call()
    _begin()
    _xet.get_xet_session = _Guarded  # huggingface_hub asks for it by this name, each time
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="Xet")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            if hub_client.silence_s() > hub_client.PATIENCE_S + hub_client.SILENCE_S:
                raise Silent(f"nothing of use came for {hub_client.silence_s():.0f} s")
    except BaseException:
        abort_xet_session()
        raise
    if errors:
        raise errors[0]
    return results[0]


def _begin() -> None:
    """Xet's session, whose limits of time are those of the environment at its beginning."""
    limit = f"{hub_client.SILENCE_S * 1000:.0f}ms"
    wanted = {"READ_TIMEOUT": limit, "CONNECT_TIMEOUT": limit, "RETRY_MAX_ATTEMPTS": "2", "RETRY_BASE_DELAY": "500ms"}
    missing = {f"HF_XET_CLIENT_{name}": value for name, value in wanted.items()}
    missing = {name: value for name, value in missing.items() if name not in os.environ}
    os.environ |= missing
    try:
        get_xet_session()
    finally:
        for name in missing:
            del os.environ[name]


class _Guarded:
    """Xet's session as huggingface_hub uses it, that goes nowhere but to a server."""

    def __init__(self) -> None:
        self._session = get_xet_session()

    def new_file_download_group(self, *, endpoint: str, **rest: Any) -> Any:
        return self._session.new_file_download_group(endpoint=_refuse_strange(endpoint), **rest)

    def new_upload_commit(self, *, token_refresh_url: str, token_refresh_headers: dict[str, str], **rest: Any) -> Any:
        """Where to is asked here, as for downloads: hf_xet would ask by itself, and believe the answer."""
        at = _xet._fetch_xet_connection_info_with_url(token_refresh_url, token_refresh_headers)
        return self._session.new_upload_commit(
            endpoint=_refuse_strange(at.endpoint),
            token=at.access_token,
            token_expiry_unix_secs=at.expiration_unix_epoch,
            token_refresh_url=token_refresh_url,
            token_refresh_headers=token_refresh_headers,
            **rest,
        )


def _refuse_strange(endpoint: str) -> str:
    if not re.fullmatch(CHUNKS_AT, endpoint):
        raise Strange(f"Xet's chunks at {endpoint[:80]!r}", harmful=True)
    return endpoint


@contextmanager
def seen(tell: Callable[[int], None]) -> Iterator[None]:
    """Has uploads by Xet tell how many bytes they are done with in place of drawing bars; by LFS they draw none."""

    most = (0, 0)  # of all tries: what is done again is no sign of life

    class Reporter:
        def update_progress(self, total: Any, _items: Any = None) -> None:
            nonlocal most
            now = (int(total.total_bytes_completed), int(total.total_transfer_bytes_completed))
            if now[0] > most[0] or now[1] > most[1]:
                most = (max(now[0], most[0]), max(now[1], most[1]))
                hub_client.alive()
                tell(now[0])

        def close(self) -> None:
            pass

    bars: Any = _xet_progress_reporting
    theirs, disabled = bars.XetUploadProgressReporter, are_progress_bars_disabled()
    try:
        if is_xet_available():
            bars.XetUploadProgressReporter = Reporter
            enable_progress_bars()  # or Xet is not asked
        else:
            disable_progress_bars()
        yield
    finally:
        bars.XetUploadProgressReporter = theirs
        (disable_progress_bars if disabled else enable_progress_bars)()
