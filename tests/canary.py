"""Tokens that must not be found: all that tests start has one in its environment, and nothing may write it anywhere.

Searched are all files under the session's temporary folders (logs, artifacts, checkpoints, shards, caches, what the
Hub of tests/hub was sent), what tests printed and logged, their tracebacks, and the arguments of every process that
the test process starts. The one place where a token may lie is a file called `token`, as `hf auth login` keeps it.
"""

import base64
import gzip
import secrets
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hub.server import TOKENS

TOKEN = "hf_" + secrets.token_hex(17)  # as long as a real one
NEEDLES = (TOKEN, *TOKENS)  # those of tests/hub are the ones that are really sent
_PIECE = 1 << 20


class Ears:
    """Hears of processes that are started, as an audit hook, and of what tests say; remembers who said a token."""

    def __init__(self, needles: Collection[str]) -> None:
        self.needles = needles
        self.started = 0
        self.heard: list[str] = []

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Arguments of a new process; its environment may hold a token, for that is where one belongs."""
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
            self.started += 1
            self.listen(f"the arguments of a process ({event})", str(arguments[:2]))

    def listen(self, where: str, text: str) -> None:
        if any(needle in text for needle in self.needles):
            self.heard.append(where)


def files_with(needles: Collection[str], folder: Path) -> Iterator[str]:
    """Files under a folder that hold a needle: as it is, in base64, or compressed by gzip."""
    wanted = [form for needle in needles for form in _forms(needle.encode())]
    for path in sorted(folder.rglob("*")):
        if path.name != "token" and not path.is_symlink() and path.is_file() and _holds(path, wanted):
            yield str(path)


def _forms(needle: bytes) -> list[bytes]:
    """The needle, and what base64 makes of its middle at each of the three places where it may begin."""
    inside = [base64.b64encode(bytes(lead) + needle)[4:-4] for lead in range(3)]
    return [needle, *inside]


def _holds(path: Path, wanted: list[bytes]) -> bool:
    longest = max(map(len, wanted))
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            file = gzip.open(plain) if packed else plain
            before = b""
            while piece := file.read(_PIECE):
                text = before + piece
                if any(form in text for form in wanted):
                    return True
                before = text[-longest:]
    except (OSError, EOFError, zlib.error):  # gone by now, or no gzip after all
        pass
    return False
