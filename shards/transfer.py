"""Bytes from far away: from an HTTP server, the Hub's datasets or S3; tried again while what failed may pass.

A transfer that broke goes on where it stopped. Nothing that a Source holds is secret: the Hub's token and the keys of
S3 are looked up for each request, in the process that sends it, and kept nowhere.
"""

import errno
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import quote, urlsplit

import fsspec

from shards import access
from shards.errors import Broken, UserError
from shards.patience import MayPass, Patience, Tell, rest, said_once

SILENCE_S = 30.0  # a peer that says nothing for so long is given up
DEADLINE_S = 240.0  # without one new byte; even twice, after another process gave up, the ranks wait for each other
WAIT_S = 0.5  # before the second try; doubles with each
_PASSING = {408, 425, 429}  # HTTP statuses that may be gone at the next try; so may all from 500 on
_PIECE, _OF_URLS = 8 << 20, "/:[]%!$&'()*+,;=~"  # bytes of one request to S3; signs that no URL has to quote
_SERVER = re.compile(r"(https?|s3)://(\[[\da-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[^\s@?#]*)?")
_MOST_BYTES = 1 << 30  # of a file whose size the index does not tell: a list of some ten million paths


class RemoteError(UserError):
    """A set far away that cannot be read. No ShardError: such a sample is replaced, and this concerns all of them."""


class NotThere(RemoteError):
    """No such host's folder, file, repository or revision."""


class NoRight(RemoteError):
    """It asks for a login, or this login may not read it."""


class NoAnswer(RemoteError, Broken):
    """No network, or a server that answers nothing of use for too long: the same again may get it."""


class OtherBytes(RemoteError):
    """What arrives is not what the index says."""


