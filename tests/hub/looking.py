"""What tests see of folders and of the Hub."""

from pathlib import Path

from hub.server import Hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commits(server: Hub, repo: str = "lab/faces") -> int:
    """How many commits were made after the one with which the repository begins."""
    return len(server.store.repos[repo].commits) - 1


def held(server: Hub, repo: str = "lab/faces", revision: str = "main") -> dict[str, str]:
    """The sha256 of every file of ours in a commit."""
    files = server.store.repos[repo].at(revision).files
    return {name: file.sha256 for name, file in files.items() if name != ".gitattributes"}
