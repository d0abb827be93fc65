"""How the command line ends: pipes that break, and what an exit code promises whoever starts it again."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shards.errors import Broken, UserError, exit_code

ROOT = Path(__file__).parents[2]


def ended(closed: tuple[int, ...], verb: str, what: str) -> tuple[int, str]:
    """Exit code and stderr of `fer-scale VERB`, a verb that does `what`, where nobody reads what goes to `closed`."""
    script = "import os, sys\nfrom fer_scale import __main__ as line\n"
    script += f"def does(_):\n    {what}\n"
    script += "line.VERBS = tuple((verb, does) for verb, _ in line.VERBS)\nsys.exit(line.main(sys.argv[1:]))"
    reading, writing = os.pipe()
    os.close(reading)
    places = {name: writing if fd in closed else subprocess.PIPE for name, fd in (("stdout", 1), ("stderr", 2))}
    done = subprocess.run(
        [sys.executable, "-c", script, verb, "a"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}, text=True, timeout=60, **places,
    )  # fmt: skip
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("what", "code"), [("print('facts')", 0), ("print('facts'); return 2", 2)])
def test_a_result_that_nobody_reads_on_is_no_mistake(what: str, code: int) -> None:
    """`fer-scale show SET | head`. What the result says of the set stays."""
    assert ended((1,), "show", what) == (code, "")


def test_a_run_that_nobody_reads_on_has_failed() -> None:
    code, _ = ended((1, 2), "pretrain", "print('step 1', flush=True)")
    assert code in (1, 120), "by this error, or by that of the last flush"
    code, said = ended((1,), "pretrain", "print('step 1', flush=True)")
    assert code in (1, 120) and "BrokenPipeError" in said


def test_another_pipe_that_breaks_is_a_failure() -> None:
    what = "read, write = os.pipe(); os.close(read); os.write(write, b'to a worker')"
    code, said = ended((), "show", what)
    assert code == 1 and "BrokenPipeError" in said


@pytest.mark.parametrize(("error", "code"), [("UserError", 2), ("Broken", 75), ("ShardError", 2)])
def test_one_line_and_a_code_that_says_whether_the_same_command_may_help(error: str, code: int) -> None:
    what = f"from shards import errors; raise errors.{error}('a reader was killed; start again')"
    assert ended((), "pretrain", what) == (code, "fer-scale pretrain: a reader was killed; start again\n")


@pytest.mark.parametrize(
    ("number", "code"), [("ESTALE", 75), ("EIO", 75), ("EACCES", 2), ("ENAMETOOLONG", 2), ("ELOOP", 2)]
)
def test_what_a_disk_says_is_one_line_and_a_code_that_says_whether_the_same_command_may_help(
    number: str, code: int
) -> None:
    ended_with, said = ended((), "show", f"import errno; raise OSError(errno.{number}, 'no answer', '/faces')")
    assert ended_with == code and re.fullmatch(r"fer-scale show: /faces: no answer; [^\n]+\n", said)


def test_a_name_that_is_no_text_is_said_on_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    assert ended((), "show", r"print('b\udcff.jpg', 'ä.jpg')") == (0, "")


def test_a_bug_of_ours_shows_its_traceback() -> None:
    code, said = ended((), "pretrain", "{}['step']")
    assert code == 1 and said.startswith("Traceback") and said.endswith("KeyError: 'step'\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("x"), 2), (Broken("x"), 75), (OSError(errno.ESTALE, "x"), 75), (OSError(errno.ENAMETOOLONG, "x"), 2)],
)
def test_what_may_pass_and_what_somebody_must_mend_end_otherwise(error: Exception, code: int) -> None:
    assert exit_code(error) == code