class DiskTrouble(RemoteError):
    """The cache's disk is full, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Source:
    """A folder far away."""

    address: str  # as messages name it
    base: str  # what the URLs of its files begin with


def holds_sets(address: str) -> bool:
    """Whether an address is one of sets far away, rather than of a folder or of a model."""
    return re.match(r"(hf://datasets/|https?://|s3://)", address) is not None


def source_of(address: str) -> Source:
    """The folder behind an address; a branch or tag of the Hub becomes the commit it stands for now."""
    if match := re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^@/\s]+))?(/[\w./-]+)?", address):
        repo, revision, folder = match[1], match[2] or "main", (match[3] or "").rstrip("/")
        endpoint = access.endpoint()
        if not _SERVER.fullmatch(endpoint):
            raise RemoteError(
                f"{address}: HF_ENDPOINT={_shown(endpoint)}: not understood; write https://HOST[:PORT], without a "
                "password, which would end up in logs"
            )
        if refused := access.distrust(endpoint):
            raise RemoteError(f"{address}: {refused}")
        api = Source(address, f"{endpoint}/api/datasets/{repo}/revision")
        answer = content(api, quote(revision, safe="%"), 64)  # it names all files of the repository
        try:
            sha = str(json.loads(answer)["sha"])
        except (ValueError, KeyError, TypeError, RecursionError):
            sha = ""
        if not re.fullmatch(r"[0-9a-f]{40}", sha):
            raise RemoteError(f"{address}: {endpoint} does not answer as the Hub does; look at HF_ENDPOINT and proxy")
        pinned = f"hf://datasets/{repo}@{sha}{folder}"
        return Source(pinned, f"{endpoint}/datasets/{repo}/resolve/{sha}{folder}")
    if meant := access.of_a_page(address):
        raise RemoteError(f"{address}: is a page of the Hub; write its address, {meant}")
    if _SERVER.fullmatch(address):
        return Source(address.rstrip("/"), address.rstrip("/"))
    raise RemoteError(
        f"{_shown(address)}: not understood; a set lies at hf://datasets/ORG/NAME[@REVISION][/FOLDER], "
        "https://HOST/FOLDER or s3://BUCKET/FOLDER, without a password or a ?query, which would end up in logs"
    )


def _shown(address: str) -> str:
    """An address that we do not understand, without what may be secret."""
    return re.sub(r"//.*@|\?.*", "...", address)


def content(source: Source, name: str, most_mb: int = 1) -> bytes:
    """A small file; RemoteError where it has more than `most_mb`."""
    file, tell = BytesIO(), said_once(f"{source.address}/{name}")
    fetch(source, name, file, None, tell, deadline_s=DEADLINE_S / 4, most_bytes=most_mb << 20)
    return file.getvalue()


def fetch(
    source: Source,
    name: str,
    file: BinaryIO,
    size: int | None,
    tell: Tell,
    deadline_s: float | None = None,
    most_bytes: int | None = None,
) -> None:
    """Append to `file` what it lacks of source/name, which has `size` bytes where that is known; nothing is checked.

    RemoteError when there is no use in trying again, when not one more byte comes for `deadline_s` and the pauses that
    the server names (patience.py), or where a file of unknown size has more than `most_bytes`, of which none are kept
    then.
    """
    patience, most = Patience(deadline_s or DEADLINE_S, WAIT_S), most_bytes or _MOST_BYTES
    have = best = file.seek(0, os.SEEK_END)
    while size is None or have < size:
        try:
            for at, piece in _pieces(source, name, have, size):
                if at != have:  # the server knows no ranges, and begins anew
                    file.seek(at)
                    file.truncate()
                have = at + len(piece)
                if size is None and have > most:
                    file.truncate(0)
                    raise RemoteError(f"{source.address}/{name}: has more than {most >> 20:,} MB, as no set's file has")
                _write(file, piece)
                if have > best:
                    best = have
                    patience.renew()
                tell(have, "")
            return
        except MayPass as error:
            if (pause := patience.pause_s(error)) is None:
                raise NoAnswer(
                    f"{source.address}/{name}: nothing comes ({error}), given up; {error.way_out}: what has arrived is "
                    "kept"
                ) from None
            rest(pause, partial(tell, have, f"; {error}, trying again"))


def _write(file: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:  # a write may be short where the disk is nearly full
        rest = rest[file.write(rest) :]


def disk_trouble(error: OSError, folder: Path) -> DiskTrouble:
    """An error of the cache's disk in plain words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskTrouble(f"{folder}: the disk is full; make room, or lower data.cache_gb, and start again")
    return DiskTrouble(f"{folder}: {error.strerror}; a cache needs a folder on a disk that can be written and locked")


def _pieces(source: Source, name: str, start: int, size: int | None) -> Iterator[tuple[int, bytes]]:
    """What lies at source/name from `start` on (or from 0, as the server likes), in pieces: (offset, bytes)."""
    read = _s3 if source.base.startswith("s3:") else _http
    return read(source, name, start, size)


# ---- HTTP, and the Hub behind it


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A token follows a redirect within its own server (a repository that was renamed), and no other."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new and token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:  # behind a proxy req.host is the proxy
            new.add_unredirected_header("Authorization", token)
        return new


_OPENER = urllib.request.build_opener(_Redirects)


