"""What this installation is: versions, the device, and where its files lie. A bug report begins with it."""

import os
import platform
import re
import sys
from importlib import metadata

import torch

from fer_scale import __version__, shipped

_ABSENT = "not installed"


def about() -> dict[str, str]:
    """What `fer-scale --version --verbose` says: name -> value, in its order."""
    return {
        "fer_scale": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        **{name: _version(name) for name in _needed()},
        "cuda": f"{torch.version.cuda}" if torch.version.cuda else "none: this torch is built for the processor",
        "device": _device(),
        "system": platform.platform(),
        "package": str(shipped.PACKAGE),
        "recipes": str(shipped.CONFIGS),
        "launch": str(shipped.LAUNCH),
    }


def _needed() -> list[str]:
    """The packages that ours asks for, those of its extras too where they are there; none where it is not installed."""
    try:
        asked = metadata.requires("fer_scale") or []
    except metadata.PackageNotFoundError:
        return []
    names = [(re.split(r"[^\w.-]", line)[0], re.search(r'extra == "(\w+)"', line)) for line in asked]
    always = [name for name, extra in names if extra is None]
    used = {name for name, extra in names if extra and extra[1] != "dev" and _version(name) != _ABSENT}
    return [*always, *sorted(used)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return _ABSENT


def _device() -> str:
    """The cards that torch sees, or the processor's cores that this process may use."""
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores"
