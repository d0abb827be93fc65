"""What the loopback Hub keeps: every file's bytes once, by sha256, and repositories as chains of commits."""

import hashlib
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from hub.xet import Xet


class Refused(Exception):
    """An answer that is no success: status, words and, where the Hub sends one, its error code."""

    def __init__(self, status: int, words: str, code: str = "", **more: str) -> None:
        super().__init__(words)
        self.status, self.words, self.code, self.more = status, words, code, more


@dataclass(frozen=True)
class User:
    name: str
    organisations: tuple[str, ...] = ()
    may_write: bool = True

    def owns(self, repo_name: str) -> bool:
        return repo_name.split("/")[-2] in (self.name, *self.organisations)


@dataclass(frozen=True)
class File:
    sha256: str
    git_sha1: str  # of the bytes, or of the LFS pointer
    size: int
    lfs: bool
    xet: str | None = None  # what Xet calls it, if its bytes are there


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    files: dict[str, File]
    title: str


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)  # users who may read although it is gated
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, files: dict[str, File], title: str, branch: str = "main") -> Commit:
        """Put a commit on a branch."""
        made = Commit(hashlib.sha1(uuid.uuid4().bytes).hexdigest(), self.branches.get(branch), files, title)
        self.commits[made.sha] = made
        self.branches[branch] = made.sha
        return made

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


class Store:
    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._blobs.mkdir(parents=True)
        self.repos: dict[str, Repo] = {}  # by ORG/NAME, datasets/ORG/NAME or spaces/ORG/NAME
        self.page = 3  # entries of a tree in one answer: few, so that every listing is paged
        self.multipart_over: int | None = None  # bytes of a part, for larger files by LFS
        self.parts: dict[tuple[str, int], bytes] = {}  # of files that are not complete
        self.xet: Xet | None = None

    def create(self, name: str, private: bool = False) -> Repo:
        """A new repository; like the Hub's, it starts with one commit that holds .gitattributes."""
        if not re.fullmatch(r"((dataset|space)s/)?[\w.-]+/[\w.-]+", name):
            raise Refused(400, "Invalid repo name")
        repo = self.repos[name] = Repo(name, private)
        repo.commit(
            {".gitattributes": self.small(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}, "initial commit"
        )
        return repo

    def blob(self, sha256: str) -> Path:
        return self._blobs / sha256

    def keep(self, data: bytes) -> str:
        """Store bytes; their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.blob(sha256).write_bytes(data)
        return sha256

    @staticmethod
    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    def small(self, data: bytes) -> File:
        """A file that lies in git itself."""
        return File(self.keep(data), _git_sha1(data), len(data), lfs=False)

    def large(self, sha256: str, size: int | None = None) -> File:
        """A file that git knows by an LFS pointer; its bytes were uploaded before."""
        xet, blob = None, self.blob(sha256)
        if blob.exists():
            size = blob.stat().st_size
        elif self.xet is None or size is None or not (xet := self.xet.hash_of(sha256)):
            raise Refused(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        return File(sha256, _git_sha1(pointer(sha256, size)), size, True, xet)


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
