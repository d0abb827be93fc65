"""A small Hub on loopback that is real where it matters: huggingface_hub, timm and transformers see no difference.

    store.py      bytes, repositories, commits
    endpoints.py  the protocol: a request in, a response out
    faults.py     what can go wrong on the way
    server.py     sockets; `Hub(folder)` starts it, and is what tests hold

Standard library only. The site is http://127.0.0.1:PORT, the storage of large files http://localhost:PORT.
"""

import socket
import struct
import threading
import time
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hub.endpoints import Request, Response, answer
from hub.faults import Faults
from hub.store import Store, User

TOKENS = {
    "hf_alicewritestolab": User("alice", ("lab",)),
    "hf_alicereadsonly": User("alice", ("lab",), may_write=False),
    "hf_bobisastranger": User("bob"),
}


class Hub:
    """The server, running until `stop`."""

    def __init__(self, root: Path) -> None:
        self.store, self.faults = Store(root), Faults()
        self.requests: list[str] = []  # "METHOD /path" in the order of arrival
        self.lock = threading.Lock()  # one request at a time: what the store may rely on
        hub = self

        class Bound(_Handler):
            pass

        Bound.hub = hub
        self._server = _Server(("127.0.0.1", 0), Bound)
        port = self._server.server_address[1]
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests; anything else is shown."""
        traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: without it every response waits 40 ms for an acknowledgement
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass  # the client hung up, or was cut off by a fault

    def serve(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {url.path}")
            fault = self.hub.faults.next_for(self.command, url.path)
        kind = fault.kind if fault else ""
        if kind == "reset":
            return self._reset()
        if fault and kind == "silent":
            time.sleep(fault.seconds)
            return self._reset()
        if fault and kind == "meanwhile":
            fault.act()
        if fault and kind == "status":
            response = Response(fault.status, b'{"error": "injected"}', fault.headers)
        else:
            response = self._answer(url.path, parse_qs(url.query), body)
        if kind == "lost":
            return self._reset()
        if kind == "damaged":
            middle = len(response.body) // 2
            flipped = bytes([response.body[middle] ^ 0xFF])
            response = replace(response, body=response.body[:middle] + flipped + response.body[middle + 1 :])
        self._send(response, cut=kind == "cut")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes) -> Response:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            words = "Invalid credentials in Authorization header"
            return Response(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": words})
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, body, TOKENS.get(token), self.hub.url, self.hub.cdn)
        try:
            with self.hub.lock:
                return answer(self.hub.store, request)
        except Exception:  # a bug of this server must not look like a fault of the network
            traceback.print_exc()
            return Response(500, b'{"error": "the test server has a bug"}')

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, response: Response, cut: bool) -> None:
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: len(response.body) // 2] if cut else response.body)
        self.close_connection = self.close_connection or cut

    def _reset(self) -> None:
        """Close with RST instead of FIN: what a crashed peer or an angry firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()
