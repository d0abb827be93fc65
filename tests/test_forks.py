"""A forked rank is as good as a fresh process to who starts it, waits for it and kills it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FACTS = """
import json, multiprocessing, numpy, os, signal, sys, torch

def there(name):
    return name, [signal.getsignal(n).__class__.__name__ for n in (signal.SIGTERM, signal.SIGPIPE)]

if __name__ == "__main__":
    print(json.dumps({
        "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "mine": os.environ.get("MINE"), 
        "stdin": sys.stdin.read(), "signals": there("")[1], "draws": [torch.rand(3).tolist(), numpy.random.rand()],
        "threads": len(os.listdir("/proc/self/task")), "group": os.getpgid(0),
        "name": __name__, "fds": sorted(os.listdir("/proc/self/fd"))[:-1],
    }), flush=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # as readers are: it imports __main__ again
        print(json.dumps(pool.apply(there, ("reader",))[0]), flush=True)
    os.write(2, b"said past Python\\n")
    sys.exit(int(sys.argv[1]))
"""


def test_a_forked_rank_sees_and_leaves_what_a_fresh_one_does(launch: Any, tmp_path: Path) -> None:
    (tmp_path / "facts.py").write_text(FACTS)
    command, seen = [str(tmp_path / "facts.py"), "7"], []
    for fresh in ({}, {}, {"PYTHONFRESH": "1"}):  # read while importing, for all that is known of it
        [process] = launch(1, *command, MINE="yes", **fresh).processes
        assert isinstance(process, subprocess.Popen) == bool(fresh)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 7
        seen.append(said.splitlines())
    assert seen[0][1:] == seen[2][1:] == ['"reader"', "said past Python"]
    forked, other, new = (json.loads(lines[0]) for lines in seen)
    draws = [str(draw) for facts in (forked, other, new) for draw in facts.pop("draws")]
    assert len(set(draws)) == 6, "no two processes draw alike unless told to"
    assert forked == new | {"threads": 1} and forked["mine"] == "yes" and forked["argv"] == command


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("raise ValueError('mine')", 1, "ValueError: mine\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)",
            -signal.SIGINT,
            "rrupt\n",
        ),
        ("import os; os._exit(75)", 75, ""),
        ("import atexit; atexit.register(print, 'last'); raise SystemExit('words')", 1, "words\nlast\n"),
    ],
)
def test_a_forked_rank_ends_as_python_does(launch: Any, program: str, code: int, words: str) -> None:
    [process] = launch(1, "-c", program).processes
    said, _ = process.communicate(timeout=60)
    assert process.returncode == process.poll() == code and said.endswith(words)


def test_a_forked_rank_is_waited_for_stopped_and_killed(launch: Any) -> None:
    sleeping, other = launch(2, "-c", "print('here', flush=True); import time; time.sleep(100)").processes
    assert sleeping.stdout.readline() == "here\n" and sleeping.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        sleeping.wait(0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeping.communicate(timeout=0.1)
    sleeping.send_signal(signal.SIGSTOP)
    sleeping.kill()
    assert sleeping.wait(10) == -signal.SIGKILL and other.poll() is None


def test_nothing_outlives_the_tests(tmp_path: Path) -> None:
    tests = f"""
import os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import forks
server = forks.Forks(__import__("pathlib").Path.cwd(), dict(os.environ), modules=())
rank = server.start(["-c", "import time; time.sleep(100)"], dict(os.environ))
print(server.pid, rank.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    said = subprocess.run([sys.executable, "-c", tests], capture_output=True, text=True).stdout
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in said.split()):
        assert time.monotonic() < until, said
        time.sleep(0.05)
    assert len(said.split()) == 2
