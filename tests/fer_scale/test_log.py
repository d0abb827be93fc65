"""What a run writes of itself."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from fer_scale import log


def test_a_rewind_that_is_cut_off_leaves_the_curve_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3))
    file.write_text(whole + '{"st')

    def cut_off(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        raise OSError("No space left on device")

    with monkeypatch.context() as during, pytest.raises(OSError, match="No space"):
        during.setattr(os, "fsync", cut_off)
        log.Journal(tmp_path).rewind(2)
    assert file.read_text() == whole + '{"st'
    log.Journal(tmp_path).rewind(2)
    assert [row["step"] for row in log.rows(file)] == [1, 2] and file.read_text().endswith("}\n")
    [said] = log.rows(tmp_path / "events.jsonl")
    assert (said["event"], said["step"], said["reached"]) == ("rewound", 2, 3), "how much was computed in vain"


def test_a_rewind_that_drops_nothing_does_not_touch_the_curve(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n')
    before = file.stat()
    log.Journal(tmp_path).rewind(2)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_loop_has_a_bar_on_a_terminal_and_its_own_lines_alone_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=screen, force_terminal=terminal, width=100, highlight=False))
    with log.bar("training", "steps", done=3) as tick:
        tick(9, 10)
        log.say("step 9")
    assert "step 9" in screen.getvalue()
    assert ("9/10" in screen.getvalue()) == terminal


def test_the_rate_of_work_that_goes_on_is_of_what_is_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = io.StringIO(), iter([100.0, 105.0, 111.0, 112.0])
    monkeypatch.setattr(log, "console", Console(file=screen, force_terminal=False, width=100, highlight=False))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    with log.progress("packing out") as tick:
        for done in (9_000, 9_050, 9_110, 9_120):
            tick(done, 10_000)
    assert screen.getvalue() == "packing out: 9,110/10,000 images, 10/s, 1m29s left\n"


def test_work_that_counts_nothing_yet_is_said_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=screen, force_terminal=False, width=100, highlight=False))
    monkeypatch.setattr(log, "_SILENT_S", 0.05)
    with log.progress("packing out") as tick:
        while not screen.getvalue():
            time.sleep(0.01)
        tick(1, 2)
    assert screen.getvalue() == "packing out: preparing, 0s\n"


def test_results_go_to_a_file_though_a_bar_is_on_the_terminal() -> None:
    """As of predict --json > file: rich would send what is printed meanwhile to the terminal of the bar."""
    near, far = pty.openpty()
    words = "from fer_scale import log\nwith log.progress('photos') as tick:\n tick(1, 2)\n print('a result')"
    done = subprocess.run([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=far, check=True)
    os.close(far)
    assert done.stdout == b"a result\n" and b"photos" in os.read(near, 10_000)
    os.close(near)
