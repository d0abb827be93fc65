"""Whether the main node's launcher is there, as the other nodes see it."""

import socket
from dataclasses import dataclass

_SILENT_S = 30  # a host that lost its power says nothing; then it is asked, six times


@dataclass
class Door:
    """A connection to the main node's launcher, over which nothing is said: it ends when that launcher ends."""

    address: str
    held: socket.socket | None = None

    def is_shut(self) -> bool:
        try:
            return self.held is None or not self.held.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def opens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            self.held = socket.create_connection((host, int(port)), timeout=2)
            self.held.setblocking(False)
            self.held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", _SILENT_S), ("TCP_KEEPINTVL", _SILENT_S // 6), ("TCP_KEEPCNT", 6)):
                if hasattr(socket, option):
                    self.held.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        except OSError:
            return False
        return True
