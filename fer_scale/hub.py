"""Where models travel: a folder, or a repository of the Hugging Face Hub. This file and hub_client.py alone know it.

An address is a folder, or `hf://ORG/NAME[@REVISION]`: a branch, tag or commit when pulling, a tag to be set when
pushing. What huggingface_hub 2.4 does not do, and this file does (each was measured):

- `upload_folder` makes several commits of one release and may stop between them: a push here is ONE `create_commit`,
  guarded by its parent; the remote tree decides whether it is needed and whether it has arrived, so a push may be
  repeated, and a lost response costs nothing;
- no download is ever hashed, and a damaged byte stays in the cache for good: a pull hashes every file against the
  remote tree (sha256 of large files, git's sha1 of small ones), and throws away and fetches again what differs;
- its HTTP client waits for ever on a silent peer, and most calls are not tried again: here all have a limit.

Only safetensors, JSON, cards and pictures travel, in either direction (artifact.py): never a pickle.
"""

import hashlib
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
)
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # exported lazily
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from fer_scale import artifact, hub_client
from fer_scale.hub_client import TRIES, patiently
from fer_scale.hub_client import HubError as HubError  # part of this file's face

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Pulled:
    folder: Path
    address: str  # with the commit: hf://ORG/NAME@SHA


@dataclass(frozen=True, slots=True)
class _Place:
    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_remote(address: str) -> bool:
    """Whether the address is a repository of the Hub rather than a folder."""
    return address.startswith("hf://")


def pull(address: str, to: Path | None = None, *, progress: Progress | None = None) -> Pulled:
    """The model at `address` as a folder whose every byte has been checked; copied to `to` if given.

    A remote revision is first resolved to a commit, and the model lies in the Hub's cache. With HF_HUB_OFFLINE=1 it
    comes from that cache, checked against its manifest, or where it has none, against the hashes by which the cache
    calls its files. A folder is checked against its manifest if it has one.
    """
    if is_remote(address):
        place = _parse(address)
        with hub_client.plain_words(address, place.repo):
            found = _cached(place) if is_offline_mode() else _pull(place, progress or (lambda done, total: None))
    else:
        found = Pulled(_folder(address), address)
        if not found.folder.is_dir():
            raise HubError(f"{address}: no such folder; a repository of the Hub is written hf://ORG/NAME")
    artifact.check(found.folder)
    if to is None:
        return found
    artifact.put(found.folder, to)
    return Pulled(to, found.address)


def pull_file(address: str, name: str) -> Path:
    """One file of a repository that is no model of ours, in the Hub's cache; the caller knows what its bytes must be.

    The cache keeps damaged bytes for good (see above), so they are thrown away here as pull() does it.
    """
    place = _parse(address)
    with hub_client.plain_words(address, place.repo):
        if is_offline_mode():
            return Path(hf_hub_download(place.repo, name, revision=place.revision, local_files_only=True))
        api = hub_client.connect()
        commit = _commit_of(api, place)
        entry = _tree(api, place.repo, commit).get(name)
        if entry is None:
            raise HubError(f"{place}: holds no {name}")
        path = _fetch(place.repo, commit, entry, lambda done: None)
        if place.revision != commit:
            patiently(lambda: api.resolve_revision(place.repo, revision=place.revision))  # for HF_HUB_OFFLINE=1
        return path


def push(folder: Path, address: str, *, message: str, private: bool = False) -> str:
    """Put the model in `folder` at `address`, and return the address; on the Hub with the commit that holds it.

    Nothing is done where the same bytes lie already. `hf://ORG/NAME@TAG` also marks the commit; a tag never moves.
    `private` is for a repository that this push makes.
    """
    artifact.refuse_foreign(folder)
    artifact.check(folder)
    if not is_remote(address):
        artifact.put(folder, _folder(address))
        return address
    place = _parse(address)
    on_terminal = sys.stderr.isatty()  # huggingface_hub draws its own bars, and offers no other way to see an upload
    with hub_client.plain_words(address, place.repo), nullcontext() if on_terminal else disable_progress_bars():
        return f"hf://{place.repo}@{_push(place, artifact.files(folder), message, private)}"


def _parse(address: str) -> _Place:
    if match := re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", address):
        return _Place(match[1], match[2])
    raise HubError(f"{address}: an address on the Hub is hf://ORG/NAME or hf://ORG/NAME@REVISION")


def _folder(address: str) -> Path:
    if match := re.match(r"(hf|hf-hub|local-dir|https?|file|s3|gs):", address):
        raise HubError(f"{address}: {match[0]} is not understood; an address is a folder or hf://ORG/NAME[@REVISION]")
    return Path(address)


# ---- pulling


def _pull(place: _Place, progress: Progress) -> Pulled:
    api = hub_client.connect()
    commit = _commit_of(api, place)
    entries = [entry for name, entry in _tree(api, place.repo, commit).items() if artifact.belongs(name)]
    if missing := [name for name in artifact.NEEDED if name not in {entry.path for entry in entries}]:
        raise HubError(f"{place}: holds no {' and no '.join(missing)}; it is not a model that this program can read")
    arrived, total = 0, sum(entry.size for entry in entries)

    def more(size: int) -> None:
        progress(arrived + size, total)

    for entry in entries:
        path = _fetch(place.repo, commit, entry, more)
        arrived += entry.size
        more(0)
    if place.revision != commit:
        # Notes in the cache which commit the name stands for: what HF_HUB_OFFLINE=1 goes by.
        patiently(lambda: api.resolve_revision(place.repo, revision=place.revision))
    return Pulled(path.parent, f"hf://{place.repo}@{commit}")


