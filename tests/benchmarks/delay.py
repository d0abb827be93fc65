"""A switch whose cables are long: joins hosts by taps and hands every frame on after a while.

What netem does where the kernel has it. Frames are large, as the sender's TCP makes them, so that Python can carry
1 Gbit/s; what it adds itself is for the caller to measure (ping).
"""

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP, NO_PI, VNET_HDR = 0x0002, 0x1000, 0x4000
CHECKSUM, TSO4, TSO6, ECN = 1, 2, 4, 8
HEADER = 10  # bytes before a frame: struct virtio_net_hdr
CLONE_NEWNET = 0x40000000


def tap(pid: int, name: str) -> int:
    """A new tap in the network of a process; this process is in that network afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as network:
        assert libc.setns(network.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_PI | VNET_HDR))
    fcntl.ioctl(fd, TUNSETOFFLOAD, CHECKSUM | TSO4 | TSO6 | ECN)
    return fd


def carry(taps: list[int], delay_s: float) -> None:
    """For ever: each frame to the tap behind which its address was seen, to all others where none was."""
    behind = dict[bytes, int]()
    waiting = deque[tuple[float, int, bytes]]()
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select(taps, [], [], left)
        for fd in ready:
            frame = os.read(fd, 1 << 17)
            behind[frame[HEADER + 6 : HEADER + 12]] = fd
            waiting.append((time.monotonic() + delay_s, fd, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, fd, frame = waiting.popleft()
            known = behind.get(frame[HEADER : HEADER + 6])
            for to in [known] if known is not None else [t for t in taps if t != fd]:
                with suppress(OSError):  # its host is not up yet
                    os.write(to, frame)


if __name__ == "__main__":
    delay_ms, *pids = sys.argv[1:]
    found = [tap(int(pid), "eth0") for pid in pids]
    print("carries", flush=True)
    carry(found, float(delay_ms) / 1e3)
