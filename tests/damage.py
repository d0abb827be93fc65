"""Files that are not what they were, for tests of whoever must find that out."""

from pathlib import Path


def flip(file: Path, byte: int | None = None, bits: int = 1) -> None:
    """Change these bits of one byte of a file: of the one in its middle, unless another is named."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if byte is None else byte] ^= bits
    file.write_bytes(data)
