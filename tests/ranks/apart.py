"""fer-scale, but rank 1 is on another machine as far as the folder APART goes: another, empty disk is mounted there."""

import ctypes
import os
import sys

from fer_scale.__main__ import main

_NEW_MOUNTS, _PRIVATE = 0x00020000, 0x4000 | (1 << 18)  # CLONE_NEWNS; MS_REC | MS_PRIVATE

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        libc, place = ctypes.CDLL(None, use_errno=True), os.environ["APART"].encode()
        if (
            libc.unshare(_NEW_MOUNTS)
            or libc.mount(b"none", b"/", None, _PRIVATE, None)
            or libc.mount(b"tmpfs", place, b"tmpfs", 0, b"size=20m")
        ):
            sys.exit(f"{os.strerror(ctypes.get_errno())}: this test needs the right to mount")
    sys.exit(main())
