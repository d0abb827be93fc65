"""Files from a repository of the Hub into its cache, every byte of them hashed.

No download of huggingface_hub 2.4 is ever hashed, and a damaged byte stays in its cache for good: here what differs
from the remote tree is thrown away and fetched again. Processes that pull the same at the same time wait for each
other and fetch once, but wait for none that has stopped. The listing of a commit is kept beside its files, so that they
can be checked without a network.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, is_offline_mode
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported lazily
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from fer_scale import hub_client, hub_xet, log
from fer_scale.hub_client import TRIES, alive, patiently
from fer_scale.hub_errors import Damaged, HubError, NoNetwork
from fer_scale.hub_tree import (
    Entry,
    Place,
    cache_of,
    commit_of,
    digest_of,
    forget,
    put,
    remember,
    remembered,
    same,
    tree,
)

Progress = Callable[[int, int], None]  # bytes done, bytes in all

STALLED_S = 300.0  # a lock is not waited for any longer where its holder has brought nothing for so long
SAID_S = 60.0  # so often a wait is said
_LOOK_S = 10.0  # so often it is looked what the holder of a lock has brought


def pull(place: Place, wanted: Callable[[str], bool], needed: tuple[str, ...], progress: Progress) -> tuple[Path, str]:
    """(folder, commit): the folder of a commit in the cache, with those of its files there that are `wanted`.

    One request where all lies there already, and none where the address names the commit itself or HF_HUB_OFFLINE=1.
    """
    commit = cached_commit(place) if is_offline_mode() else _commit(place)
    folder = cache_of(place) / "snapshots" / commit
    entries = remembered(place, commit) or (_found(folder) if is_offline_mode() else None)
    if entries is None or not all(_is_there(folder, entry) for entry in _chosen(entries, wanted)):
        if is_offline_mode():
            raise _not_cached(place)
        with _alone(place, commit):  # who comes later finds the listing and the files
            entries = remembered(place, commit) or tree(place, commit)
            _refuse_to_miss(place, entries, needed)
            _fetch_all(place, commit, _chosen(entries, wanted), progress)
            remember(place, commit, entries.values())
    _refuse_to_miss(place, entries, needed)
    chosen = _chosen(entries, wanted)
    if not chosen:
        raise HubError(f"{place}: holds none of the files that are wanted from it")
    for entry in chosen:
        _make_right(place, commit, entry)
    note(place, commit)
    total = sum(entry.size for entry in chosen)
    progress(total, total)
    return folder, commit


def _commit(place: Place) -> str:
    """The commit, without asking where the address names it and it lies here."""
    if place.revision and re.fullmatch("[0-9a-f]{40}", place.revision) and remembered(place, place.revision):
        return place.revision
    return commit_of(place)


def _chosen(entries: dict[str, Entry], wanted: Callable[[str], bool]) -> list[Entry]:
    return [entry for name, entry in entries.items() if wanted(name)]


def _found(folder: Path) -> dict[str, Entry]:
    """What other programs have pulled: the cache calls bytes by their hash, and what lacks is for a manifest to say."""
    entries = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name, blob = path.relative_to(folder).as_posix(), path.readlink().name if path.is_symlink() else ""
            known = blob if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob) else digest_of(path, large=True)
            entries[name] = Entry(name, path.stat().st_size, known)
    return entries


def _is_there(folder: Path, entry: Entry) -> bool:
    path = folder / entry.name
    return path.is_file() and path.stat().st_size == entry.size


def _refuse_to_miss(place: Place, entries: dict[str, Entry], needed: tuple[str, ...]) -> None:
    if missing := [name for name in needed if name not in entries]:
        raise HubError(f"{place}: holds no {' and no '.join(missing)}; is it another repository, or another revision?")


def cached_commit(place: Place) -> str:
    """The commit that the address stood for when it was pulled last."""
    cache, revision = cache_of(place), place.revision or "main"
    commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else ""
    if not commit:
        with suppress(OSError):
            commit = (cache / "refs" / revision).read_text().strip()
    if not re.fullmatch("[0-9a-f]{40}", commit) or not (cache / "snapshots" / commit).is_dir():
        raise _not_cached(place)
    return commit


def _not_cached(place: Place) -> NoNetwork:
    return NoNetwork(f"{place}: not in the cache, and HF_HUB_OFFLINE=1 is set; pull it once where there is a network")


def note(place: Place, commit: str) -> None:
    """Note in the cache which commit the name stands for: what HF_HUB_OFFLINE=1 goes by, here and in timm."""
    ref = cache_of(place) / "refs" / (place.revision or "main")
    with suppress(OSError):  # a cache that may only be read serves what lies there all the same
        if place.revision != commit and not (ref.is_file() and ref.read_text() == commit):
            put(place, ref, commit)


# ---- bytes


def _fetch_all(place: Place, commit: str, entries: list[Entry], progress: Progress) -> None:
    done, total = 0, sum(entry.size for entry in entries)

    def more(size: int) -> None:
        progress(done + size, total)

    for entry in entries:
        _fetch(place, commit, entry, more)
        done += entry.size
        more(0)


def _fetch(place: Place, commit: str, entry: Entry, progress: Callable[[int], None]) -> Path:
    """The file in the cache, as it arrived or lay there."""
    hub_client.connect()  # nobody may have, where a listing is remembered
    counter = _counter(progress, entry.size)
    with _lock(
        place, entry.hash, entry.hash
    ):  # timm or `hf download` fetches it too, for as long as that takes; ours begins after
        pass

    def download() -> str:
        return hf_hub_download(place.repo, entry.name, repo_type=place.kind, revision=commit, tqdm_class=counter)

    return Path(patiently(lambda: hub_xet.watched(download)))


def _make_right(place: Place, commit: str, entry: Entry) -> None:
    """See that the file in the cache has the bytes of the remote tree, and fetch it again where it has not.

    Damaged bytes would be served for ever else, to timm and transformers too.
    """
    path = cache_of(place) / "snapshots" / commit / entry.name
    for attempt in range(TRIES):
        with suppress(FileNotFoundError):  # another process throws it away just now
            if same(path, entry):
                return
        if is_offline_mode():
            raise Damaged(f"{place}: {entry.name} is damaged in the cache; pull it again where there is a network")
        with _alone(place, commit):
            if path.exists() and same(path, entry):
                return  # another process has fetched it again by now
            _throw_away(place, path, entry)
            if attempt < TRIES - 1:
                _fetch(place, commit, entry, lambda done: None)
    forget(place, commit)
    raise Damaged(
        f"{place.at(commit)}: {entry.name} arrived damaged {TRIES} times, and was thrown away; a proxy or a disk "
        "changes bytes: try another network or another HF_HOME"
    )


def _throw_away(place: Place, path: Path, entry: Entry) -> None:
    """Remove the file and the bytes that would be served for it again; none outside the cache, where a link of
    somebody's own may lead."""
    blob, home = cache_of(place) / "blobs" / entry.hash, Path(constants.HF_HUB_CACHE).resolve()
    behind = [file for file in (path.resolve(), blob.resolve()) if file.is_relative_to(home)]
    for file in (path, blob, *behind):
        file.unlink(missing_ok=True)


