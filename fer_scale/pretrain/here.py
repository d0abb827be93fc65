"""What this host has for a job: its name and the versions on it. `python -m fer_scale.pretrain.here` prints it.

Imports nothing that takes time: `doctor` asks every host by ssh before it starts ranks.
"""

import hashlib
import json
import platform
import re
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "deepspeed", "timm", "numpy")
_DRIVER = Path("/proc/driver/nvidia/version")


def here() -> dict[str, Any]:
    """{"host", "address" that its own name means, "gpu": whether it has one, "versions"}."""
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = ""
    return {"host": host, "address": address, "gpu": Path("/dev/nvidiactl").exists(), "versions": versions()}


def versions() -> dict[str, str]:
    """What must be alike on all hosts of a job; "none" for what is not installed."""
    found = {"this folder's code": _code(), "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    if _DRIVER.exists():
        said = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text())
        found["NVIDIA's driver"] = said[0] if said else "unknown"
    return found


def _code() -> str:
    """Of every source file, ours being the one package whose version says little."""
    root, total = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted([*(root / "fer_scale").rglob("*.py"), *(root / "shards").rglob("*.py")]):
        total.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return total.hexdigest()[:8]


if __name__ == "__main__":
    print(json.dumps(here()))
