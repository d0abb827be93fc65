"""`fer-scale doctor --hostfile F` and `--slurm`: ask the hosts what they have, then start ranks as a job's are started.

The ranks run probe.py; here is heard what they say. Imports no torch: what is wrong with a host is told in seconds.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

from fer_scale import config, log, shipped
from fer_scale.pretrain import fitness
from fer_scale.pretrain.recipe import Pretrain
from shards.errors import UserError

ROOT = shipped.ROOT
MARK = "fer-scale doctor: "  # opens what our ranks say, among all that a launcher says
_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5"]
_ASK_S, _PROBE_S = 30, 300  # the most that one host, and the ranks together, may take
_TAIL = 15  # lines of the launcher that are shown where no report came


def doctor(hostfile: Path | None, recipe: Path | None, overrides: list[str], out: Path | None) -> dict[str, Any]:
    """The report of ranks started over the hosts of `hostfile`, or over those of Slurm's allocation."""
    read(recipe, overrides, out)  # a mistake is told before anything is started
    if not (ROOT / "launch/ssh.sh").exists():
        raise UserError(f"{ROOT}: no launch/ here; run doctor from the folder that the job is started from")
    words = ["doctor", "--reporting", *([str(recipe.absolute())] if recipe else []), *overrides]
    words += ["--out", str(out.absolute())] if out else []
    python = next(file for file in (ROOT / ".venv/bin/python", Path(sys.executable)) if file.exists())  # as the scripts
    env = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    if hostfile:
        names = hosts_in(hostfile)
        asked = _ask(names, python)
        found = amiss(asked, os.environ.get("INTERFACE") or os.environ.get("GLOO_SOCKET_IFNAME", ""))
        if found.blocking:
            return {"hosts": [], "notes": ["no ranks were started"], "findings": found.blocking + found.others}
        expected = {here["host"]: name for name, here in asked.items() if isinstance(here, dict)}
        heard = _listen(["bash", "launch/ssh.sh", *words], env | {"HOSTFILE": str(hostfile.absolute())})
    else:
        found, expected = Amiss(), _allocated()
        heard = _listen(["bash", "launch/slurm.sbatch", *words], env | {"SLURM_SUBMIT_DIR": str(ROOT)})
    report = heard.report or {"hosts": [], "notes": [], "findings": heard.without_report(expected)}
    report["findings"] = list(dict.fromkeys(found.others + report["findings"]))
    return report


def read(recipe: Path | None, overrides: list[str], out: Path | None) -> Pretrain | None:
    """The recipe, where there is one; else `out` may name the folder."""
    if recipe is None:
        return None
    if "=" in str(recipe) and not recipe.exists():
        raise UserError(f"{recipe}: what to change in which recipe? Name it first; without one, --out DIR is enough")
    if out:
        raise UserError(f"--out {out}: a recipe has its run.out; change it by run.out={out}, or leave the recipe out")
    return config.load(Pretrain, recipe, ["data.shards=not-read", *overrides])  # the recipes that came along have none


def hosts_in(hostfile: Path) -> list[str]:
    """The names in a hostfile, as DeepSpeed reads it."""
    if not hostfile.is_file():
        raise UserError(f"{hostfile}: no such hostfile; launch/hostfile.example is one")
    names = []
    for number, line in enumerate(hostfile.read_text().splitlines(), 1):
        if line.strip() and not line.strip().startswith("#"):
            match = re.match(r"(\S+)\s+slots=\d+", line.strip())
            if not match:
                raise UserError(f"{hostfile}:{number}: {line.strip()!r} is not of the form `host slots=8`")
            names.append(match[1])
    if not names:
        raise UserError(f"{hostfile}: names no host; one `host slots=8` a line")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{hostfile}: {', '.join(twice)} stands there twice; one line a host, with all its slots")
    return names


def _ask(names: list[str], python: Path) -> dict[str, dict[str, Any] | str]:
    """What here.py says on each host, or in words why it did not; all at once."""
    log.say(f"asking {log.plural(len(names), 'host')} by ssh what they have")
    order = f"cd {shlex.quote(str(ROOT))} && {shlex.quote(str(python))} -m fer_scale.pretrain.here"
    options = shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))

    def ask(name: str) -> dict[str, Any] | str:
        try:
            command = [*_SSH, *options, name, order]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_S)
        except subprocess.TimeoutExpired:
            return f"no answer over ssh in {_ASK_S} s"
        except FileNotFoundError:
            raise UserError(
                "no ssh here: DeepSpeed's launcher needs it, and pdsh (Debian: openssh-client pdsh)"
            ) from None
        if done.returncode == 0:
            return _answer(done.stdout)
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if done.returncode == 255:
            return f"ssh does not get in without a question: {why}"
        return f"this folder, or the Python that the job takes, is not there: {why}"

    with ThreadPoolExecutor(64) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


def _answer(said: str) -> dict[str, Any] | str:
    """What here.py printed last, or in words what stands there instead."""
    last = (said.strip().splitlines() or ["nothing"])[-1]
    try:
        answer = json.loads(last)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else f"ssh answered something else than what the host has: {last}"


