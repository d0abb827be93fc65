"""What lies at an address of the Hub: the commit that a name stands for, and the files of it with their hashes.

    hf://ORG/NAME[@REVISION]            a repository of models
    hf://datasets/ORG/NAME[@REVISION]   one of data
    hf://spaces/ORG/NAME[@REVISION]     one of an app, which is only ever pushed

Large files are known by their sha256, small ones by git's sha1 of them. Names come from a server, and lie in folders
of ours later: one that could lead elsewhere, or that may hold a pickle, is as if it were not there.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from huggingface_hub import RepoFile, constants
from huggingface_hub.errors import RevisionNotFoundError

from fer_scale import artifact, hub_client
from fer_scale.hub_client import patiently
from fer_scale.hub_errors import HubError, Strange, WrongRevision

_OF_SETS = (".tar", ".idx", ".hashes", ".origin.gz", ".jsonl")  # shards/index.py
_WHAT = {"datasets/": "data", "spaces/": "a Space"}
_MOST_FILES = 100_000  # the Hub's own advice for one repository; a listing without an end is none


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a commit, and the hash by which the Hub and its cache know the bytes."""

    name: str
    size: int
    hash: str  # sha256 of a large file, git's sha1 of a small one

    @property
    def large(self) -> bool:
        return len(self.hash) == 64


@dataclass(frozen=True, slots=True)
class Place:
    """An address on the Hub, taken apart."""

    repo: str
    revision: str | None
    kind: str = "model"  # or dataset, space, as huggingface_hub calls them

    @property
    def page(self) -> str:
        """The repository as addresses and pages of the Hub name it."""
        return ("" if self.kind == "model" else f"{self.kind}s/") + self.repo

    def at(self, commit: str) -> str:
        return f"hf://{self.page}@{commit}"

    def __str__(self) -> str:
        return f"hf://{self.page}" + (f"@{self.revision}" if self.revision else "")


def parse(address: str) -> Place:
    """The address taken apart; HubError where it is none, or has a name that the Hub does not take."""
    match = re.fullmatch(r"hf://((?:dataset|space)s/)?([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", address)
    if not match:
        raise HubError(f"{address}: an address on the Hub is hf://ORG/NAME or hf://ORG/NAME@REVISION")
    if kind := re.match("datasets/|spaces/", match[2]):
        raise HubError(f"{address}: an address of {_WHAT[kind[0]]} on the Hub is hf://{kind[0]}ORG/NAME")
    if not all(map(_is_name, match[2].split("/"))):
        raise HubError(
            f"{address}: not a name that the Hub allows: at most 96 letters, digits and - _ . with no -- or .., "
            "neither - nor . at an end, and no .git behind"
        )
    if match[3] and not _is_revision(match[3]):
        raise HubError(f"{address}: {match[3]!r} is no revision: letters, digits and . _ + - in parts between single /")
    return Place(match[2], match[3], (match[1] or "models/").removesuffix("s/"))


def _is_name(part: str) -> bool:
    """Whether the Hub takes this for an organisation or a repository."""
    plain = re.fullmatch(r"\w([\w.-]{0,94}\w)?", part, re.ASCII)
    return bool(plain) and "--" not in part and ".." not in part and not part.endswith(".git")


def _is_revision(said: str) -> bool:
    """Whether this is the plain name of a branch, tag or commit: the cache has a file of this name."""
    return all(re.fullmatch(r"\w[\w.+-]*", part, re.ASCII) and ".." not in part for part in said.split("/"))


def travels(name: str, *, code: bool = False) -> bool:
    """Whether a file of this name may go either way: in folders or not, never out of them, and never a pickle.

    Nor `code`, but in a Space that is pushed.
    """
    *folders, file = name.split("/")
    plain = all(re.fullmatch(r"\w[\w .+=@-]*", part) and not part.endswith((".", " ")) for part in [*folders, file])
    return (
        plain
        and len(name) < 1000
        and (artifact.belongs(file) or file.endswith(_OF_SETS) or (code and file.endswith(".py")))
    )


