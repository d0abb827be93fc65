"""What a process said stands in its log however it ended, and its screen is what it was."""

import os
import pty
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fer_scale import tee

ROOT = Path(__file__).parents[2]
KEEP = "tee.keep(Path(sys.argv[1]))\n"
BEGINNING = f"""
import os, signal, subprocess, sys
from pathlib import Path
from fer_scale import log, tee
{KEEP}"""
COPIER = "copier = int(Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text())\n"


ENV = os.environ | {"PYTHONPATH": str(ROOT)}


def command(tmp_path: Path, what: str, *, first: str = "", keep: str = KEEP, name: str = "rank") -> list[str]:
    """`first` is done before the log is kept, `what` after it."""
    (tmp_path / f"{name}.py").write_text(BEGINNING.replace(KEEP, first + keep) + what)
    return [sys.executable, str(tmp_path / f"{name}.py"), str(tmp_path / f"{name}.log")]


def said(tmp_path: Path, what: str, **more: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    done = subprocess.run(command(tmp_path, what, **more), env=ENV, capture_output=True, text=True, timeout=60)
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
    contained = ["unshare", "--pid", "--fork", *command(tmp_path, words)]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    done = subprocess.run(contained, env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "pid 1"
    log = (tmp_path / "rank.log").read_text()
    assert "pid 1" in log and len(log) == len(done.stdout + done.stderr) and log.count("x") >= 100_000


def test_a_log_that_cannot_be_written_leaves_the_screen(tmp_path: Path) -> None:
    """As on a full disk: no file may grow."""
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    assert said(tmp_path, "print('still said')", first=full) == (0, "still said\n", "")
    assert (tmp_path / "rank.log").read_text() == ""


def test_a_copier_that_does_not_begin_is_said_and_the_screen_stays(tmp_path: Path) -> None:
    keep = "try: tee.keep(Path(sys.argv[1]))\nexcept OSError as error: print(error.strerror)\n"
    code, out, _ = said(tmp_path, "print('still said')", first="sys.executable = '/bin/false'\n", keep=keep)
    assert (code, out) == (0, "the process that writes it ended as it began\nstill said\n")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_in_the_copiers_first_instant_is_not_heard_and_one_to_this_process_is(
    tmp_path: Path, number: str
) -> None:
    first = "begin = subprocess.Popen\n"
    first += f"subprocess.Popen = lambda *a, **k: os.kill(begin(*a, **k).pid, signal.{number})\n"
    words = f"print('said', flush=True); signal.signal(signal.{number}, lambda *_: os._exit(5))\n"
    code, out, err = said(tmp_path, words + f"os.kill(os.getpid(), signal.{number})", first=first)
    assert (code, out, err) == (5, "said\n", "")
    assert (tmp_path / "rank.log").read_text() == "said\n"


def test_a_run_whose_copier_is_killed_has_failed(tmp_path: Path) -> None:
    """The verb stands for one that trains and says something."""
    words = COPIER + "os.kill(copier, 9); os.waitpid(copier, 0)\n"
    words += "from fer_scale import __main__ as line\n"
    words += "line.VERBS = tuple((verb, lambda _: print('said', flush=True)) for verb, _ in line.VERBS)\n"
    given, _, _ = said(tmp_path, words + "sys.exit(line.main(['pretrain', 'recipe.toml']))")
    assert given in (1, 120)  # by this error, or by that of the last flush


def test_a_file_that_is_stuck_holds_up_neither_the_screen_nor_whoever_waits_for_its_end(tmp_path: Path) -> None:
    """As on a network that hangs: a pipe that nobody reads until all is over. Then it says how much is missing."""
    os.mkfifo(tmp_path / "stuck")
    unread = os.open(tmp_path / "stuck", os.O_RDONLY | os.O_NONBLOCK)
    keep = f"tee._copy_to(os.open('{tmp_path / 'stuck'}', os.O_WRONLY))\n"
    count, line = 12_000, "x" * 999 + "\n"
    words = f"for _ in range({count}): os.write(1, b'{line[:-1]}\\n')\nos._exit(4)"
    with subprocess.Popen(command(tmp_path, words, keep=keep), env=ENV, stdout=subprocess.PIPE) as rank:
        shown = subprocess.run(["cat"], stdin=rank.stdout, capture_output=True, timeout=60).stdout
        assert rank.wait(60) == 4 and shown == line.encode() * count
    os.set_blocking(unread, True)
    with os.fdopen(unread, "rb") as file:
        kept = file.read().decode()
    [lost] = re.findall(r"\n\[(\d+) bytes are missing here", kept)
    assert kept.count("x") + int(lost) // 1000 * 999 == 999 * count


def test_a_terminal_keeps_its_bar_and_the_log_has_lines_without_it(tmp_path: Path) -> None:
    words = "with log.bar('training', 'steps') as tick:\n"
    words += "    for n in range(4): tick(n, 4); log.say(f'step {n}')\n"
    words += "    print('of a library', file=sys.stderr)\n"
    shown, kept = on_a_terminal(tmp_path, words)
    assert b"\x1b[2K" in shown and "━━━".encode() in shown and b"step 3" in shown
    lines = kept.splitlines()
    assert lines[:5] == ["step 0", "step 1", "step 2", "step 3", "of a library"]
    assert len(lines) == 6 and lines[5].startswith("training ━"), "the bar where it came to stand"


def on_a_terminal(tmp_path: Path, words: str) -> tuple[bytes, str]:
    """What is shown, and what is in the log."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        command(tmp_path, words), env=ENV | {"TERM": "xterm"}, stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    shown = b""
    while part := _read(main):
        shown += part
    os.close(main)
    assert process.wait(60) == 0
    return shown, (tmp_path / "rank.log").read_text()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has it open any more
        return b""


def test_a_long_line_and_one_without_an_end_are_in_the_log_of_a_terminal(tmp_path: Path) -> None:
    """A search that begins anew at each byte of a line would take a minute for this one."""
    long = "os.write(1, b'gone\\r' + b'x' * 200_000 + b'\\n' + b'y' * 60_000 + b'\\ngone\\rthe \x1b[1mend\x1b[0m')"
    shown, kept = on_a_terminal(tmp_path, long)
    assert shown.count(b"x") == 200_000 and shown.endswith(b"end\x1b[0m")
    assert kept == "x" * 200_000 + "\n" + "y" * 60_000 + "\nthe end"


def test_what_is_drawn_is_what_a_return_goes_back_over() -> None:
    plain = re.compile(rb"[^\n]*\r(?!\n)|\x1b\[[0-9;?]*[A-Za-z]")  # without the `^` that saves the time
    rng = random.Random(0)
    for _ in range(20_000):
        text = b"".join(rng.choices([b"a", b"b\n", b"\r", b"\r\n", b"\x1b[2K", b"\x1b["], k=rng.randrange(12)))
        assert tee._DRAWN.sub(b"", text) == plain.sub(b"", text), text


def test_stdout_and_stderr_that_lead_to_one_place_keep_their_order(tmp_path: Path) -> None:
    words = "for n in range(500): os.write(1 + n % 2, f'{n}\\n'.encode())"
    done = subprocess.run(
        command(tmp_path, words), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    assert done.stdout == (tmp_path / "rank.log").read_text() == "".join(f"{n}\n" for n in range(500))


def test_ranks_that_share_a_pipe_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    """Each writes as `python -u` does: what is printed, then the end of the line."""
    reading, writing = os.pipe()
    ranks = []
    for letter in "ab":
        words = (
            f"import time\nfor _ in range(300): os.write(1, b'{letter}' * 99), time.sleep(0.003), os.write(1, b'\\n')"
        )
        ranks.append(subprocess.Popen(command(tmp_path, words, name=letter), env=ENV, stdout=writing))
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = file.read().splitlines()
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    assert sorted(lines) == ["a" * 99] * 300 + ["b" * 99] * 300


def test_a_place_that_does_not_block_gets_all_the_same(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    rank = subprocess.Popen(command(tmp_path, "os.write(1, b'x\\n' * 500_000)"), env=ENV, stdout=writing)
    os.close(writing)
    time.sleep(1)  # it is full by now
    with os.fdopen(reading) as file:
        assert file.read() == "x\n" * 500_000
    assert rank.wait(60) == 0


@pytest.mark.parametrize(("closed", "kept"), [(">&-", "err\n"), ("2>&-", "out\n"), (">&- 2>&-", "")])
def test_what_was_closed_at_the_start_stays_so(tmp_path: Path, closed: str, kept: str) -> None:
    words = "for said, to in (('out', sys.stdout), ('err', sys.stderr)): to and print(said, file=to)"
    begun = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(tmp_path, words)]
    done = subprocess.run(begun, env=ENV, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, kept)
    assert (tmp_path / "rank.log").read_text() == kept
