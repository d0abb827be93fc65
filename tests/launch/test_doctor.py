"""`fer-scale doctor` on real hosts: fit ones are fit, and what is wrong with one is said with its name."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import DIE_WITH_US, ROOT, Hosts, Running, call, until
from slurm import Slurm

pytestmark = pytest.mark.cluster
FAKETIME = "/usr/$LIB/faketime/libfaketime.so.1"


def over_ssh(hosts: Hosts, out: Path, folder: Path) -> Running:
    """doctor on the first host, of one rank on each; what it says."""
    (folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    recipe: list[str | Path] = [ROOT / "tests/ranks/pretrain.toml", "data.shards=faces", f"run.out={out}"]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "fer_scale",
        "doctor",
        "--hostfile",
        folder / "hostfile",
        *recipe,
        "--json",
    ]
    return hosts[0].run(folder / "said", *command, RANKS="2", TMPDIR=str(folder))


def in_allocation(slurm: Slurm, out: Path, folder: Path) -> Running:
    """doctor in an allocation of Slurm, of one rank on each node; what it says."""
    size = ["--nodes=2", "--gpus-per-node=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=10"]
    command: list[str | Path] = [sys.executable, "-m", "fer_scale", "doctor", "--slurm", "--out", out, "--json"]
    return slurm.run(folder / "said", "salloc", *size, *command, DS_ACCELERATOR="cpu")


def report_of(job: Running) -> dict[str, Any]:
    """The JSON among what it said."""
    return json.JSONDecoder().raw_decode(job.said, job.said.index("\n{\n") + 1)[0]


def fit_report_of(job: Running) -> dict[str, Any]:
    """The report of hosts with nothing amiss, but that another process may take a core from one of them."""
    code = job.ended(120)
    report = report_of(job)
    assert not [text for text in report["findings"] if "computes" not in text], job.said
    assert code == (2 if report["findings"] else 0), job.said
    return report


def pin(hosts: Hosts, *cores: int) -> None:
    """What is started by ssh on each host gets one of our cores: 0 the first, -1 the last."""
    ours = sorted(os.sched_getaffinity(0))
    for host, core in zip(hosts.hosts, cores, strict=True):
        os.sched_setaffinity(host.pid, {ours[core]})


def processes(hosts: Hosts, *words: str) -> list[int]:
    """What runs on any of the hosts with all these words in its command line."""
    spaces, found = {os.readlink(f"/proc/{host.pid}/ns/pid") for host in hosts.hosts}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = process.joinpath("cmdline").read_text().split("\0")
            if os.readlink(process / "ns/pid") in spaces and set(words) <= set(said):
                found.append(int(process.name))
        except OSError:  # it has just ended
            pass
    return found


@pytest.fixture
def crowd() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that leave a sixty-fifth of our last core to others, once they are continued."""
    core = sorted(os.sched_getaffinity(0))[-1]
    loop = ["sh", "-c", "kill -STOP $$; while :; do :; done"]  # a session each: Linux may share a core among sessions
    processes = [subprocess.Popen([*DIE_WITH_US, *loop], start_new_session=True) for _ in range(64)]
    for process in processes:
        os.sched_setaffinity(process.pid, {core})
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_over_ssh_it_names_the_slowed_host_the_one_whose_clock_is_off_and_that_sees_another_folder(
    hosts: Any, crowd: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    two, out = hosts("node1", "node2"), tmp_path / "run"
    pin(two, -1, 0)
    with (two.folder / "ssh/sshd_config").open("a") as config:
        config.write(f"Match LocalAddress {two[1].address}\nSetEnv LD_PRELOAD={FAKETIME} FAKETIME=+90s\n")
    os.kill(two[1].pid, signal.SIGHUP)
    out.mkdir()
    call("nsenter", f"--target={two[1].pid}", "--mount", "mount", "-t", "tmpfs", "other", out)
    job = over_ssh(two, out, tmp_path)
    until(lambda: "meeting" in job.said or job.process.poll() is not None, "the ranks", 120)
    for process in crowd:
        process.send_signal(signal.SIGCONT)
    until(lambda: "all-reduce" in job.said or job.process.poll() is not None, "matrix products", 60)
    for process in crowd:
        process.kill()
    assert job.ended(120) == 2, job.said
    found = report_of(job)["findings"]
    assert [text.split()[0] for text in found if "computes at" in text] == ["node1"]
    assert [text for text in found if "clock" in text and text.startswith("node2: its clock is 90.")]
    assert [text for text in found if f"{out}: is another folder" in text and text.startswith("node2: ")]
    assert not list(out.iterdir())


@pytest.mark.slow  # what is amiss is found above, and all else is found there, too
def test_over_ssh_fit_hosts_are_fit(hosts: Any, tmp_path: Path) -> None:
    two = hosts("node1", "node2")
    pin(two, 0, -1)
    job = over_ssh(two, tmp_path / "run", tmp_path)
    report = fit_report_of(job)
    assert report["notes"] == ["the hosts talk over eth0"]
    assert not (tmp_path / "run").exists()


def test_a_host_that_does_not_answer_is_named_before_ranks_are_started(hosts: Any, tmp_path: Path) -> None:
    two = hosts("node1", "node2")
    two.power_off(1)
    job = over_ssh(two, tmp_path / "run", tmp_path)
    assert job.ended(60) == 2, job.said
    [found] = report_of(job)["findings"]
    assert found.startswith("node2: ssh does not get in")
    assert "starting ranks" not in job.said


@pytest.mark.slow  # as many seconds as over ssh
def test_in_an_allocation_of_slurm_fit_nodes_are_fit(slurm: Slurm, tmp_path: Path) -> None:
    job = in_allocation(slurm, tmp_path / "run", tmp_path)
    assert [row["host"] for row in fit_report_of(job)["hosts"]] == ["node1", "node2"]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["over ssh", "under Slurm"])
def test_no_rank_is_left_on_any_host_when_doctor_is_told_to_stop(
    start: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if start == "over ssh":
        two = request.getfixturevalue("hosts")("node1", "node2")
        job = over_ssh(two, tmp_path / "run", tmp_path)
    else:
        slurm = request.getfixturevalue("slurm")
        two, job = slurm.hosts, in_allocation(slurm, tmp_path / "run", tmp_path)
    until(lambda: "matrix products" in job.said or job.process.poll() is not None, "the ranks", 120)
    assert len(processes(two, "--reporting")) >= 4, "the ranks and their launchers"
    [doctor] = [pid for pid in processes(two, "doctor", "--json") if "python" in os.readlink(f"/proc/{pid}/exe")]
    os.kill(doctor, signal.SIGTERM)
    assert job.ended(20) == 128 + signal.SIGTERM, job.said
    until(lambda: not processes(two, "--reporting"), "the end of the ranks", 20)
    assert not (tmp_path / "run").exists()
