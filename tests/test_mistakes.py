"""What people get wrong, and what they are told: mistakes.txt is the table, and all of it is typed here.

The situation in which it is typed is small and real: sets that were packed, a run of two steps, a fine-tuned one, and a
Hub on loopback. Mistakes that need several ranks are in tests/ranks.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_scale.__main__ import main
from shards.pack import pack

sys.path.append(str(Path(__file__).parent))
from conftest import ENVIRONMENT
from forks import Forks
from hub import tiny
from hub.server import Hub

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("mistakes.txt")
CODES = (2, 75, 130)
NEEDS_ROOT = "as root"
INTERRUPT = "^C"
COLOURS = {"neutral": (200, 60, 60), "happiness": (60, 200, 60), "surprise": (60, 60, 200)}


@dataclass
class Case:
    """One thing that is typed: the command, what is printed, and the exit code."""

    typed: str
    printed: list[str] = field(default_factory=list)
    code: int = 0


def sections() -> dict[str, list[Case]]:
    """The table: its headings, with the cases below each."""
    found: dict[str, list[Case]] = {}
    cases: list[Case] = []
    _, *below = TABLE.read_text().partition("\n\n## ")
    for line in "".join(below).splitlines():
        if line.startswith("## "):
            cases = found.setdefault(line.removeprefix("## "), [])
        elif line.startswith("$ "):
            cases.append(Case(line.removeprefix("$ ")))
        elif line.startswith("= "):
            cases[-1].code = int(line.removeprefix("= "))
        elif line:
            cases[-1].printed.append(line)
    return found


@dataclass
class Terminal:
    """Where it is typed."""

    folder: Path
    hub: Hub
    forks: Forks

    def type(self, typed: str, interrupted: bool = False) -> tuple[list[str], int]:
        """The lines that are printed, and the exit code."""
        words = shlex.split(typed)
        first = next(number for number, word in enumerate(words) if "=" not in word)
        if words[first] != "fer-scale":
            done = subprocess.run(["bash", "-c", typed], cwd=self.folder, stdout=-1, stderr=-2, text=True)
            return done.stdout.splitlines(), done.returncode
        environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} | dict(word.split("=", 1) for word in words[:first])
        program = Path(__file__).with_name("typed.py")
        command = [str(program), str(self.folder), self.hub.url, *words[first + 1 :]]
        process = self.forks.start(command, environment)
        if interrupted:
            while process.poll() is None and not _reads_a_shard(process.pid):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        process.stdout.close()
        said = said.replace(str(self.folder), "<here>").replace(self.hub.url, "<hub>")
        return said.splitlines(), process.returncode


def _reads_a_shard(pid: int) -> bool:
    with suppress(FileNotFoundError):  # one that was just closed
        return any(os.readlink(fd).endswith(".tar") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.fixture(scope="module")
def terminal(forks: Callable[[], Forks], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("situation")
    hub = Hub(tmp_path_factory.mktemp("hub"))
    here = Terminal(folder, hub, forks())
    (folder / "configs").symlink_to(ROOT / "configs")
    pictures(folder / "faces", 30, labeled=False)
    pictures(folder / "labeled", 60, labeled=True)
    pack(folder / "faces", folder / "sets/faces", source="folder", shard_mb=0.03, workers=1, licence="cc0-1.0")
    pack(folder / "labeled", folder / "sets/labeled", source="folder", workers=1, licence="cc0-1.0")
    tiny.encoder_folder(folder / "encoder")
    Image.open(folder / "labeled/p0/00.png").resize((64, 64)).save(folder / "photo.jpg")
    (folder / "pretrain.toml").write_text((ROOT / "tests/ranks/pretrain.toml").read_text())
    (folder / "finetune.toml").write_text(FINETUNE)
    for command in (
        "split sets/labeled --labels 12 --test 25% --valid 9 --out split.json",
        "split sets/labeled --labels 12 --out no_test.json",
        "pretrain pretrain.toml data.shards=sets/faces run.out=runs/base run.steps=2",
        "finetune finetune.toml",
        "publish encoder hf://lab/gated", "publish encoder hf://lab/private --private",
    ):  # fmt: skip
        said, code = here.type(f"HF_TOKEN=hf_alicewritestolab fer-scale {command}")
        assert code == 0, "\n".join(said)
    hub.store.repos["lab/gated"].gated = True
    yield here
    hub.stop()


FINETUNE = """\
[data]
shards = "sets/labeled"
split = "split.json"
[model]
start_from = "encoder"
[supervised]
steps = 2
batch = 8
warmup_steps = 1
[semi]
steps = 1
batch = 4
warmup_steps = 0
[run]
out = "runs/few"
"""


def pictures(folder: Path, count: int, *, labeled: bool) -> None:
    """Noise of a colour, which tells the expression where they are labeled."""
    rng, lines = np.random.default_rng(0), []
    for number in range(count):
        expression = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[expression]) + rng.normal(0, 30, (24, 24, 3))
        file = folder / f"p{number % 12}/{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
        lines.append({"path": f"{file.parent.name}/{file.name}", "expression": expression, "box": [0.1, 0.1, 0.9, 0.9]})
    if labeled:
        (folder / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def fits(expected: str, said: str) -> bool:
    """Whether a line was printed as the table has it; <words> stand for anything."""
    pattern = re.sub(r"<(?!here>|hub>)[a-z ]+>", "\0", expected)
    return re.fullmatch(re.escape(pattern).replace("\0", ".+"), said) is not None


@pytest.mark.parametrize("heading", sections())
def test_what_is_typed_is_answered_as_the_table_says(terminal: Terminal, heading: str) -> None:
    wrong = []
    if heading.endswith(NEEDS_ROOT) and terminal.type("mkdir -p small && mount -t tmpfs -o size=64k tmpfs small")[1]:
        pytest.skip("needs the right to mount a small file system")
    for case in sections()[heading]:
        interrupted = case.printed[:1] == [INTERRUPT]
        said, code = terminal.type(case.typed, interrupted)
        printed = case.printed[interrupted:]
        alike = len(said) == len(printed) and all(map(fits, printed, said))
        if not (alike and code == case.code):
            wrong.append("\n".join([f"$ {case.typed}", *said, f"= {code}"]))
    assert not wrong, f"{TABLE.name} says otherwise of these:\n" + "\n\n".join(wrong)


def test_the_table_has_its_forty_mistakes_each_with_a_code_and_no_traceback() -> None:
    mistakes = [case for cases in sections().values() for case in cases if case.code]
    assert len(mistakes) >= 40
    assert {case.code for case in mistakes} == {*CODES}
    assert not [case.typed for case in mistakes if "Traceback" in "".join(case.printed) or not case.printed]
    assert len({case.typed for case in mistakes}) == len(mistakes)


def test_every_exit_code_of_the_table_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = re.findall(r"^  (\d+) {2,}\S", capsys.readouterr().out, re.MULTILINE)
    assert told == ["0", "2", "75", "130", "1"] and {*map(str, CODES)} < {*told}


def test_debug_shows_where_a_mistake_was_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index.json"):
        main(["verify", str(tmp_path), "--debug"])
