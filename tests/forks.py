"""Ranks that are forked from one process which has imported torch, DeepSpeed and fer_scale already.

    Forks.start(argv, environment) --socket: what to become, two pipes--> server --fork--> rank, as `python ARGV`

Importing takes a rank 5 s of a processor, a fork 0.04 s. The server has one thread and has touched nothing but imports,
so that what it forks is as good as new: its environment, folder, arguments, output, signals and `__main__` are those of
a fresh process, and so is how it ends. What is read from the environment while importing is not: `AT_IMPORT`.
Nothing outlives the tests: the server dies with the process that started it, and the ranks with the server.
"""

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

AT_IMPORT = ("ACCELERATE_", "DS_", "HF_", "HUGGINGFACE_", "MPL", "OMP_", "PYTHON", "TIMM_", "TORCH_", "XDG_")
MODULES = (
    "fer_scale.pretrain.loop",
    "fer_scale.pretrain.probe",
    "fer_scale.finetune.loop",
    "fer_scale.publish",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # and half of torch's compiler; deepspeed.initialize imports it
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
)
_PR_SET_PDEATHSIG = 1


def read_at_import(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that a forked rank cannot have for itself."""
    return {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}


class Forks:
    """The server, started when the first rank is."""

    def __init__(self, cwd: Path, environment: dict[str, str], modules: Sequence[str] = MODULES):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = tempfile.TemporaryFile("w+")
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), str(os.getpid()), *modules]
            self._server = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=cwd, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._said,
            )  # fmt: skip
        self.pid = self._server.pid

    def start(self, argv: list[str], environment: dict[str, str]) -> "Forked":
        (out, theirs), (status, told) = os.pipe(), os.pipe()
        message = json.dumps({"argv": argv, "environment": environment}).encode()
        try:
            socket.send_fds(self._socket, [message], [theirs, told])
        finally:
            os.close(theirs)
            os.close(told)
        if not (pid := os.read(status, 8)):
            self._said.seek(0)
            raise RuntimeError(f"the server of ranks ended:\n{self._said.read()}")
        return Forked(*struct.unpack("q", pid), out, status)

    def close(self) -> None:
        self._socket.close()
        self._server.wait()
        self._said.close()


class Forked:
    """A forked rank, with what tests use of subprocess.Popen(stdout=PIPE, text=True)."""

    def __init__(self, pid: int, out: int, status: int):
        self.pid, self.returncode = pid, None
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self._status, self._said = status, b""

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(f"rank of pid {self.pid}", timeout or 0)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            told = os.read(self._status, 8)
            os.close(self._status)
            self.returncode = struct.unpack("q", told)[0] if told else -signal.SIGKILL  # with its server
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        until = None if timeout is None else time.monotonic() + timeout
        said = b"."
        while said:
            left = None if until is None else max(0, until - time.monotonic())
            if not select.select([self.stdout], [], [], left)[0]:
                raise subprocess.TimeoutExpired(f"rank of pid {self.pid}", timeout or 0)
            self._said += (said := os.read(self.stdout.fileno(), 1 << 16))
        self.wait(left)
        return self._said.decode(errors="replace"), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


# ---- the server


def _serve(asking: socket.socket) -> list[str] | None:
    """In a rank what it is to become; in the server nothing, when nobody asks any more."""
    ranks: dict[int, tuple[int, int]] = {}  # a descriptor of the process -> its pid, where to tell its end
    waiting = select.poll()
    waiting.register(asking, select.POLLIN)
    while True:
        for fd, _ in waiting.poll():
            if fd in ranks:
                pid, told = ranks.pop(fd)
                waiting.unregister(fd)
                _tell(told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(told)
                os.close(fd)
                continue
            message, fds, *_ = socket.recv_fds(asking, 1 << 20, 2)
            if not message:
                return None
            server = os.getpid()
            if not (pid := os.fork()):
                asking.close()
                for other, (_, told) in ranks.items():
                    os.close(other)
                    os.close(told)
                return _as_new(server, *fds, **json.loads(message))
            _tell(fds[1], pid)
            os.close(fds[0])
            ended = os.pidfd_open(pid)
            ranks[ended] = (pid, fds[1])
            waiting.register(ended, select.POLLIN)


def _tell(told: int, number: int) -> None:
    try:
        os.write(told, struct.pack("q", number))
    except BrokenPipeError:
        pass  # nobody waits for it any more


def _as_new(server: int, out: int, told: int, argv: list[str], environment: dict[str, str]) -> list[str]:
    _die_with(server)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd in (1, 2):
        os.dup2(out, fd)
    os.close(out)
    os.close(told)
    os.environ.clear()
    os.environ.update(environment)
    for name in ("torch", "numpy.random"):  # no two processes draw alike unless told to; Python's own sees to itself
        if module := sys.modules.get(name):
            module.seed()
    return argv


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def _program(argv: list[str]) -> tuple[Any, types.ModuleType]:
    """The code of `python ARGV`, and a `__main__` for it, by which processes that it spawns can find it again."""
    main = types.ModuleType("__main__")
    sys.argv, sys.path[0] = argv[1:], ""
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        return compile(argv[1], "<string>", "exec"), main
    if argv[0] == "-m":
        sys.path[0] = os.getcwd()
        spec = importlib.util.find_spec(argv[1])
        if spec and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{argv[1]}.__main__")
        assert spec and spec.origin and spec.loader
        main.__spec__, main.__file__, main.__package__ = spec, spec.origin, spec.parent
        sys.argv[0] = spec.origin
        return spec.loader.get_code(spec.name), main
    sys.argv, sys.path[0], main.__file__ = argv, str(Path(argv[0]).parent), argv[0]
    return compile(Path(argv[0]).read_bytes(), argv[0], "exec"), main


if __name__ == "__main__":
    _die_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests stop us, and let ranks end first
    for name in sys.argv[3:]:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "an import started a thread: what is forked would miss it"
    gc.freeze()  # as fer_scale.verbs does: nobody looks for garbage among what imports made, at the end neither
    become = _serve(socket.socket(fileno=int(sys.argv[1])))
    if become is None:
        os._exit(0)
    code, sys.modules["__main__"] = _program(become)
    exec(code, sys.modules["__main__"].__dict__)  # here, so that Python ends as it always does
