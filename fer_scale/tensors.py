"""Tensors where they lie in safetensors files: one is read or copied without the others, in little memory.

A file is an 8-byte length, so much JSON that says of each tensor its type, shape and place, and then the bytes. The
library maps a whole file, which counts as memory where that is limited.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import UserError

_PIECE = 4 << 20  # bytes read at a time
_DTYPES = {  # in the library's order of a file: the widest first keeps all aligned
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
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
    sizes = {name: (at.dtype, at.shape, at.end - at.begin) for name, at in tensors.items()}
    head, order = _head(sizes, metadata)
    with file.open("xb") as out:
        out.write(head)
        for name in order:
            out.writelines(tensors[name].pieces())
        out.flush()
        os.fsync(out.fileno())


def serialised(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file of tensors on the CPU, in pieces; UserError at a value that is not finite.

    The same bytes as safetensors.torch.save, which copies everything and keeps Python's lock meanwhile: of 512 MB it
    stops all other threads for 1.1 s (2026-11-26, a slow core).
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    flat = {name: tensor.contiguous().reshape(-1).view(torch.uint8) for name, tensor in tensors.items()}
    sizes = {name: (names[t.dtype], list(t.shape), len(flat[name])) for name, t in tensors.items()}
    head, order = _head(sizes, metadata)
    yield head
    for name in order:
        for piece in flat[name].split(_PIECE):
            if not _finite(piece.view(tensors[name].dtype)):
                raise UserError(f"{name}: holds NaN or infinite values")
            yield memoryview(piece.numpy())


def sum_of_bits(values: Tensor) -> int:
    """Of fp32 values, two at a time, modulo 2**64: any flipped bit changes it. Ten times as fast as a comparison."""
    flat = values.flatten()
    flat = flat.clone() if flat.storage_offset() % 2 else flat  # where two do not lie as one
    paired = len(flat) // 2 * 2
    return int(flat[:paired].view(torch.int64).sum() + flat[paired:].view(torch.int32).sum())


def _finite(values: Tensor) -> bool:
    """Whether all are. Their sum tells, a quick one, unless it is too large itself."""
    if not values.is_floating_point():
        return True
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _head(sizes: dict[str, tuple[str, list[int], int]], metadata: dict[str, str]) -> tuple[bytes, list[str]]:
    """What stands before the bytes of tensors of (type, shape, bytes), and the order of these."""
    head: dict[str, Any] = {"__metadata__": metadata}
    kinds = list(_DTYPES)
    order = sorted(sizes, key=lambda name: (kinds.index(sizes[name][0]), name))
    offset = 0
    for name in order:
        dtype, shape, length = sizes[name]
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order
