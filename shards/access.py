"""Where the Hub is and what may be shown to it: its endpoint and its token, found as huggingface_hub finds them."""

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

TRUSTED = "FER_SCALE_TRUSTED_ENDPOINT"  # an HF_ENDPOINT by plain HTTP that is to be believed


def endpoint() -> str:
    """The Hub's URL."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


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
    return (
        f"HF_ENDPOINT={endpoint}: anybody on the way could answer for it, and would get the token; use https, or set "
        f"{TRUSTED}={endpoint} if the network is your own"
    )


def token() -> str | None:
    """The Hub's token, "" if there is none; None: what is there can be none, and no header could carry it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    file = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()
    said = os.environ.get("HF_TOKEN") or (file.read_text(errors="replace") if file.is_file() else "")
    said = said.replace("\r", "").replace("\n", "").strip()
    return said if said.isascii() and said.isprintable() else None
