"""Tensors where they lie in safetensors files: one is read or copied without the others, in little memory.

A file is an 8-byte length, so much JSON that says of each tensor its type, shape and place, and then the bytes. The
library maps a whole file, which counts as memory where that is limited.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import UserError

_PIECE = 4 << 20  # bytes read at a time
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor where it lies in a checkpoint: `begin` and `end` are bytes of the file."""

    file: Path
    dtype: str
    shape: list[int]
    begin: int
    end: int

    @property
    def kind(self) -> str:
        return f"{self.dtype} {self.shape}"

    def pieces(self) -> Iterator[bytes]:
        """Its bytes."""
        with self.file.open("rb") as data:
            data.seek(self.begin)
            left = self.end - self.begin
            while piece := data.read(min(left, _PIECE)):
                left -= len(piece)
                yield piece
        if left:
            raise UserError(f"{self.file}: was cut while it was read")

    def read(self) -> Tensor:
        """On the CPU."""
        if self.begin == self.end:
            return torch.empty(self.shape, dtype=_DTYPES[self.dtype])
        return torch.frombuffer(bytearray().join(self.pieces()), dtype=_DTYPES[self.dtype]).reshape(self.shape)


def stored(file: Path) -> dict[str, Stored]:
    """The tensors of a file, by name."""
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        said = json.loads(data.read(length))
    said.pop("__metadata__", None)
    first = 8 + length
    return {
        name: Stored(file, one["dtype"], one["shape"], *(first + offset for offset in one["data_offsets"]))
        for name, one in said.items()
    }


def write(file: Path, tensors: dict[str, Stored], metadata: dict[str, str]) -> None:
    """A safetensors file of the bytes as they lie in others."""
    head: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    order = sorted(tensors, key=lambda name: (-_width(tensors[name]), name))  # the widest first keeps all aligned
    for name in order:
        at = tensors[name]
        head[name] = {"dtype": at.dtype, "shape": at.shape, "data_offsets": [offset, offset + at.end - at.begin]}
        offset += at.end - at.begin
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            out.writelines(tensors[name].pieces())
        out.flush()
        os.fsync(out.fileno())


def _width(at: Stored) -> int:
    """Bytes of a value."""
    return (at.end - at.begin) // max(1, math.prod(at.shape))
