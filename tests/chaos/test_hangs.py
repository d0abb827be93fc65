"""Every kind of hang ends the run within twice its limit, and the outcome names the rank whose hang it was.

Real ranks over gloo, on this machine and on two hosts of namespaces, one of which is unplugged.
`pytest -m chaos tests/chaos/test_hangs.py -s` prints the seconds until the last rank has ended that can end by itself.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_scale import log

sys.path.append(str(Path(__file__).parents[1] / "launch"))
from hosts import ROOT, Hosts, until

HANGING, RECIPE = str(ROOT / "tests" / "ranks" / "hanging.py"), str(ROOT / "tests" / "ranks" / "pretrain.toml")
AGAIN = os.EX_TEMPFAIL
SILENT = " said nothing: stopped, cut off, its host lost, or in a call that keeps Python's lock"
BOTH = ["rank-0.stacks", "rank-1.stacks"]
READERS = ["rank-0.reader-0.stacks", "rank-1.reader-0.stacks"]
KINDS = {  # how rank 1 hangs: what is said of it, exit codes (None: it cannot end by itself), whose stacks are kept
    "looping": (": in hanging.py:", (AGAIN, AGAIN), BOTH),
    "reading": (": waiting for images in", (AGAIN, AGAIN), sorted(BOTH + READERS)),
    "stopped": (SILENT, (AGAIN, None), BOTH[:1]),
    "locked": (SILENT, (AGAIN, 1), BOTH[:1]),
}
CASES = [pytest.param("looping", 5), *(pytest.param(how, 10, marks=pytest.mark.chaos) for how in KINDS)]


def words(faces: Path, run: Path, limit_s: float, *more: str) -> list[str]:
    return ["pretrain", RECIPE, f"data.shards={faces}", f"run.out={run}", f"run.hang_seconds=step={limit_s}", *more]


def steps_of(run: Path) -> int:
    return len(log.rows(run / "metrics.jsonl"))


def outcome(run: Path) -> dict[str, Any]:
    found = json.loads((run / "outcome.json").read_text())
    assert found["outcome"] == "failed" and found["restart"] and found["reason"].startswith("hung after step ")
    return found


@pytest.mark.parametrize(("how", "limit_s"), CASES)
def test_a_rank_that_hangs_ends_the_run_within_twice_the_limit_and_is_named(
    how: str, limit_s: float, faces: Path, tmp_path: Path, launch: Any
) -> None:
    says, codes, stacks = KINDS[how]
    run = launch(2, HANGING, *words(faces, tmp_path, limit_s, f"data.workers={int(how == 'reading')}"), HANG=how)
    until(lambda: steps_of(tmp_path) == 2, "the second step", 120)
    began = time.monotonic()
    said = [p.communicate(timeout=3 * limit_s)[0] for p, code in zip(run.processes, codes, strict=True) if code]
    took = time.monotonic() - began
    print(f"{how}: ended {took:.1f} s after the last step, limit {limit_s} s")
    assert took < 2 * limit_s
    assert [process.poll() for process in run.processes] == list(codes)
    reason = outcome(tmp_path)["reason"]
    assert f"rank 1 on {os.uname().nodename}{says}" in reason
    assert "".join(said).count(reason) == 1, "once on the screen"
    folder = tmp_path / "attempts" / "0001"
    assert sorted(file.name for file in folder.glob("*.stacks")) == stacks
    for name in stacks:
        head, threads = (folder / name).read_text().split("\n", 1)
        assert json.loads(head)["rank"] == int(name[5]) and "most recent call first" in threads


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() or not all(shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") for tool in ("ip", "sshd")):
        pytest.skip("needs root, iproute2 and openssh-server: hosts are made of namespaces")
    (tmp_path / "hosts").mkdir()
    hosts = Hosts(tmp_path / "hosts", ["node1", "node2"])
    yield hosts
    hosts.end()


@pytest.mark.chaos
@pytest.mark.cluster
def test_a_link_that_is_cut_without_a_reset_ends_the_ranks_at_both_ends(
    faces: Path, tmp_path: Path, two: Hosts
) -> None:
    run, limit_s = tmp_path / "run", 10
    env = {"MASTER_ADDR": two[0].address, "MASTER_PORT": "29500", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "eth0"}
    env |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HANG": "not", "LOCAL_RANK": "0"}
    command = [sys.executable, HANGING, *words(faces, run, limit_s, "run.steps=100000")]
    ranks = [two[n].run(tmp_path / f"said{n}", *command, **env | {"RANK": str(n)}) for n in (0, 1)]
    until(lambda: steps_of(run) >= 5, "some steps", 120)
    two.unplug(1)
    began = time.monotonic()
    assert [rank.ended(3 * limit_s) for rank in ranks] == [AGAIN, AGAIN]
    took = time.monotonic() - began
    print(f"cut link: ended after {took:.1f} s, limit {limit_s} s")
    assert took < 2 * limit_s
    reason = outcome(run)["reason"]
    assert "rank 0 on node1, rank 1 on node2: waiting for the others in all_reduce" in reason
    assert sum(reason in rank.said for rank in ranks) == 1, "once on the screen"
