"""A web server on loopback that can do what goes wrong on the way, and a process that reads a set from it.

status   it answers `status` instead of the file
cut      after `bytes` of the body the connection ends
reset    the same, with RST: what the client has not read yet is lost
stall    after `bytes` of the body it is silent for `seconds`, then goes on if somebody is still there
wrong    one byte of the body is changed
"""

import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Fault:
    kind: str
    path: str  # a regular expression, looked for in the path
    times: int = 1
    bytes: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0


class Web:
    """The server of a folder's files, running until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True
        self.faults: list[Fault] = []
        self.fired: list[Fault] = []
        self.requests: list[str] = []  # names in the order of arrival
        self.served: Counter[str] = Counter()  # bytes of bodies sent, by name
        self.lock = threading.Lock()
        web = self

        class Bound(_Handler):
            pass

        Bound.web = web
        self._server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/set"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def add(self, kind: str, path: str, **more: object) -> None:
        self.faults.append(Fault(kind, path, **more))  # type: ignore[arg-type]

    def strikes(self, name: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.path, name):
                fault.times -= 1
                self.fired.append(fault)
                return fault
        return None

    def forget(self) -> None:
        self.faults, self.fired, self.requests, self.served = [], [], [], Counter()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: without it every response waits 40 ms for an acknowledgement
    web: Web

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        web, name = self.web, self.path.removeprefix("/set/")
        with web.lock:
            web.requests.append(name)
            fault = web.strikes(name)
        if fault and fault.kind == "status":
            return self._head(fault.status, 0, fault.headers)
        file = web.folder / name
        if not file.is_file():
            return self._head(404, 0, {})
        data, start = file.read_bytes(), 0
        if web.ranges and (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(wanted[1])
            if start >= len(data):
                return self._head(416, 0, {})
            self._head(206, len(data) - start, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        else:
            self._head(200, len(data), {})
        if fault and fault.kind == "wrong":
            middle = start + (len(data) - start) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self._body(name, data[start:], fault)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _body(self, name: str, data: bytes, fault: Fault | None) -> None:
        first = data[: fault.bytes] if fault and fault.kind in ("cut", "reset", "stall") else data
        self._send(name, first)
        if fault and fault.kind == "stall":
            time.sleep(fault.seconds)
            if self._alone():
                self.close_connection = True
            else:
                self._send(name, data[fault.bytes :])
        if fault and fault.kind in ("cut", "reset"):
            self.close_connection = True
            if fault.kind == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _send(self, name: str, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        with self.web.lock:
            self.web.served[name] += len(data)

    def _alone(self) -> bool:
        """Whether the client has hung up."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.setblocking(True)


READER = """
import hashlib, pickle, sys, threading
from shards import transfer
from shards.remote import open_set

transfer.SILENCE_S, transfer.WAIT_S = 5, 0.02
faces = pickle.loads(pickle.dumps(open_set(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
if "--ahead" in sys.argv:
    faces.prefetch(range(len(faces.counts)))
print(hashlib.sha256(b"".join(sample.image for sample in faces.samples_in_order())).hexdigest())
"""

HERE_AND_THERE = """
import random, sys
from shards import transfer
from shards.index import ShardSet
from shards.remote import open_set

transfer.SILENCE_S, transfer.WAIT_S = 5, 0.02
faces, near = open_set(sys.argv[1], sys.argv[2], float(sys.argv[3])), ShardSet.open(sys.argv[4])
draw = random.Random(sys.argv[5])
for _ in range(200):
    shards = [draw.randrange(len(faces.counts)) for _ in range(4)]
    faces.prefetch(shards)
    row = draw.randrange(faces.counts[shards[0]])
    assert faces.read(shards[0], row) == near.read(shards[0], row)
print("the same")
"""


def reader(address: str, cache: Path, *options: str, gb: float = 1, script: str = READER) -> "subprocess.Popen[str]":
    """A process that reads the whole set, and says the sha256 of its images; or does what the script says."""
    command = [sys.executable, "-c", script, address, str(cache), str(gb), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
