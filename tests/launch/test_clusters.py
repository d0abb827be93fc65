"""The launch scripts on two real hosts of two ranks each: the curve of one process, also where a host is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import ROOT, Host, Hosts, Running, until
from slurm import Slurm

pytestmark = pytest.mark.cluster
MANIFEST = list(yaml.safe_load_all((ROOT / "launch/k8s.yaml").read_text()))


def over_ssh(two: Hosts, words: list[str], folder: Path) -> Running:
    """launch/ssh.sh on the first host; what it says."""
    (folder / "hostfile").write_text("".join(f"{name} slots=2\n" for name in two.names))
    command = ["bash", "launch/ssh.sh", "pretrain", *words]
    return two[0].run(folder / "said", *command, HOSTFILE=str(folder / "hostfile"), RANKS="2", TMPDIR=str(folder))


def in_pods(two: Hosts, words: list[str], folder: Path) -> list[Running]:
    """launch/k8s.yaml's command with its variables, per index, but for the recipe; what each says."""
    [container] = MANIFEST[1]["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    command = [*container["command"], container["args"][0], *words]
    return [two[n].run(folder / f"said{n}", *command, NODE=str(n), **env) for n in (0, 1)]


def test_two_hosts_over_ssh_give_one_curve_and_one_that_loses_its_power_ends_the_run_which_then_goes_on(
    hosts: Any, run: Any, plain: list[float], tmp_path: Path
) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, "run.hang_seconds=step=15"], tmp_path)
    run.reach(12, job)
    two.power_off(1)
    ends_within_a_minute(job, run, two[0])
    two.restart(1)
    goes_on(over_ssh(two, run.words, tmp_path), run, plain)


def test_pods_give_one_curve_and_the_loss_of_the_first_ends_all_which_then_go_on(
    hosts: Any, run: Any, plain: list[float], tmp_path: Path
) -> None:
    pods = hosts("fer-scale-0.fer-scale", "fer-scale-1.fer-scale")
    _, second = in_pods(pods, run.words, tmp_path)
    run.reach(12, second)
    pods[0].kill()  # the one that they all meet at
    ends_within_a_minute(second, run, pods[1])
    pods.restart(0)
    first, second = in_pods(pods, run.words, tmp_path)
    goes_on(first, run, plain)
    assert second.ended(30) == 0


def ends_within_a_minute(job: Running, run: Any, left: Host) -> None:
    """Where `job` is what the host says that is left."""
    assert job.ended(60) != 0
    assert run.outcome["outcome"] == "failed" and run.outcome["host"] == left.name
    assert run.outcome["reason"].splitlines()[0] in job.said
    first = json.loads((run.out / "first_failure.json").read_text())
    assert first["host"] == left.name and first["traceback"].startswith("Traceback")


def goes_on(job: Running, run: Any, plain: list[float]) -> None:
    assert job.ended() == 0, job.said
    assert run.starts == [("start", 4), ("resume", 4)]
    assert run.outcome["outcome"] == "done"
    assert run.losses == pytest.approx(plain, abs=1e-4)


def on_nodes(slurm: Slurm, words: list[str], folder: Path) -> Running:
    """launch/slurm.sbatch on both nodes; what the job says."""
    size = ["--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=10"]
    return slurm.submit(folder / "said", *size, "launch/slurm.sbatch", "pretrain", *words)


def test_a_slurm_job_whose_time_is_nearly_up_saves_queues_again_and_goes_on(
    slurm: Slurm, run: Any, plain: list[float], tmp_path: Path
) -> None:
    job = on_nodes(slurm, run.words, tmp_path)
    run.reach(2, job)
    slurm.ask("scancel", "--signal=USR1", "--batch", "--name=fer_scale")  # what --signal=B:USR1@180 does
    goes_on(job, run, plain)
    assert "signal SIGUSR1" in job.said


@pytest.mark.slow  # Slurm takes its time to find that a node is gone
def test_a_slurm_job_that_lost_a_node_goes_on_when_the_node_is_back(
    slurm: Slurm, run: Any, plain: list[float], tmp_path: Path
) -> None:
    job = on_nodes(slurm, run.words, tmp_path)
    run.reach(12, job)
    slurm.hosts[1].kill()
    until(lambda: "down" in slurm.ask("sinfo", "-h", "-o", "%T"), "a node that is down", 60)
    assert run.outcome["outcome"] == "failed" and run.outcome["host"] == "node1"
    assert run.outcome["reason"].splitlines()[0] in job.said
    slurm.hosts.restart(1)
    slurm.join(slurm.hosts[1])
    goes_on(job, run, plain)
