"""All that this process and its children write to stdout and stderr, in a file too: also what C libraries say last.

    this process: fds 1 and 2 --pipes--> a process of its own: to where the two led before, and to the file

The copier is a process because a thread would die with what is still in the pipes. It outlives this one by just that:
it hears no signal that asks to stop, is in no process group that a launcher kills, and ends when nobody has `asking`
open any more. That is when this process is gone, whoever still has the pipes, as long as its children are started by
exec, as our readers are: one that is only forked keeps `asking`, and the copier waits for it too. Where all processes
are killed at once, as a container's are when its first one ends, the last milliseconds may be missing; so an ordinary
end, a traceback included, waits until all is written. Where the copier itself is killed, whoever writes to stdout or
stderr gets a BrokenPipeError.

The screen comes first. The file may be on a network that hangs: a thread writes it, and neither the screen nor this
process waits for it, but for _PATIENCE_S where it begins to hang and at the end.
"""

import atexit
import errno
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import tty
from contextlib import suppress
from pathlib import Path

_WAIT_S = 10  # at an ordinary end, for a copier whose file or terminal is stuck
_PATIENCE_S = 3  # for a file that may be slow and not stuck: before something is lost, before the screen is closed
_LAST_S = 60  # for the file, when this process is gone and nobody waits
_BEHIND = 4 << 20  # bytes that wait for the file
_LINE = 1 << 16  # bytes that wait for the end of their line, and ...
_PAUSE_MS = 1000  # ... how long, when nothing else comes
_FULL = 64  # reads that empty a pipe; no endless loop where a child never stops to write
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# What is drawn and not said: all that a return goes back over, and the sequences that move a cursor or colour a word.
# `^` says only what is so anyway, and saves a search from every byte of a long line.
_DRAWN = re.compile(rb"(?m)^[^\n]*\r(?!\n)|\x1b\[[0-9;?]*[A-Za-z]")


def keep(file: Path) -> None:
    """Copy to `file`, which must be a new one, from now to the end of the process. OSError where it cannot be."""
    _copy_to(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666))


def _copy_to(kept: int) -> None:
    _three_open()
    pipes: dict[int, tuple[int, int]] = {}
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is not None:  # closed before we began: its number may be anybody's by now
            together = 1 in pipes and os.path.sameopenfile(1, fd)  # one pipe, or the order of the two is lost
            pipes[fd] = pipes[1] if together else _pipe(fd)
    (asked, asking), (answer, answering) = os.pipe(), os.pipe()
    leads = {reading: fd for fd, (reading, _) in reversed(pipes.items())}
    theirs = (kept, answering, *leads)
    numbers = (kept, answering, *(number for pair in leads.items() for number in pair))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # the copier inherits that from its first instant
    try:
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *map(str, numbers)],
            stdin=asked, pass_fds=theirs, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for fd in (asked, *theirs):
            os.close(fd)
    if not os.read(answer, 1):
        raise OSError(errno.EIO, "the process that writes it ended as it began")
    _flush()
    for fd, (_, writing) in pipes.items():
        os.dup2(writing, fd)
    for writing in {writing for _, writing in pipes.values()}:
        os.close(writing)
    # `asking` stays open: however this process dies, the copier sees its end.
    atexit.register(_written, asking, answer)


def _three_open() -> None:
    """Open /dev/null as 0, 1 and 2 where they are closed: no pipe of ours may get their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def _pipe(fd: int) -> tuple[int, int]:
    """Where to read, where to write; a pseudo-terminal in a terminal's place, so that a bar is still drawn there."""
    if not os.isatty(fd):
        return os.pipe()
    reading, writing = os.openpty()
    tty.setraw(writing)  # every byte as it is
    termios.tcsetwinsize(writing, termios.tcgetwinsize(fd))
    return reading, writing


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


def _written(asking: int, answer: int) -> None:
    """Wait until all that was said is where it belongs; what is said after this is copied still."""
    _flush()
    with suppress(OSError):
        os.write(asking, b".")
        select.select([answer], [], [], _WAIT_S)


