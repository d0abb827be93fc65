"""Work on images by many processes, with one count of images; nothing is left running behind a killed packer."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import util
from typing import Any, TypeVar

from shards.errors import ShardError

T = TypeVar("T")
R = TypeVar("R")
Step = Callable[[], None]
Work = Callable[[T, Step], R]

_LONGEST = 108 - 1 - len("/pymp-12345678/listener-12345678")  # unix(7): a socket's path, with the 0 that ends it

# In a packing process, shared with the one that started it: images done, and whether to stop.
_done: Any = None
_stop: Any = None


def spread(
    work: Work[T, R], tasks: Iterable[T], workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[T, R]]:
    """Tasks with what `work` makes of them, as they are finished; `progress` is told the number of images so far.

    `work` gets a task and what to call after each image. One worker is this process itself. ShardError if a
    process is killed.
    """
    return _here(work, tasks, progress) if workers <= 1 else _in_processes(work, tasks, workers, progress)


def _here(work: Work[T, R], tasks: Iterable[T], progress: Callable[[int], None]) -> Iterator[tuple[T, R]]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done)

    for task in tasks:
        yield task, work(task, step)


def _in_processes(
    work: Work[T, R], tasks: Iterable[T], workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[T, R]]:
    allow_long_tmpdir()
    # Not fork: the caller may hold threads and a GPU. The server imports once what all need.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.pack"])
    done, stop = context.Value("q", 0), context.Value("b", 0)
    pool = ProcessPoolExecutor(workers, context, _start, (done, stop))
    waiting, sent = iter(tasks), dict[Future[R], T]()
    try:
        while True:
            while len(sent) < 2 * workers and (task := next(waiting, None)) is not None:
                sent[pool.submit(_work, work, task)] = task  # few at a time: each carries the list of its images
            if not sent:
                return
            finished, _ = wait(sent, timeout=0.2, return_when=FIRST_COMPLETED)
            progress(done.value)
            for future in finished:
                yield sent.pop(future), future.result()
    except BrokenProcessPool:
        raise ShardError(
            "a packing process was killed, perhaps for want of memory; run the same command again with fewer "
            '--workers, what is finished is kept. (A script that calls pack() needs `if __name__ == "__main__":` '
            "before it: each packing process imports the script)"
        ) from None
    finally:
        stop.value = 1  # whatever the reason for leaving: what is unfinished is not wanted any more
        pool.shutdown(cancel_futures=True)


def _start(done: Any, stop: Any) -> None:
    """Set up a packing process."""
    global _done, _stop
    _done, _stop = done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the packer stops us, with a better message
    end_with_the_parent()


def allow_long_tmpdir() -> None:
    """Let this process and its children keep their sockets in /tmp where the path of TMPDIR is too long for one.

    Files still go to TMPDIR. The newest Pythons do so themselves (cpython issue 132124); with others no process starts.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST:
        tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # made once, and remembered for the children too
        tempfile.tempdir = folder


def end_with_the_parent() -> None:
    """Let this process end when the one that started it does, however that ends, even if it is gone already."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(work: Work[T, R], task: T) -> R:
    return work(task, _step)


def _step() -> None:
    with _done.get_lock():
        _done.value += 1
    if _stop.value:
        raise RuntimeError("the packer stops")
