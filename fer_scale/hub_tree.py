"""What lies at an address of the Hub: the commit that a name stands for, and the files of it with their hashes.

    hf://ORG/NAME[@REVISION]            a repository of models
    hf://datasets/ORG/NAME[@REVISION]   one of data

Large files are known by their sha256, small ones by git's sha1 of them. Names come from a server, and lie in folders
of ours later: one that could lead elsewhere, or that may hold a pickle, is as if it were not there.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from huggingface_hub import RepoFile, constants
from huggingface_hub.errors import RevisionNotFoundError

from fer_scale import artifact, hub_client
from fer_scale.hub_client import patiently
from fer_scale.hub_errors import HubError, Strange, WrongRevision

_OF_SETS = (".tar", ".idx", ".hashes", ".origin.gz", ".jsonl")  # shards/index.py
_MOST_FILES = 100_000  # the Hub's own advice for one repository; a listing without an end is none


@dataclass(frozen=True, slots=True)
class Place:
    """An address on the Hub, taken apart."""

    repo: str
    revision: str | None
    kind: str = "model"  # or dataset, as huggingface_hub calls them

    @property
    def page(self) -> str:
        """The repository as addresses and pages of the Hub name it."""
        return ("datasets/" if self.kind == "dataset" else "") + self.repo

    def at(self, commit: str) -> str:
        return f"hf://{self.page}@{commit}"

    def __str__(self) -> str:
        return f"hf://{self.page}" + (f"@{self.revision}" if self.revision else "")


def parse(address: str) -> Place:
    if match := re.fullmatch(r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", address):
        return Place(match[2], match[3], "dataset" if match[1] else "model")
    raise HubError(f"{address}: an address on the Hub is hf://ORG/NAME or hf://ORG/NAME@REVISION")


def travels(name: str) -> bool:
    """Whether a file of this name may go either way: in folders or not, never out of them, and never a pickle."""
    *folders, file = name.split("/")
    plain = all(re.fullmatch(r"\w[\w .+=@-]*", part) and not part.endswith((".", " ")) for part in [*folders, file])
    return plain and len(name) < 1000 and (artifact.belongs(file) or file.endswith(_OF_SETS))


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


def tree(place: Place, commit: str) -> dict[str, RepoFile]:
    """Every file of a commit by its name, those in folders too."""
    api = hub_client.connect()

    def ask() -> list[object]:
        listing = api.list_repo_tree(place.repo, repo_type=place.kind, revision=commit, recursive=True)
        return list(islice(listing, _MOST_FILES + 1))

    entries = patiently(ask)
    if len(entries) > _MOST_FILES:
        raise Strange(f"more than {_MOST_FILES} files")
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    for name, entry in files.items():
        said = entry.lfs.sha256 if entry.lfs else entry.blob_id
        form = "[0-9a-f]{64}" if entry.lfs else "[0-9a-f]{40}"
        if not isinstance(entry.size, int) or entry.size < 0 or not re.fullmatch(form, str(said)):
            raise Strange(f"{name[:80]!r} of {entry.size} bytes with hash {str(said)[:80]!r}")
    return files


def same(path: Path, entry: RepoFile) -> bool:
    """Whether the file has the bytes of the remote one."""
    if path.stat().st_size != entry.size:
        return False
    return artifact.sha256(path) == entry.lfs.sha256 if entry.lfs else git_sha1(path) == entry.blob_id


def git_sha1(path: Path) -> str:
    """git's name for the bytes of a file."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def cache_of(place: Place) -> Path:
    """Where the Hub's cache keeps this repository."""
    return Path(constants.HF_HUB_CACHE) / f"{place.kind}s--{place.repo.replace('/', '--')}"
