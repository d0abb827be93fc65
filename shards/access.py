"""Where the Hub is and what may be shown to it: its endpoint and its token, found as huggingface_hub finds them.

And what may be shown of these to people.
"""

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

_PAGE = re.compile(
    r"(https?://)?(huggingface|hf)\.co/(?P<data>datasets/)?(?P<repo>(?!datasets/)[\w.-]+/[\w.-]+)"
    r"(/(tree|blob)/(?P<revision>[\w.-]+))?/?"
)
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
TRUSTED = "FER_SCALE_TRUSTED_ENDPOINT"  # an HF_ENDPOINT by plain HTTP that is to be believed


def endpoint() -> str:
    """The Hub's URL."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def of_a_page(address: str) -> str | None:
    """The hf:// address of a repository whose page in a browser was given; None: it is no page of one."""
    found = _PAGE.fullmatch(address)
    if not found:
        return None
    revision = f"@{found['revision']}" if found["revision"] not in (None, "main") else ""
    return f"hf://{found['data'] or ''}{found['repo']}{revision}"


def distrust(endpoint: str) -> str | None:
    """Why an HF_ENDPOINT gets no request: anybody on the way may answer for it, and the user does not say it is meant.

    None: it may be asked.
    """
    url = urlsplit(endpoint)
    host = url.hostname or ""
    if url.scheme == "https" or host == "localhost" or os.environ.get(TRUSTED, "").rstrip("/") == endpoint:
        return None
    try:
        if ipaddress.ip_address(host).is_loopback:
            return None
    except ValueError:
        pass
    shown = clean(endpoint)  # there may be a password in it
    return (
        f"HF_ENDPOINT={shown}: anybody on the way could answer for it, and would get the token; use https, or set "
        f"{TRUSTED}={shown} if the network is your own"
    )


def token() -> str | None:
    """The Hub's token, "" if there is none; None: what is there can be none, and no header could carry it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    file = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()
    said = os.environ.get("HF_TOKEN") or (file.read_text(errors="replace") if file.is_file() else "")
    said = said.replace("\r", "").replace("\n", "").strip()
    return said if said.isascii() and said.isprintable() else None


def clean(text: str) -> str:
    """One line without what looks like a token, a signed address or a password in one, and what a terminal obeys."""
    plain = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    for secret, shown in ((r"\?\S*=\S*", "?..."), (r"hf_\w{4,}", "hf_..."), (r"//[^/\s]*@", "//...@")):
        plain = re.sub(secret, shown, plain)
    return plain[:200]