def commit_of(place: Place) -> str:
    """The commit that a branch, tag or commit of the address stands for now."""
    api = hub_client.connect()
    try:
        info = patiently(
            lambda: api.repo_info(
                place.repo, repo_type=place.kind, revision=place.revision, timeout=hub_client.SILENCE_S
            )
        )
    except RevisionNotFoundError as error:
        refs = patiently(lambda: api.list_repo_refs(place.repo, repo_type=place.kind))
        known = ", ".join(ref.name for ref in [*refs.branches, *refs.tags])
        raise WrongRevision(f"{place}: no revision {place.revision!r} there; branches and tags: {known}") from error
    return hexadecimal(info.sha)


def hexadecimal(sha: str | None) -> str:
    """The commit, if it is one: it becomes the name of a folder."""
    if not re.fullmatch("[0-9a-f]{40}", sha or ""):
        raise Strange(f"commit {str(sha)[:80]!r}")
    return str(sha)


def tree(place: Place, commit: str) -> dict[str, Entry]:
    """Every file of a commit by its name, those in folders too, as the Hub lists them."""
    api = hub_client.connect()

    def ask() -> list[object]:
        listing = api.list_repo_tree(place.repo, repo_type=place.kind, revision=commit, recursive=True)
        return list(islice(listing, _MOST_FILES + 1))

    listed = patiently(ask)
    if len(listed) > _MOST_FILES:
        raise Strange(f"more than {_MOST_FILES} files")
    files = [file for file in listed if isinstance(file, RepoFile)]
    return _entries([file.path, file.size, file.lfs.sha256 if file.lfs else file.blob_id] for file in files)


def _entries(listed: Iterable[Any]) -> dict[str, Entry]:
    """What was listed, each as [name, size, hash]; Strange where that makes no sense."""
    entries = {}
    for name, size, digest in listed:
        sound = isinstance(name, str) and isinstance(size, int) and size >= 0
        if not sound or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
            raise Strange(f"{str(name)[:80]!r} of {size} bytes with hash {str(digest)[:80]!r}")
        entries[name] = Entry(name, size, digest)
    return entries


def remember(place: Place, commit: str, entries: Iterable[Entry]) -> None:
    """Keep a listing beside the files in the cache: a commit never changes."""
    rows = [[entry.name, entry.size, entry.hash] for entry in entries]
    put(place, _listing_of(place, commit), json.dumps({"sha256": _digest(rows), "files": rows}))


def put(place: Place, file: Path, text: str) -> None:
    """Let a small file of the cache appear whole, whoever else does so: jobs in containers have the same process id.

    disk.put() would write beside it, where huggingface_hub takes each file for a revision.
    """
    beside = cache_of(place) / "fer_scale" / f".{uuid4().hex}.part"
    for folder in (beside.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        beside.write_text(text)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def remembered(place: Place, commit: str) -> dict[str, Entry] | None:
    """The listing that was kept, if there is one, and a whole one."""
    try:
        said = json.loads(_listing_of(place, commit).read_text())
        return _entries(said["files"]) if said["sha256"] == _digest(said["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, Strange):
        return None


def forget(place: Place, commit: str) -> None:
    """Ask the Hub for the listing at the next time."""
    _listing_of(place, commit).unlink(missing_ok=True)


def _listing_of(place: Place, commit: str) -> Path:
    return cache_of(place) / "fer_scale" / f"{commit}.json"


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def same(path: Path, entry: Entry) -> bool:
    """Whether the file has the bytes of the remote one."""
    return path.stat().st_size == entry.size and digest_of(path, large=entry.large) == entry.hash


def digest_of(path: Path, *, large: bool) -> str:
    """A file's hash as the Hub has it: sha256 of large files, git's sha1 of small ones."""
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def cache_of(place: Place) -> Path:
    """Where the Hub's cache keeps this repository."""
    return Path(constants.HF_HUB_CACHE) / f"{place.kind}s--{place.repo.replace('/', '--')}"
