"""What the tests of a cluster share: hosts of namespaces, and a run whose curve in one process is known."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fer_scale import log

sys.path.append(str(Path(__file__).parent))
from hosts import ROOT, Hosts, Running, environment, until
from slurm import Slurm
from supervised import START, Node

PACKAGE_OF = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "pdsh": "pdsh",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "faketime": "faketime",
}


@pytest.fixture(scope="session")
def tools() -> None:
    """What hosts are made of; skips the test where it is missing, and says what."""
    if os.geteuid() != 0:
        pytest.skip("needs root: hosts are made of namespaces")
    if missing := [
        package for tool, package in PACKAGE_OF.items() if not shutil.which(tool, path=environment()["PATH"])
    ]:
        pytest.skip(f"needs Debian packages: apt-get install --no-install-recommends {' '.join(missing)}")
    spaces = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*spaces, "mount", "-t", "tmpfs", "run", "/run"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")


@pytest.fixture
def hosts(tools: None, tmp_path: Path) -> Iterator[Callable[..., Hosts]]:
    """hosts(*names): so many hosts, as long as the test lasts."""
    made: list[Hosts] = []

    def make(*names: str) -> Hosts:
        folder = tmp_path / "hosts"
        folder.mkdir()
        made.append(Hosts(folder, list(names)))
        return made[-1]

    yield make
    for some in made:
        some.end()


@pytest.fixture
def slurm(hosts: Callable[..., Hosts], tmp_path: Path) -> Slurm:
    """A Slurm of two nodes, node1 and node2."""
    (tmp_path / "slurm").mkdir()
    return Slurm(tmp_path / "slurm", hosts("node1", "node2"))


@dataclass
class Run:
    """A pre-training of 50 steps: what follows `pretrain`, and what it left."""

    words: list[str]
    out: Path

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in log.rows(self.out / "metrics.jsonl")]

    @property
    def outcome(self) -> dict[str, Any]:
        return json.loads((self.out / "outcome.json").read_text())

    @property
    def starts(self) -> list[tuple[str, int]]:
        """How it was started each time, and with how many ranks."""
        rows = log.rows(self.out / "events.jsonl")
        return [(row["event"], row["ranks"]) for row in rows if row["event"] in ("start", "resume")]

    @property
    def hosts(self) -> list[str]:
        """Of the last start."""
        rows = log.rows(self.out / "events.jsonl")
        return [row["hosts"] for row in rows if row["event"] in ("start", "resume")][-1]

    def reach(self, step: int, job: Running) -> None:
        """Wait until it has taken a step, has saved if it was to have saved by then, and is still far from its last."""

        def reached() -> bool:
            saved = step < 10 or any(self.out.glob("checkpoints/step_*[0-9]/manifest.json"))
            return saved and len(self.losses) >= step

        until(lambda: reached() or job.process.poll() is not None, f"step {step}", 240)
        assert job.process.poll() is None, job.said
        assert not (self.out / "checkpoints/step_00000050").exists(), "too late to disturb anything"


def run_in(out: Path, faces: Path) -> Run:
    return Run([str(ROOT / "tests/ranks/pretrain.toml"), f"data.shards={faces}", f"run.out={out}"], out)


@pytest.fixture
def run(faces: Path, tmp_path: Path) -> Run:
    return run_in(tmp_path / "run", faces)


@pytest.fixture(scope="session")
def plain(tools: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the same run in one process, which nobody disturbs."""
    alone = run_in(tmp_path_factory.mktemp("plain") / "run", faces)
    command = [sys.executable, "-m", "fer_scale", "pretrain", *alone.words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return alone.losses


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def node(tmp_path: Path, out: Path) -> Iterator[Callable[..., Node]]:
    """node(plan, *options, **environment): a supervisor around tests/launch/fake_run.py; `keys` of its recipe."""
    started: list[Node] = []

    def start(
        plan: str, *options: str, grace_s: float = 0.3, verb: str = "pretrain", keys: Sequence[str] = (), **env: str
    ) -> Node:
        words = {
            "pretrain": ["pretrain", str(ROOT / "tests/ranks/pretrain.toml"), f"run.grace_s={grace_s}"],
            "finetune": ["finetune", str(ROOT / "configs/finetune/demo.toml"), "data.split=s", "model.start_from=e"],
        }[verb]
        fake = [str(ROOT / "tests/launch/fake_run.py"), plan, "-m", "fer_scale", *words]
        command = [sys.executable, *fake, "data.shards=none", f"run.out={out}", *keys]
        said = tmp_path / f"said{len(started)}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", START, "--back-off", "0.05", *options, *command],
                cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | env, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(Node(process, said))
        return started[-1]

    yield start
    for some in started:
        some.process.kill()
        some.process.wait()
