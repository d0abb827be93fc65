"""Faults at random: a release is published and pulled while one to four things go wrong, and what came of it is judged.

A schedule is a function of its number. It says by which way large files travel (LFS, LFS in parts, Xet), whether an
older version is there, and which faults strike which of 19 endpoints. Bytes that change on the way are dealt only to
files: what the Hub says about itself is guarded by TLS, as it is not here.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.looking import contents, held
from hub.server import Hub
from hub.store import Commit

from fer_scale import artifact

REPO, TAG = "lab/faces", "v1"
_API = ("reset", "silent", "slow", "stall", "trickle", "lost", "cut", "broken", "portal", "loop", *["status"] * 4)
_FILE = ("reset", "silent", "slow", "stall", "trickle", "cut", "broken", "short", "damaged", "rangeless", "status")
_SENT = ("reset", "torn", "silent", "slow", "lost", *["status"] * 2)
ENDPOINTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "the repository": ("GET", r"/api/models/lab/faces$", _API),
    "create": ("POST", "/api/repos/create", _API),
    "may I write": ("GET", "/auth-check", _API),
    "branches and tags": ("GET", "/refs$", _API),
    "listing": ("GET", "/tree/", _API),
    "how to send": ("POST", "/preupload/", _API),
    "front matter": ("POST", "/validate-yaml", _API),
    "LFS": ("POST", "/objects/batch", _API),
    "a file sent": ("PUT", "/lfs/[0-9a-f]*$", _SENT),
    "a part sent": ("PUT", r"/lfs/[0-9a-f]*/\d+$", _SENT),
    "parts sent": ("POST", "/complete$", _API),
    "has it arrived": ("POST", "/lfs/verify", _API),
    "Xet": ("GET", "/xet-", _API),
    "commit": ("POST", "/commit/main", (*_API, "torn", "meanwhile")),
    "tag": ("POST", "/tag/", _API),
    "the revision": ("GET", "/revision/", _API),
    "a file's head": ("HEAD", "/resolve/", ("reset", "silent", "slow", "portal", "loop", *["status"] * 2)),
    "a small file": ("GET", "/resolve/", _FILE),
    "a large file": ("GET", "/cdn/", _FILE),
}
_WAYS = ("LFS", "LFS", "parts", "Xet")


@dataclass
class Outcome:
    """What came of a schedule; `wrong` is empty where all was as promised."""

    number: int
    faults: list[str]
    fired: int = 0
    error: str = ""  # its type, where publishing or pulling ended with one
    said: str = ""
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)


def release(folder: Path, version: int) -> Path:
    """A model folder as publishing sees it: files, and a manifest of them."""
    draw = random.Random(version)
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"version": {version}}}')
    (folder / "model.safetensors").write_bytes(draw.randbytes(150_000))
    (folder / "curves.png").write_bytes(draw.randbytes(20_000))
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n\n# Version {version}\n")
    return folder


def play(
    number: int,
    place: Path,
    use: Callable[[Hub], None],
    publish: Callable[[Path], Any],
    pull: Callable[[Path], Path],
    *,
    errors: type[Exception],
    silence_s: float,
    limit_s: float,
) -> Outcome:
    """Play one schedule: `use` points the client at a Hub, `publish` and `pull` are what is tried, `errors` its own."""
    draw = random.Random(number)
    way, old = draw.choice(_WAYS), draw.random() < 0.5
    hub = Hub(place / "server", xet=way == "Xet")
    hub.store.multipart_over = 50_000 if way == "parts" else None
    folder = release(place / "release", number + 2)
    if old:
        artifact.seal(release(place / "old", 1))
        _publish_by_hand(hub, place / "old")
    outcome = Outcome(number, [_add(draw, hub, way, silence_s) for _ in range(draw.randint(1, 4))])
    use(hub)
    pulled: list[Path] = []

    def work() -> None:
        try:
            publish(folder)
            pulled.append(pull(place / "cache"))
        except Exception as error:
            outcome.error, outcome.said = type(error).__name__, str(error)
            if not isinstance(error, errors):
                outcome.wrong.append("no error of its own")

    began, thread = time.monotonic(), threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    outcome.seconds = time.monotonic() - began
    if thread.is_alive():
        outcome.error = "hang"
        outcome.wrong.append("hang")
    outcome.fired = hub.faults.fired
    _judge(outcome, hub, folder, pulled[0] if pulled else None)
    hub.stop()
    shutil.rmtree(place, ignore_errors=thread.is_alive())
    return outcome


def _publish_by_hand(hub: Hub, folder: Path) -> None:
    repo = hub.store.create(REPO)
    files = dict(repo.at("main").files)
    for name, data in contents(folder).items():
        large = name.endswith((".safetensors", ".png"))
        files[name] = hub.store.large(hub.store.keep(data)) if large else hub.store.small(data)
    repo.commit(files, "old")


def _add(draw: random.Random, hub: Hub, way: str, silence_s: float) -> str:
    """One more fault somewhere, and its name."""
    not_met = {"LFS": ("a part sent", "parts sent", "Xet"), "parts": ("Xet",)}
    not_met["Xet"] = ("LFS", "a file sent", "a part sent", "parts sent", "has it arrived", "a large file")
    where = draw.choice([name for name in ENDPOINTS if name not in not_met[way]])
    method, path, kinds = ENDPOINTS[where]
    kind = draw.choice(kinds)
    more: dict[str, Any] = {"skip": draw.choice([0, 0, 0, 1, 2]), "times": draw.choice([1, 1, 1, 2])}
    more["seconds"] = silence_s * (0.4 if kind == "slow" else 10)
    if kind == "status":
        more["status"] = draw.choice([429, 429, 500, 502, 503, 504, 408])
        pause = {"Retry-After": "1"} if draw.random() < 0.5 else {"RateLimit": '"api";r=0;t=1'}
        more["headers"] = pause if more["status"] == 429 else {}
    if kind == "meanwhile":
        more |= {"times": 1, "act": lambda: _somebody(hub)}
    hub.faults.add(kind, method, path, **more)
    if kind == "rangeless":  # who is cut off asks for the rest
        hub.faults.add("cut", method, path)
    return f"{where}: {kind}{more.get('status', '')}{' twice' if more['times'] == 2 else ''}"


def _somebody(hub: Hub) -> None:
    repo = hub.store.repos[REPO]
    repo.commit(repo.at("main").files | {"NOTICE.txt": hub.store.small(b"hello")}, "somebody")


def _judge(outcome: Outcome, hub: Hub, folder: Path, pulled: Path | None) -> None:
    """Silent corruption, partial publication, a second commit, a missing tag: what nobody may do."""
    sent = contents(folder)
    if not outcome.error and (pulled is None or {n: d for n, d in contents(pulled).items() if n in sent} != sent):
        outcome.wrong.append("silent corruption")
    if REPO not in hub.store.repos:
        return
    repo = hub.store.repos[REPO]
    new = {name: hub.store.digest(data) for name, data in sent.items()}
    by_us = [c for c in repo.commits.values() if c.title not in ("initial commit", "old", "somebody")]
    if any(not _holds(commit, new) for commit in by_us):
        outcome.wrong.append("partial publication")
    if len(by_us) > 1:
        outcome.wrong.append("second commit")
    if not outcome.error and (TAG not in repo.tags or not _holds(repo.at(TAG), new)):
        outcome.wrong.append("published, but not there")
    if not outcome.error and not new.items() <= held(hub).items():
        outcome.wrong.append("published, but not the newest")


def _holds(commit: Commit, files: dict[str, str]) -> bool:
    return files.items() <= {name: file.sha256 for name, file in commit.files.items()}.items()


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The counts that are promised, and which errors there were."""
    errors: dict[str, int] = {}
    wrong: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.error:
            errors[outcome.error] = errors.get(outcome.error, 0) + 1
        for what in outcome.wrong:
            wrong[what] = wrong.get(what, 0) + 1
    kinds = {fault.split(": ")[1].split(" ")[0].rstrip("0123456789") for o in outcomes for fault in o.faults}
    return {
        "schedules": len(outcomes),
        "faults": sum(len(o.faults) for o in outcomes),
        "fired": sum(o.fired for o in outcomes),
        "kinds": len(kinds),
        "whole and right": sum(not o.error and not o.wrong for o in outcomes),
        "errors": errors,
        "wrong": wrong,
        "longest_s": round(max(o.seconds for o in outcomes), 1),
    }
