"""Runs a script, and writes down what it asked of the network and which modules it loaded.

    python overheard.py NOTES.json SCRIPT ARGUMENT...

`asked`: hosts that were looked up or connected to and are not this machine. `modules`: name -> file, at the end.
"""

import atexit
import json
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

HERE = ("127.0.0.1", "::1", "0.0.0.0", "localhost", "", None)
asked: list[str] = []


def audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in HERE:
        asked.append(str(args[1]))
    if event == "socket.getaddrinfo" and args[0] not in HERE:
        asked.append(str(args[0]))


def write(notes: Path) -> None:
    modules = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    notes.write_text(json.dumps({"asked": asked, "modules": modules}))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal, in whatever background tests run
    sys.addaudithook(audit)
    atexit.register(write, Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent.resolve())
    runpy.run_path(sys.argv[0], run_name="__main__")