class _File:
    """The file, written by a thread: what is more than it can take is lost, and it says how much."""

    def __init__(self, fd: int, answering: int):
        self._fd, self._answering = fd, answering
        self._waiting, self._lost = bytearray(), 0
        self._asked: bytes | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, said: bytes) -> None:
        with self._news:
            room = self._lost == 0 and self._news.wait_for(
                lambda: not self._waiting or len(self._waiting) + len(said) <= _BEHIND, _PATIENCE_S
            )
            if room:
                self._waiting += said
                self._news.notify_all()
            else:
                self._lost += len(said)

    def ask(self, asked: bytes) -> None:
        """Answer (b".") or end (b"") when all is written."""
        with self._news:
            self._asked = asked
            self._news.notify_all()

    def wait(self, seconds: float) -> None:
        """For the end, so long at most."""
        self._thread.join(seconds)

    def _run(self) -> None:
        asked = None
        while asked != b"":
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._asked is not None)
                said, asked, lost = bytes(self._waiting), self._asked, self._lost
                self._waiting, self._asked, self._lost = bytearray(), None, 0
                self._news.notify_all()
            if lost:
                said += b"\n[%d bytes are missing here: this file could not be written]\n" % lost
            _write(self._fd, said)
            if asked:
                _write(self._answering, asked)


class _Copy:
    """What comes out of a pipe goes to the fd where it went before, and to the file.

    In whole lines, for other ranks may write to the same place; but what a terminal draws is shown at once.
    """

    def __init__(self, pipe: int, before: int, file: _File):
        self.pipe, self._before, self._file = pipe, before, file
        self._drawing, self._rest = os.isatty(pipe), b""
        os.set_blocking(pipe, False)

    @property
    def torn(self) -> bool:
        """Whether somebody may wait for half a line."""
        return bool(self._rest) and not self._drawing

    def drain(self) -> bool:
        """Whether more may come, after all that is there."""
        for _ in range(_FULL):
            try:
                said = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                return True
            except OSError:  # a pseudo-terminal that nobody has open any more
                said = b""
            if not said:
                self.flush()
                return False
            if self._drawing:
                _write(self._before, said)
            self._cut(said)
        return True

    def _cut(self, said: bytes) -> None:
        """Say the lines that are whole by now; a bar is none until it stands still."""
        whole, end, rest = (self._rest + said).rpartition(b"\n")
        self._say(whole + end)
        self._rest = rest[max(0, rest.rfind(b"\r")) :] if self._drawing else rest
        if len(self._rest) > _LINE:
            self.flush()

    def flush(self) -> None:
        rest, self._rest = self._rest, b""
        self._say(rest)

    def _say(self, lines: bytes) -> None:
        if self._drawing:
            lines = _DRAWN.sub(b"", lines)
        else:
            _write(self._before, lines)
        self._file.add(lines)


def _write(fd: int, said: bytes) -> None:
    """Whole lines at a time, as far as a pipe takes them in one piece."""
    done = 0
    with suppress(OSError):  # a full disk, a terminal that is gone: the other of the two still gets it
        while done < len(said):
            end = said.rfind(b"\n", done, done + select.PIPE_BUF) + 1 or done + select.PIPE_BUF
            try:
                done += os.write(fd, said[done:end])
            except BlockingIOError:  # whoever shares it with us wants it so
                select.select([], [fd], [])


def _copier(kept: int, answering: int, *numbers: int) -> None:
    _three_open()
    file = _File(kept, answering)
    copies = [_Copy(*pair, file) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    waiting = select.poll()
    for fd in (0, *(copy.pipe for copy in copies)):
        waiting.register(fd, select.POLLIN)
    os.write(answering, b".")
    asked = None
    while asked != b"":
        ready = dict(waiting.poll(_PAUSE_MS if any(copy.torn for copy in copies) else None))
        asked = os.read(0, 1) if 0 in ready else None
        for copy in list(copies):
            if not copy.drain():
                waiting.unregister(copy.pipe)
                copies.remove(copy)
            elif asked is not None or (copy.torn and not ready):
                copy.flush()
        if asked:
            file.ask(asked)
    file.ask(b"")
    file.wait(_PATIENCE_S)
    os.close(1)  # whoever waits for the end of the screen does not wait for a file that is stuck
    os.close(2)
    file.wait(_LAST_S)


if __name__ == "__main__":
    _copier(*map(int, sys.argv[1:]))
