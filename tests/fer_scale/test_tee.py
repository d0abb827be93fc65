"""What a process said stands in its log however it ended, and its screen is what it was."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BEGINNING = """
import os, signal, subprocess, sys
from pathlib import Path
from fer_scale import log, tee
tee.keep(Path(sys.argv[1]))
"""


def command(tmp_path: Path, what: str, file: Path | None = None) -> list[str]:
    (tmp_path / "script.py").write_text(BEGINNING + what)
    return [sys.executable, str(tmp_path / "script.py"), str(file or tmp_path / "rank.log")]


def said(tmp_path: Path, what: str, **more: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command(tmp_path, what, **more), env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -11),
        ("os.killpg(0, signal.SIGTERM)", -15),
    ],
)
def test_a_log_holds_the_last_words_of_any_end_and_the_screen_and_the_exit_code_stay(
    tmp_path: Path, end: str, code: int
) -> None:
    words = "os.setpgid(0, 0); print('a result', flush=True); os.write(2, b'x' * 200_000 + b' last words'); "
    given, out, err = said(tmp_path, words + end)
    assert (given, out, err) == (code, "a result\n", "x" * 200_000 + " last words")
    log = (tmp_path / "rank.log").read_text()
    assert len(log) == len(out) + len(err) and "a result\n" in log and log.count("x") == 200_000


def test_a_traceback_and_what_a_child_says_are_in_the_log(tmp_path: Path) -> None:
    code, out, err = said(tmp_path, "subprocess.run('echo of a child >&2', shell=True); raise ValueError('mine')")
    assert code == 1 and out == "" and err.endswith("ValueError: mine\n")
    assert (tmp_path / "rank.log").read_text() == err and err.startswith("of a child\nTraceback")


def test_a_child_that_lives_on_with_the_pipe_holds_nothing_up(tmp_path: Path) -> None:
    words = "print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid)"
    _, out, _ = said(tmp_path, words)  # which waits until the copier has closed the screen
    os.kill(int(out), 9)


def test_the_log_is_whole_when_the_first_process_of_a_container_ends(tmp_path: Path) -> None:
    """The kernel kills all others then, the copier among them."""
    words = "import time; os.write(1, f'pid {os.getpid()}'.encode()); raise ValueError('x' * 100_000)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    contained = ["unshare", "--pid", "--fork", *command(tmp_path, words)]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    done = subprocess.run(contained, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "pid 1"
    log = (tmp_path / "rank.log").read_text()
    assert "pid 1" in log and len(log) == len(done.stdout + done.stderr) and log.count("x") >= 100_000


def test_a_log_that_cannot_be_written_leaves_the_screen(tmp_path: Path) -> None:
    """As on a full disk: no file may grow."""
    begin = BEGINNING.replace(
        "tee.keep(", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\ntee.keep("
    )
    (tmp_path / "script.py").write_text(begin + "print('still said')")
    ran = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "rank.log")]
    done = subprocess.run(ran, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still said\n", "")
    assert (tmp_path / "rank.log").read_text() == ""


def test_a_terminal_keeps_its_bar_and_the_log_has_lines_without_it(tmp_path: Path) -> None:
    words = "with log.bar('training', 'steps') as tick:\n"
    words += "    for n in range(4): tick(n, 4); log.say(f'step {n}')\n"
    words += "    print('of a library', file=sys.stderr)\n"
    main, side = pty.openpty()
    env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(command(tmp_path, words), env=env, stdin=side, stdout=side, stderr=side)
    os.close(side)
    shown = b""
    while part := _read(main):
        shown += part
    os.close(main)
    assert process.wait(60) == 0
    assert b"\x1b[2K" in shown and "━━━".encode() in shown and b"step 3" in shown
    lines = (tmp_path / "rank.log").read_text().splitlines()
    assert lines[:5] == ["step 0", "step 1", "step 2", "step 3", "of a library"]
    assert len(lines) == 6 and lines[5].startswith("training ━"), "the bar where it came to stand"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has it open any more
        return b""