@dataclass(frozen=True, slots=True)
class Amiss:
    """What is wrong before ranks are started; they would not even meet with what is `blocking`."""

    blocking: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def amiss(asked: Mapping[str, dict[str, Any] | str], interface: str = "") -> Amiss:
    """By what the hosts answered (here.py), or why they did not. `interface`: of the network, where it is named."""
    blocking = [f"{name}: {answer}" for name, answer in asked.items() if isinstance(answer, str)]
    answers = {name: answer for name, answer in asked.items() if not isinstance(answer, str)}
    for name, here in answers.items():
        lacks = [package for package, version in here["versions"].items() if version == "none"]
        if lacks:
            blocking.append(f"{name}: {' and '.join(lacks)} not installed there")
        if len(asked) > 1 and not interface and not here["gpu"] and here["address"].startswith("127."):
            blocking.append(
                f"{name}: its own name means {here['address']}, where no other host finds it: name the network "
                "between the hosts, INTERFACE=eth0, or mend /etc/hosts there"
            )
    for name, here in answers.items():
        first = next(other for other in answers if answers[other]["host"] == here["host"])
        if first != name:
            blocking.append(f"{name}: calls itself {here['host']}, as {first} does: is it the same host, named twice?")
    cards = {name: {"a GPU": "there" if here["gpu"] else "none"} for name, here in answers.items()}
    blocking += fitness.unlike(cards)
    return Amiss(blocking, list(fitness.unlike({here["host"]: here["versions"] for here in answers.values()})))


def _allocated() -> dict[str, str]:
    """The hosts of Slurm's allocation, by name."""
    if not (nodes := os.environ.get("SLURM_JOB_NODELIST")):
        raise UserError(
            "--slurm: no allocation here; get one and look at it with `salloc --nodes 4 --gpus-per-node 8 "
            "--ntasks-per-node 8 fer-scale doctor --slurm RECIPE`, or queue `sbatch --nodes 4 launch/slurm.sbatch "
            "doctor RECIPE`"
        )
    listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return {name: name for name in listed.stdout.split()}


@dataclass
class Heard:
    """What the ranks and their launcher said."""

    report: dict[str, Any] | None = None  # whole, or None
    came: list[dict[str, str]] = field(default_factory=list)  # host and device of each rank, before they met
    doing: str = ""  # the part that the ranks began last
    mistakes: list[str] = field(default_factory=list)  # of ranks that gave up
    lines: list[str] = field(default_factory=list)
    in_time: bool = True

    def without_report(self, expected: dict[str, str]) -> list[str]:
        """Who did not come, or what else may be the reason; `expected`: host names, and as what they were given."""
        for line in self.lines[-_TAIL:]:
            log.say(f"  {line}")
        came = {said["host"]: {"device": said["device"]} for said in self.came}
        heard_of = {host.partition(".")[0] for host in came}
        silent = [name for host, name in expected.items() if host.partition(".")[0] not in heard_of]
        if came and silent:
            return [f"{fitness.few(silent)}: no rank came from there; above: what the launcher said last"]
        if other := list(fitness.unlike(came)):
            return other
        if self.mistakes:
            return self.mistakes
        lost = "the ranks were lost" if self.in_time else f"gave up after {_PROBE_S} s"
        if came:
            return [f"{lost}: {self.doing or 'before they had met'}; above: what was said last"]
        return [f"{'' if self.in_time else f'{lost}: '}no rank was started; above: what the launcher said last"]


def _listen(command: list[str], env: dict[str, str]) -> Heard:
    """Start ranks by `command`, and hear them to the end."""
    log.say(f"starting ranks: {shlex.join(command)}")
    # A session of its own: of Ctrl-C DeepSpeed's launcher makes an end of all DeepSpeed jobs on all hosts.
    launcher = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    limit, began = Timer(_PROBE_S, _end, (launcher,)), time.monotonic()
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    assert launcher.stdout is not None
    try:
        limit.start()
        heard = hear(launcher.stdout)
        heard.in_time = time.monotonic() - began < _PROBE_S
        return heard
    finally:
        limit.cancel()
        _end(launcher)
        launcher.stdout.close()
        signal.signal(signal.SIGTERM, before)


def _end(launcher: subprocess.Popen[str]) -> None:
    """Make an end of a launcher and all its session; ranks on other hosts see by it that nobody hears them (probe.py).

    Itself at once: told to stop, DeepSpeed's makes an end of all DeepSpeed jobs. srun and pdsh have three seconds.
    """
    launcher.kill()
    launcher.wait()
    for number in (signal.SIGTERM, *[0] * 30, signal.SIGKILL):
        try:
            os.killpg(launcher.pid, number)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def hear(lines: Iterator[str]) -> Heard:
    """Sort out what the ranks tell (probe.py); what they are doing is passed on."""
    heard, report = Heard(), dict[str, Any](hosts=[], notes=[], findings=[])
    for line in lines:
        _, mark, told = line.partition(MARK)
        if mark and (piece := _piece(told)):
            [(key, value)] = piece.items()
            if key == "doing":
                heard.doing = value
                log.say(value)
            elif key == "came":
                if value["host"] not in (said["host"] for said in heard.came):
                    log.say(f"{value['host']} has started a rank")
                heard.came.append(value)
            elif key == "end":
                heard.report = report
            elif isinstance(report.get(key), list):
                report[key].append(value)
            else:
                report[key] = value
        elif mark and told.strip() not in heard.mistakes:
            heard.mistakes.append(told.strip())
        elif line.strip():
            heard.lines.append(line.rstrip())
    return heard


def _piece(told: str) -> dict[str, Any] | None:
    """What probe.py tells in a line, even where another rank goes on in it; None for a line that is no such thing."""
    try:
        piece = json.JSONDecoder().raw_decode(told)[0]
    except ValueError:
        return None
    return piece if isinstance(piece, dict) and len(piece) == 1 else None