def _http(source: Source, name: str, start: int, size: int | None) -> Iterator[tuple[int, bytes]]:
    request = urllib.request.Request(quote(f"{source.base}/{name}", safe=_OF_URLS), headers={"User-Agent": "fer_scale"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if source.address.startswith("hf://"):
        _log_in(request)
    try:
        with _OPENER.open(request, timeout=SILENCE_S) as response:
            at = start if response.status == 206 else 0
            left = response.length  # None where the server does not say it, or nothing that is a number
            if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise MayPass("another range than was asked for")
            while left is None or left > 0:
                piece = response.read1(1 << 20)
                if not piece:
                    break
                yield at, piece
                at += len(piece)
                left = None if left is None else left - len(piece)
                if size is not None and at >= size:
                    return
            if left:
                raise MayPass(f"cut off at byte {at}")
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:  # nothing lies behind `start`: whether what is there is all, its sha256 tells
                raise _refusal(source, name, error) from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise RemoteError(
                f"{source.address}: its certificate is not trusted ({cause.verify_message}); set SSL_CERT_FILE if "
                "your network has its own"
            ) from None
        raise MayPass(access.clean(f"{type(cause).__name__} {cause}")) from None


def _log_in(request: urllib.request.Request) -> None:
    """Add the Hub's token to a request, if there is one; no error may have it within reach."""
    if access.token() is None:
        raise NoRight(f"what HF_TOKEN or its file holds is no token: other signs than a token has; {access.LOG_IN}")
    if access.token():
        request.add_unredirected_header("Authorization", f"Bearer {access.token()}")


def _refusal(source: Source, name: str, error: urllib.error.HTTPError) -> Exception:
    """What an HTTP status means."""
    status, code, place = error.code, error.headers.get("X-Error-Code", ""), f"{source.address}/{name}"
    if status in _PASSING or status >= 500:
        pause = _pause_s(status, error.headers)
        return MayPass(f"the server answers {status}" + (f", come again in {pause:.0f} s" if pause else ""), pause)
    if code == "GatedRepo":
        return NoRight(f"{source.address}: is gated; ask for access on its page, then {access.LOG_IN}")
    if source.address.startswith("hf://") and (status == 401 or code == "RepoNotFound"):
        hint = "this token may not see it, or has expired" if access.token() else f"it is private: then {access.LOG_IN}"
        return (NoRight if status == 401 else NotThere)(f"{source.address}: no such dataset on the Hub, or {hint}")
    if code == "RevisionNotFound":
        return NotThere(f"{source.address}: no such branch, tag or commit there")
    if status in (401, 403):
        return NoRight(f"{place}: the server refuses to give it ({status}); it asks for a right that is not there")
    if status in (404, 410):
        return NotThere(f"{place}: not there ({status}); a set lies where its index.json does")
    return RemoteError(f"{place}: the server answers {status} ({access.clean(error.reason)})")


def _pause_s(status: int, headers: Message) -> float | None:
    """When to come again, as servers say it; the Hub sends RateLimit with every answer, and it counts where r=0."""
    if status not in (429, 503):
        return None
    limit = re.search(r";\s*r=0\s*;\s*t=(\d{1,6})\b", headers.get("RateLimit", ""))
    wanted = limit[1] if limit else headers.get("Retry-After", "")
    return float(wanted) if re.fullmatch(r"[0-9]{1,6}", wanted) else None


# ---- S3


def _s3(source: Source, name: str, start: int, size: int | None) -> Iterator[tuple[int, bytes]]:
    """By s3fs, which finds keys and region as all programs of S3 do, and tries again itself."""
    url = f"{source.base}/{name}"
    try:
        limits = {"connect_timeout": SILENCE_S, "read_timeout": SILENCE_S}
        store = fsspec.filesystem("s3", config_kwargs=limits)
        end = size or store.info(url, refresh=True)["size"]
        while start < end:
            piece = store.cat_file(url, start=start, end=min(start + _PIECE, end))
            if not piece:
                return
            yield start, piece
            start += len(piece)
    except ImportError:
        raise RemoteError(f"{source.address}: S3 needs an extra: pip install 'fer_scale[s3]'") from None
    except FileNotFoundError:
        raise NotThere(f"{url}: not there; a set lies where its index.json does") from None
    except PermissionError as error:
        raise NoRight(f"{url}: these keys of S3 may not read it ({access.clean(str(error))})") from None
    except Exception as error:  # botocore, aiohttp and s3fs have dozens of kinds
        if "Credentials" in type(error).__name__:
            raise NoRight(
                f"{url}: no keys for S3 are there: set AWS_PROFILE or keys, for a public bucket FSSPEC_S3_ANON=1"
            ) from None
        raise MayPass(access.clean(f"{type(error).__name__} {error}")) from None
