"""A small Hub on loopback that is real where it matters: huggingface_hub, timm and transformers see no difference.

    store.py         bytes, repositories, commits            wire.py        a request, a response, and who may ask
    xet.py           where Xet keeps its chunks              endpoints.py   which request goes where:
    faults.py        what can go wrong on the way            repositories.py   uploads.py   downloads.py
    schedules.py     faults at random                        server.py      sockets; `Hub(folder)` starts it

Standard library only. The site is http://127.0.0.1:PORT, the storage of large files http://localhost:PORT. It follows
what huggingface_hub 2.4 sends and expects, LFS (basic and in parts) and Xet, models, data sets and
the files of Spaces, which nobody runs.

Where it differs from the real Hub:

- plain HTTP: huggingface_hub believes an error's X-Error-Code alone here, and on https:// looks at addresses too;
- the real one keeps Xet's chunks on a server of their own. Here hf_xet keeps them in a folder (xet.py): no fault can
  strike between it and the chunks, and such a file cannot be had by plain HTTP as it can there;
- pages of a listing have 3 entries instead of 1,000, so that every listing is paged;
- a card's front matter is held against its form (cards.py); the Hub also knows which ids there are;
- there are no pull requests, discussions, download counts or scans for malware, and every commit is
  visible at once: the real one needs seconds for large commits, and caches may show an old branch for a moment;
- a token may write to what its user owns or to nothing: the real one has rights by repository and by organisation;
- requests are counted only where a test sets `quota`, over all endpoints alike: the real one has three buckets.
"""

import socket
import struct
import sys
import threading
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hub.endpoints import answer
from hub.faults import Fault, Faults
from hub.store import Store, User
from hub.wire import Request, Response
from hub.xet import Xet

TOKENS = {
    "hf_alicewritestolab": User("alice", ("lab",)),
    "hf_alicereadsonly": User("alice", ("lab",), may_write=False),
    "hf_bobisastranger": User("bob"),
}
_LIMITS = {"RateLimit": '"api";r=499;t=300', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}  # on all answers
_PORTAL = Response(200, b"<html><body>Please accept our terms.</body></html>", {"Content-Type": "text/html"})


class Hub:
    """The server, running until `stop`."""

    def __init__(self, root: Path, *, xet: bool = False, tokens: dict[str, User] | None = None) -> None:
        self.store, self.faults = Store(root), Faults()
        self.store.xet = Xet(root / "chunks") if xet else None
        self.tokens = TOKENS | (tokens or {})
        self.requests: list[str] = []  # "METHOD /path" in the order of arrival
        self.quota: int | None = None  # requests that are left until the rate limit
        self.lock = threading.Lock()  # one request at a time: what the store may rely on
        self.stopped = threading.Event()
        hub = self

        class Bound(_Handler):
            pass

        Bound.hub = hub
        self._server = _Server(("127.0.0.1", 0), Bound)
        port = self._server.server_address[1]
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a hundred processes may come at once

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
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
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            fault = self.hub.faults.next_for(self.command, path) or Fault("slow", "", "", seconds=0)
        fault.act()
        if fault.kind == "reset":
            return self._reset()
        if fault.kind == "torn":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self._reset()
        body = self._body()
        if fault.kind in ("silent", "slow") and fault.seconds:
            self.hub.stopped.wait(fault.seconds)
        if fault.kind == "silent":
            return self._reset()
        self._back(self._instead(fault) or self._answer(body, fault), fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _instead(self, fault: Fault) -> Response | None:
        """What comes in place of an answer."""
        match fault.kind:
            case "status":
                return Response(fault.status, b'{"error": "injected"}', fault.headers)
            case "portal":
                return _PORTAL
            case "loop":
                return Response(302, b"", {"Location": self.path})
        with self.hub.lock:
            if self.hub.quota is not None:
                self.hub.quota -= 1
                if self.hub.quota < 0:
                    return Response(429, b'{"error": "Too Many Requests"}', {"RateLimit": '"api";r=0;t=250'})
        return None

    def _answer(self, body: bytes, fault: Fault) -> Response:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            words = "Invalid credentials in Authorization header"
            return Response(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": words})
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if fault.kind == "rangeless":
            headers.pop("range", None)
        user, query = self.hub.tokens.get(token), parse_qs(url.query)
        request = Request(self.command, url.path, query, headers, body, user, self.hub.url, self.hub.cdn)
        try:
            with self.hub.lock:
                return answer(self.hub.store, request)
        except Exception:  # a bug of this server must not look like a fault of the network
            traceback.print_exc()
            return Response(500, b'{"error": "the test server has a bug"}')

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            size = int(self.headers.get("Content-Length") or 0)
            if len(body := self.rfile.read(size)) < size:
                raise ConnectionError("the client is gone")
            return body
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    # ---- the way back

    def _back(self, response: Response, fault: Fault) -> None:
        middle = len(response.body) // 2
        match fault.kind:
            case "lost":
                return self._reset()
            case "dressed":
                response = replace(response, headers=response.headers | fault.headers)
            case "short":
                response = replace(response, body=response.body[:middle])
            case "damaged" if response.body:
                flipped = bytes([response.body[middle] ^ 0xFF])
                response = replace(response, body=response.body[:middle] + flipped + response.body[middle + 1 :])
        self._head(response)
        if self.command == "HEAD":
            return
        match fault.kind:
            case "cut" | "broken" | "stall":
                self.wfile.write(response.body[:middle])
                self.wfile.flush()
                self.close_connection = True
                if fault.kind == "stall":
                    self.hub.stopped.wait(fault.seconds)
                if fault.kind == "broken":
                    self.hub.stopped.wait(0.05)  # else the reset overtakes what was sent
                    self._reset()
            case "trickle":
                self._trickle(response.body, fault.seconds)
            case _:
                self.wfile.write(response.body)

    def _head(self, response: Response) -> None:
        self.send_response(response.status)
        length = {"Content-Length": str(len(response.body))}
        limits = _LIMITS if response.status != 429 else {}
        for name, value in {**length, **limits, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _trickle(self, body: bytes, seconds: float) -> None:
        """A byte every now and then, for as long; the rest stays away."""
        for k in range(min(len(body), 40)):
            self.wfile.write(body[k : k + 1])
            self.wfile.flush()
            if self.hub.stopped.wait(seconds / 40):
                break
        self.close_connection = True

    def _reset(self) -> None:
        """Close with RST instead of FIN: what a crashed peer or an angry firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()