def _cached(place: _Place) -> Pulled:
    folder = Path(snapshot_download(place.repo, revision=place.revision, local_files_only=True))
    listed = artifact.manifest(folder) or {}
    for name, path in artifact.files(folder).items():  # or it is not all there
        blob = path.resolve().name  # of what no manifest lists: the cache calls bytes by their hash in the tree
        if name in listed:
            continue
        if (len(blob) == 64 and artifact.sha256(path) != blob) or (len(blob) == 40 and _git_sha1(path) != blob):
            raise HubError(f"{place}: {name} is damaged in the cache; pull it again where there is a network")
    return Pulled(folder, f"hf://{place.repo}@{folder.name}")


def _commit_of(api: HfApi, place: _Place) -> str:
    """The commit that a branch, tag or commit of the address stands for now."""
    try:
        info = patiently(lambda: api.model_info(place.repo, revision=place.revision, timeout=hub_client.SILENCE_S))
    except RevisionNotFoundError as error:
        refs = patiently(lambda: api.list_repo_refs(place.repo))
        known = ", ".join(ref.name for ref in [*refs.branches, *refs.tags])
        raise HubError(f"{place}: no revision {place.revision!r} there; branches and tags: {known}") from error
    assert info.sha is not None
    return info.sha


def _fetch(repo: str, commit: str, entry: RepoFile, progress: Callable[[int], None]) -> Path:
    """The file in the cache, its bytes what the remote tree says."""
    for _ in range(TRIES):
        path = Path(
            patiently(
                lambda: hf_hub_download(repo, entry.path, revision=commit, tqdm_class=_counter(progress, entry.size))
            )
        )
        if _same(path, entry):
            return path
        # The Hub's cache would serve the damaged bytes for ever, to timm and transformers too.
        for link in (path, path.parent / path.readlink() if path.is_symlink() else path, path.resolve()):
            link.unlink(missing_ok=True)
    raise HubError(
        f"hf://{repo}@{commit}: {entry.path} arrived damaged {TRIES} times, and was thrown away; a proxy or a disk "
        "changes bytes: try another network or another HF_HOME"
    )


def _same(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    if entry.lfs:
        return artifact.sha256(path) == entry.lfs.sha256
    return _git_sha1(path) == entry.blob_id


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


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


# ---- pushing


def _push(place: _Place, files: dict[str, Path], message: str, private: bool) -> str:
    """The commit that holds `files`: an older one if it does, else a new one."""
    api, repo = hub_client.connect(), place.repo
    patiently(lambda: api.create_repo(repo, private=private, exist_ok=True))
    patiently(lambda: api.auth_check(repo, write=True))
    if place.revision and (commit := _tagged(api, place)):
        if _changes(api, repo, commit, files):
            raise HubError(f"{place}: this tag marks another model already, and a tag never moves; choose a new one")
        return commit
    for attempt in range(TRIES):
        head = patiently(lambda: api.model_info(repo, timeout=hub_client.SILENCE_S))
        if private and not head.private:
            raise HubError(f"{place}: exists and is public; make it private on its page, or publish without --private")
        assert head.sha is not None
        changes = _changes(api, repo, head.sha, files)
        if not changes:
            _tag(api, place, head.sha)
            return head.sha
        try:
            api.create_commit(repo, changes, commit_message=message, parent_commit=head.sha)
        except Exception as error:
            if attempt == TRIES - 1 or not (hub_client.may_pass(error) or hub_client.status_of(error) == 412):
                raise
            hub_client.wait(attempt, error)
    raise HubError(
        f"{place}: after {TRIES} commits it still differs from what was sent; nobody else may push meanwhile"
    )


def _tagged(api: HfApi, place: _Place) -> str | None:
    """The commit that the address's tag marks, if there is such a tag."""
    refs = patiently(lambda: api.list_repo_refs(place.repo))
    if place.revision in {branch.name for branch in refs.branches}:
        raise HubError(f"{place}: {place.revision!r} is a branch; publish to {place.repo} without it, or with a tag")
    return next((tag.target_commit for tag in refs.tags if tag.name == place.revision), None)


def _tag(api: HfApi, place: _Place, commit: str) -> None:
    """Set the address's tag, if it has one, on the commit."""
    if tag := place.revision:
        patiently(lambda: api.create_tag(place.repo, tag=tag, revision=commit, exist_ok=True))
        if _tagged(api, place) != commit:
            raise HubError(f"{place}: somebody else set this tag meanwhile; choose a new one")


def _changes(
    api: HfApi, repo: str, commit: str, files: dict[str, Path]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What has to be done so that the remote tree holds exactly this model (texts added by hand are left there)."""
    there = _tree(api, repo, commit)
    new = [name for name, path in files.items() if name not in there or not _same(path, there[name])]
    stale = [name for name in there if name not in files and Path(name).suffix in (".safetensors", ".json", ".png")]
    return [
        *(CommitOperationAdd(name, str(files[name])) for name in new),
        *(CommitOperationDelete(name) for name in stale),
    ]


def _tree(api: HfApi, repo: str, commit: str) -> dict[str, RepoFile]:
    entries = patiently(lambda: list(api.list_repo_tree(repo, revision=commit)))
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
