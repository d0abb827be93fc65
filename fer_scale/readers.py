"""Processes that read ahead of their rank, and memory that both have.

ahead    items of a dataset, read in other processes
Slots    where a reader leaves pixels: no copy on the way, and nothing to clean up after a kill; a GPU copies from them
         while its rank goes on
stacks   what the readers are doing, when their rank waits for them for ever
"""

import atexit
import faulthandler
import mmap
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.errors import UserError
from shards.workers import allow_long_tmpdir, end_with_the_parent

T = TypeVar("T")
_MOST_FILES = 65_536
_STACKS, _SAYING_S = "fer_scale-stacks", 0.5
_ENDING_S = 10.0  # for a reader to finish its item, which may come from afar
_FILLING_S = 1.0  # for the thread of a queue that was closed


class Slots:
    """`count` arrays of bytes of one shape, the same in all processes that it is sent to while they are spawned.

    The memory has no name. It is no file in /dev/shm, which containers make 64 MB small and where a killed process
    leaves its files; it is gone with the last process that has it.
    """

    def __init__(self, count: int, shape: tuple[int, ...]):
        fd = os.memfd_create("fer_scale-slots", os.MFD_CLOEXEC)
        os.ftruncate(fd, count * torch.Size(shape).numel())
        self._map(fd, (count, *shape))

    def __getitem__(self, number: int) -> Tensor:
        """Slot `number` modulo their count: uint8 of the shape, in memory that is taken when it is written to."""
        return self._all[number % len(self._all)]

    def lock(self) -> str:
        """Keep the pages where they are, so that this process's GPU copies from a slot without the host's help.

        Why the system does not let it, or "".
        """
        try:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(self._all.data_ptr(), self._all.numel(), 0))
        except torch.cuda.CudaError as error:
            with suppress(RuntimeError):  # CUDA keeps the error for whoever asks next, as torch does after a kernel
                torch.zeros(1, device="cuda")
            return str(error)
        self._locked = True
        return ""

    def __getstate__(self) -> tuple[Any, ...]:
        return DupFd(self._fd), tuple(self._all.shape)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        descriptor, shape = state
        self._map(descriptor.detach(), shape)

    def __del__(self) -> None:
        if self._locked:
            torch.cuda.cudart().cudaHostUnregister(self._all.data_ptr())
        os.close(self._fd)  # the memory stays as long as a tensor of it does

    def _map(self, fd: int, shape: tuple[int, ...]) -> None:
        self._fd, self._locked = fd, False
        self._all: Tensor = torch.frombuffer(mmap.mmap(fd, 0), dtype=torch.uint8).view(shape)


class _Said(Dataset[T | UserError]):
    """An item, or what is wrong with it, to be raised in the rank's own process: torch wraps what a reader raises."""

    def __init__(self, data: Dataset[T]):
        self.data = data

    def __getitem__(self, at: Any) -> T | UserError:
        try:
            return self.data[at]
        except UserError as error:
            return error


def ahead(data: Dataset[T], wanted: Iterable[Any], workers: int, each: int = 2) -> Iterator[T]:
    """`data[i]` for each i wanted, in order; `workers` processes are at most `each` items ahead, each."""
    if not workers:
        _allow_many_files()
        yield from (data[at] for at in wanted)
        return
    allow_long_tmpdir()
    stream = iter(
        DataLoader(
            _Said(data),
            batch_size=None,
            sampler=wanted,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=each,
            worker_init_fn=_begin_reading,
            multiprocessing_context="spawn",
        )
    )
    # A process that fails may never drop its iterator: the traceback holds it. At exit multiprocessing would end the
    # readers with SIGTERM, to which they are deaf, and wait for them for ever.
    dismiss = partial(_dismiss, stream)
    atexit.register(dismiss)
    unregister = atexit.unregister  # at exit this module's names may be gone before a generator that a traceback holds
    try:
        for item in stream:
            if isinstance(item, UserError):
                raise item
            yield item
    finally:
        unregister(dismiss)
        dismiss()


def _dismiss(stream: Any) -> None:
    """Have the readers of torch's iterator end; kill those that do not, as over a dead disk: their rank waits for them.

    torch waits for one after the other, and raises where one is killed meanwhile.
    """
    if not any(reader.is_alive() for reader in stream._workers):  # done at exit; no thread begins after that
        return
    late = threading.Timer(_ENDING_S, lambda: [reader.kill() for reader in stream._workers])
    with suppress(RuntimeError):  # Python 3.12 starts no threads at exit
        late.start()
    with suppress(RuntimeError):
        stream._shutdown_workers()
    late.cancel()
    # Where a reader was killed torch has left its queues open. The threads that fill them would end with this process,
    # and one that is cut off while it takes a semaphore down leaves Python's tracker to tell of that.
    for queue in stream._index_queues:
        queue.cancel_join_thread()
        queue.close()
        if queue._thread:
            queue._thread.join(_FILLING_S)
    for reader in stream._workers:
        if reader.is_alive():
            reader.kill()


def _begin_reading(_: int) -> None:
    """Set up a reader: it outlives the signals that ask its rank to stop, which still needs its batches to reach a
    step's end, and it does not outlive its rank, whose death torch does not see while a reader starts."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _allow_many_files()
    # Into memory, where the rank finds it: no empty file of every reader in the run's folder, none that may hang.
    faulthandler.register(signal.SIGUSR2, file=os.memfd_create(_STACKS))
    end_with_the_parent()


def _allow_many_files() -> None:
    """Raise this process's limit of open files: each set keeps some hundred shards open, and 1,024 are the usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def stacks() -> list[tuple[dict[str, Any], str]]:
    """Pid and state of each reader of this process, as proc(5) has it (T stopped, D waits for a disk), and its stacks.

    No stacks where it is stopped, or still starting.
    """
    found = []
    readers = sorted(child.pid or 0 for child in multiprocessing.active_children())
    memory = {pid: file for pid in readers if (file := _memory(pid))}
    for pid in memory:
        os.kill(pid, signal.SIGUSR2)
    time.sleep(_SAYING_S)
    for pid in readers:
        with suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found.append(({"pid": pid, "state": state}, memory[pid].read_text() if pid in memory else ""))
    return found


def _memory(pid: int) -> Path | None:
    """Where a reader writes its stacks, or None before it has begun to read."""
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if _STACKS in os.readlink(fd):
                return fd
    return None


def kill() -> None:
    """End the readers of this process, also the stopped: only for who ends itself without a word."""
    for child in multiprocessing.active_children():
        child.kill()
