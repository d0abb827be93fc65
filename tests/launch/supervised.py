"""Supervisors around tests/launch/fake_run.py, as many as a test starts: what they said, and their ranks."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hosts import until

# The waits that are not in its arguments, short enough for a test.
START = """
import os, sys
from fer_scale import supervise
supervise._MARGIN_S, supervise._OVER_S, supervise._PATIENCE_S, supervise._POLL_S = 0.3, 1, 0.5, 0.05
supervise._LATE_S = float(os.environ.get("LATE_S", supervise._LATE_S))
sys.exit(supervise.main())
"""


@dataclass
class Node:
    """A supervisor of a fake run, and what it has said so far."""

    process: subprocess.Popen[bytes]
    file: Path

    @property
    def said(self) -> str:
        return self.file.read_text()

    def ended(self, seconds: float = 30) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def rank(self) -> int:
        """The process id of the newest rank, as soon as there is one."""
        until(lambda: "rank " in self.said, "a rank")
        return int(re.findall(r"^rank (\d+)$", self.said, re.M)[-1])


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def claimed(out: Path, number: int = 1) -> None:
    until((out / f"attempts/{number:04d}/claim.json").exists, f"start {number}")
    until(lambda: (out / "events.jsonl").exists(), "its first event")
