"""Files from a repository of the Hub into its cache, every byte of them hashed.

No download of huggingface_hub 2.4 is ever hashed, and a damaged byte stays in its cache for good: here what differs
from the remote tree is thrown away and fetched again. Processes that pull the same at the same time wait for each
other and fetch once.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import RepoFile, hf_hub_download
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported lazily
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from fer_scale import artifact
from fer_scale.hub_client import TRIES, patiently
from fer_scale.hub_errors import Damaged, HubError, NoNetwork
from fer_scale.hub_tree import Place, cache_of, commit_of, git_sha1, same, travels, tree

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def pull(place: Place, wanted: Callable[[str], bool], needed: tuple[str, ...], progress: Progress) -> tuple[Path, str]:
    """(folder, commit): the folder of a commit in the cache, with those of its files there that are `wanted`."""
    commit = commit_of(place)
    entries = [entry for name, entry in tree(place, commit).items() if travels(name) and wanted(name)]
    names = {entry.path for entry in entries}
    if missing := [name for name in needed if name not in names]:
        raise HubError(f"{place}: holds no {' and no '.join(missing)}; it is not a model that this program can read")
    if not entries:
        raise HubError(f"{place}: holds none of the files that are wanted from it")
    folder = cache_of(place) / "snapshots" / commit
    done, total = 0, sum(entry.size for entry in entries)

    def more(size: int) -> None:
        progress(done + size, total)

    for entry in entries:
        fetch(place, commit, entry, more)
        done += entry.size
        more(0)
    note(place, commit)
    return folder, commit


def cached(place: Place, wanted: Callable[[str], bool]) -> tuple[Path, str]:
    """The same without a network, as it was pulled before; checked by the hashes by which the cache calls its files."""
    commit = cached_commit(place)
    folder = cache_of(place) / "snapshots" / commit
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if travels(name) and wanted(name)]
    if not names:
        raise _not_cached(place)
    listed = artifact.manifest(folder) or {}
    for name in names:
        path = folder / name
        if name in listed or not path.is_symlink():
            continue
        blob = path.readlink().name  # of what no manifest lists: the cache calls bytes by their hash in the tree
        if (len(blob) == 64 and artifact.sha256(path) != blob) or (len(blob) == 40 and git_sha1(path) != blob):
            raise Damaged(f"{place}: {name} is damaged in the cache; pull it again where there is a network")
    return folder, commit


def cached_file(place: Place, name: str) -> Path:
    """One file as it was pulled before; its hash is the caller's to check."""
    path = cache_of(place) / "snapshots" / cached_commit(place) / name
    if not path.is_file():
        raise _not_cached(place)
    return path


def cached_commit(place: Place) -> str:
    """The commit that the address stood for when it was pulled last."""
    cache, revision = cache_of(place), place.revision or "main"
    if (cache / "snapshots" / revision).is_dir() and "/" not in revision and not revision.startswith("."):
        return revision
    try:
        commit = (cache / "refs" / revision).read_text().strip()
    except OSError:
        commit = ""
    if not commit or not (cache / "snapshots" / commit).is_dir():
        raise _not_cached(place)
    return commit


def _not_cached(place: Place) -> NoNetwork:
    return NoNetwork(f"{place}: not in the cache, and HF_HUB_OFFLINE=1 is set; pull it once where there is a network")


def note(place: Place, commit: str) -> None:
    """Note in the cache which commit the name stands for: what HF_HUB_OFFLINE=1 goes by, here and in timm."""
    if place.revision == commit:
        return
    ref = cache_of(place) / "refs" / (place.revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    beside = ref.with_name(f".{ref.name}.{os.getpid()}.part")
    beside.write_text(commit)
    beside.replace(ref)


def fetch(place: Place, commit: str, entry: RepoFile, progress: Callable[[int], None]) -> Path:
    """The file in the cache, its bytes what the remote tree says."""
    for _ in range(TRIES):
        path = Path(patiently(lambda: _download(place, commit, entry, progress)))
        with suppress(FileNotFoundError):  # another process throws it away just now
            if same(path, entry):
                return path
        _throw_away(place, path, entry)
    raise Damaged(
        f"{place.at(commit)}: {entry.path} arrived damaged {TRIES} times, and was thrown away; a proxy or a disk "
        "changes bytes: try another network or another HF_HOME"
    )


def _download(place: Place, commit: str, entry: RepoFile, progress: Callable[[int], None]) -> str:
    counter = _counter(progress, entry.size)
    return hf_hub_download(place.repo, entry.path, repo_type=place.kind, revision=commit, tqdm_class=counter)


def _throw_away(place: Place, path: Path, entry: RepoFile) -> None:
    """Remove damaged bytes, which the cache would serve for ever, to timm and transformers too."""
    with _alone(place, entry):
        if path.exists() and same(path, entry):
            return  # another process has fetched it again by now
        for link in (path, path.parent / path.readlink() if path.is_symlink() else path, path.resolve()):
            link.unlink(missing_ok=True)


@contextmanager
def _alone(place: Place, entry: RepoFile) -> Iterator[None]:
    lock = cache_of(place).parent / ".locks" / cache_of(place).name / f"fer_scale-{entry.blob_id}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield


def _counter(progress: Callable[[int], None], size: int) -> type[Any]:
    """A progress bar for huggingface_hub that draws nothing and passes the bytes on."""

    class Counter(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))
            self.done = 0

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            progress(min(self.done, size))

        def update_transfer(self, n: float) -> None:  # Xet reports bytes received beside bytes written
            pass

        def set_transfer_postfix_str(self, text: str, refresh: bool = True) -> None:
            pass

    return Counter
