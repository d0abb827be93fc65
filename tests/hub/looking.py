"""What tests see of folders and of the Hub."""

from pathlib import Path

from hub.server import Hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def commits(server: Hub, repo: str = "lab/faces") -> int:
    """How many commits were made after the one with which the repository begins."""
    return len(server.store.repos[repo].commits) - 1
