"""fer-scale, but something happens to one rank at one moment: DOOM is JSON, {"rank", "phase", "nth", "what"}.

Phases, whose nth time in the process is the moment:

    step          before a forward pass               gather        before a tensor is gathered
    shard write   before a state file is opened       shard end     before it is flushed to the disk
    progress      before progress.json is opened
    manifest      before manifest.json is opened      manifest end  before it is flushed to the disk
    rename        before the folder gets its name     delete        before a file in checkpoints/ goes
    reading       before a file of a shard is opened  publish       before a file of an encoder is written or moved

What: killed; torn (half of the file is on the disk, then killed); full (no byte is left on the disk of the file
BALLAST); or an errno's name, which the operation fails with, from then on where `!` follows the name.

File operations are met by Python's audit hook and os.fsync, not by the names of our functions, which may change.
A moment that does not come is loud: exit code 99.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from disturbed import NEVER, as_a_driver

from fer_scale.__main__ import main
from fer_scale.pretrain.engine import Engine, Piece
from fer_scale.pretrain.mae import MaskedAutoencoder

PUBLISHED = Path(os.environ.get("PUBLISHED", "/nowhere"))
_WRITING = os.O_WRONLY | os.O_RDWR


class Doom:
    def __init__(self, rank: int, phase: str, nth: int, what: str):
        self.here = rank == int(os.environ.get("RANK", 0))
        self.phase, self.left, self.what, self.came = phase, nth, what, False

    def met(self, phase: str, place: str = "", fd: int | None = None) -> None:
        """Let it happen, if this is the moment."""
        if not self.here or phase != self.phase or self.left <= 0:
            return
        self.left -= 1
        if self.left:
            return
        self.left = int(self.what.endswith("!"))
        self.came = True
        print(f"doom: {self.what} at {phase} {place}", flush=True)
        if self.what == "torn":
            assert fd is not None
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
        if self.what in ("killed", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "full":
            _fill(Path(os.environ["BALLAST"]))
        else:
            number = getattr(errno, self.what.rstrip("!"))
            raise OSError(number, os.strerror(number), place or None)


def _fill(ballast: Path) -> None:
    """Leave no byte on the disk where `ballast` lies."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


def _phase(event: str, args: tuple[Any, ...]) -> tuple[str, str]:
    """The phase that an operation on a file begins, and the file; "" where it is none of ours."""
    if event not in ("open", "os.rename", "os.remove", "os.rmdir") or not isinstance(args[0], str | os.PathLike):
        return "", ""
    file = Path(args[0])
    if event in ("os.remove", "os.rmdir") and args[1] not in (None, -1):
        file = Path(os.readlink(f"/proc/self/fd/{args[1]}")) / file
    if event == "open" and not args[2] & _WRITING:
        return "reading" if file.suffix in (".tar", ".idx") else "", str(file)
    if "checkpoints" not in file.parts:
        return "publish" if PUBLISHED in file.parents else "", str(file)
    if event != "open":
        return "rename" if event == "os.rename" else "delete", str(file)
    for start, phase in (("state-", "shard write"), ("progress", "progress"), ("manifest", "manifest")):
        if file.name.startswith(start):
            return phase, str(file)
    return "", str(file)


def _meet(doom: Doom) -> None:
    """Stand where all the phases begin."""

    def audited(event: str, args: tuple[Any, ...]) -> None:
        if doom.here and doom.left > 0:
            phase, place = _phase(event, args)
            doom.met(phase, place) if phase else None

    def flushed(fd: int) -> None:
        file = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if "checkpoints" in file.parts and file.is_file():
            doom.met("manifest end" if file.name.startswith("manifest") else "shard end", str(file), fd)
        fsync(fd)

    def forward(self: MaskedAutoencoder, images: torch.Tensor, keys_B: torch.Tensor) -> torch.Tensor:
        doom.met("step")
        return forward_before(self, images, keys_B)

    def tensors(self: Engine, writers: Collection[int]) -> Iterator[Piece]:
        for piece in tensors_before(self, writers):
            doom.met("gather", piece.name)
            yield piece

    fsync, forward_before, tensors_before = os.fsync, MaskedAutoencoder.forward, Engine.tensors
    sys.addaudithook(audited)
    os.fsync = flushed
    MaskedAutoencoder.forward, Engine.tensors = forward, tensors  # type: ignore[method-assign]


if __name__ == "__main__":  # readers import this file again
    as_a_driver()
    doom = Doom(**json.loads(os.environ["DOOM"]))
    _meet(doom)
    code = main()
    sys.exit(NEVER if doom.here and not doom.came else code)
