"""All that this process and its children write to stdout and stderr, in a file too: also what C libraries say last.

    this process: fds 1 and 2 --pipes--> a process of its own: to the file, and to where the two led before

The copier is a process because a thread would die with what is still in the pipes. It outlives this one by just that:
it hears no signal that asks to stop, is in no process group that a launcher kills, and ends when this process is gone,
whoever still has the pipes. Where all processes are killed at once, as a container's are when its first one ends, the
last milliseconds may be missing; so an ordinary end, a traceback included, waits until all is written.
"""

import atexit
import os
import re
import select
import signal
import subprocess
import sys
import termios
import tty
from contextlib import suppress
from pathlib import Path

_WAIT_S = 10  # at the end, for a copier whose file or terminal is stuck
_FULL = 64  # reads that empty a pipe; no endless loop where a child never stops to write
# What is drawn and not said: all that a return goes back over, and the sequences that move a cursor or colour a word.
_DRAWN = re.compile(rb"[^\n]*\r(?!\n)|\x1b\[[0-9;?]*[A-Za-z]")


def keep(file: Path) -> None:
    """Copy to `file`, which must be a new one, from now to the end of the process. OSError where it cannot be made."""
    file.open("x").close()
    (out, out_end), (err, err_end) = _pipe(1), _pipe(2)
    (asked, asking), (answer, answering) = os.pipe(), os.pipe()
    theirs = (out, err, answering)
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(file), *map(str, theirs)],
        stdin=asked, pass_fds=theirs, start_new_session=True,
    )  # fmt: skip
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(out_end, 1)
    os.dup2(err_end, 2)
    for fd in (*theirs, asked, out_end, err_end):
        os.close(fd)
    # `asking` stays open: however this process dies, the copier sees its end.
    atexit.register(_written, asking, answer)


def _pipe(fd: int) -> tuple[int, int]:
    """Where to read, where to write; a pseudo-terminal in a terminal's place, so that a bar is still drawn there."""
    if not os.isatty(fd):
        return os.pipe()
    reading, writing = os.openpty()
    tty.setraw(writing)  # every byte as it is
    termios.tcsetwinsize(writing, termios.tcgetwinsize(fd))
    return reading, writing


def _written(asking: int, answer: int) -> None:
    """Wait until all that was said is where it belongs; what is said after this is copied still."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    with suppress(OSError):
        os.write(asking, b".")
        select.select([answer], [], [], _WAIT_S)


class _Copy:
    """What comes out of a pipe goes to the file, and to the fd where it went before."""

    def __init__(self, pipe: int, before: int, file: int):
        self.pipe, self._before, self._file = pipe, before, file
        self._drawing, self._line = os.isatty(pipe), b""
        os.set_blocking(pipe, False)

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
                return False
            _write(self._file, self._lines(said) if self._drawing else said)
            _write(self._before, said)
        return True

    def _lines(self, said: bytes) -> bytes:
        """The lines that are whole by now; a bar is none until it stands still."""
        whole, end, rest = (self._line + said).rpartition(b"\n")
        self._line = rest[max(0, rest.rfind(b"\r")) :]
        return _DRAWN.sub(b"", whole + end)


def _write(fd: int, said: bytes) -> None:
    with suppress(OSError):  # a full disk, a terminal that is gone: the other of the two still gets it
        while said:
            said = said[os.write(fd, said) :]


def _copier(file: str, out: int, err: int, answering: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    kept = os.open(file, os.O_WRONLY | os.O_APPEND)
    copies = [_Copy(out, 1, kept), _Copy(err, 2, kept)]
    waiting = select.poll()
    for fd in (0, out, err):
        waiting.register(fd, select.POLLIN)
    asked = None
    while asked != b"":
        asked = os.read(0, 1) if 0 in dict(waiting.poll()) else None
        for copy in list(copies):
            if not copy.drain():
                waiting.unregister(copy.pipe)
                copies.remove(copy)
        if asked:
            os.write(answering, b".")


if __name__ == "__main__":
    _copier(sys.argv[1], *map(int, sys.argv[2:]))