# ---- who goes first


@contextmanager
def _alone(place: Place, commit: str) -> Iterator[None]:
    """One process of this machine at a time, as far as the disk of the cache knows locks."""
    with _lock(place, f"fer_scale-{commit}", ""):
        yield


@contextmanager
def _lock(place: Place, name: str, blob: str) -> Iterator[None]:
    """A lock of the cache, as huggingface_hub names them: of a file by its hash.

    Its holder is waited for as long as the files in the cache grow whose hash begins with `blob`. One that is stopped,
    or died where a disk keeps locks as files, loses it: each download has a file of its own, so that the worst that
    comes of two holders is a second download.
    """
    lock = cache_of(place).parent / ".locks" / cache_of(place).name / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        grown = said = time.monotonic()
        latest = _brought(place, lock, blob)
        while True:
            with suppress(TimeoutError):
                held.enter_context(WeakFileLock(lock, timeout=min(_LOOK_S, STALLED_S)))
                break
            before, latest, now = latest, _brought(place, lock, blob), time.monotonic()
            if latest != before:
                grown = now
            elif now - grown > STALLED_S:
                log.say(
                    f"{place}: another process holds {lock} and has brought nothing for {now - grown:.0f} s; going on"
                )
                lock.unlink(missing_ok=True)
                grown = now
            if now - said > SAID_S:
                log.say(f"{place}: waiting for another process that pulls the same; it holds {lock}")
                said = now
        alive()  # a wait is no silence of the Hub's
        yield


def _brought(place: Place, lock: Path, blob: str) -> list[object]:
    """What changes while the holder of a lock, or the next one, gets on."""
    seen: list[object] = []
    with suppress(OSError):
        seen.append(lock.stat().st_ino)
    for file in sorted((cache_of(place) / "blobs").glob(f"{blob}*")):
        with suppress(OSError):  # a part that has become whole just now
            seen.append((file.name, file.stat().st_size, file.stat().st_mtime_ns))
    return seen


def _counter(progress: Callable[[int], None], size: int) -> type[Any]:
    """A progress bar for huggingface_hub that draws nothing and passes the bytes on."""

    class Counter(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))
            self.done = 0

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            alive()
            progress(min(self.done, size))

        def update_transfer(self, n: float) -> None:  # Xet reports bytes received beside bytes written
            alive()

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            pass

    return Counter
