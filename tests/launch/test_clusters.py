"""The launch scripts on two real hosts of two ranks each: the curve of one process, also where a host is lost."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import ROOT, Host, Hosts, Running, until
from slurm import Slurm

from fer_scale.processes import children, with_descendants

pytestmark = pytest.mark.cluster
MANIFEST = list(yaml.safe_load_all((ROOT / "launch/k8s.yaml").read_text()))


def over_ssh(two: Hosts, words: list[str], folder: Path) -> Running:
    """launch/ssh.sh on the first host; what it says."""
    (folder / "hostfile").write_text("".join(f"{name} slots=2\n" for name in two.names))
    command = ["bash", "launch/ssh.sh", "pretrain", *words]
    return two[0].run(folder / "said", *command, HOSTFILE=str(folder / "hostfile"), RANKS="2", TMPDIR=str(folder))


def in_pods(two: Hosts, words: list[str], folder: Path, *numbers: int) -> list[Running]:
    """launch/k8s.yaml's command with its variables, per index, but for the recipe; what each says."""
    [container] = MANIFEST[1]["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    options = container["args"][: container["args"].index("pretrain") + 1]
    command = [*container["command"], *options, *words]
    return [two[n].run(folder / f"said{n}", *command, NODE=str(n), **env) for n in numbers]


def test_two_hosts_over_ssh_give_one_curve_and_one_that_loses_its_power_ends_the_run_which_then_goes_on(
    hosts: Any, run: Any, plain: list[float], tmp_path: Path
) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, 'run.hang_seconds=["step=15","save=15"]'], tmp_path)
    run.reach(12, job)
    two.power_off(1)
    ends_within_a_minute(job, run, two[0])
    two.restart(1)
    goes_on(over_ssh(two, run.words, tmp_path), run, plain)


@pytest.mark.slow
def test_a_signal_to_deepspeeds_launcher_reaches_no_rank_but_the_run_and_what_it_answers_is_not_asked(
    hosts: Any, run: Any, tmp_path: Path
) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, "run.steps=100000"], tmp_path)
    run.reach(12, job)
    job.tell(signal.SIGTERM)
    assert job.ended(60) == 75, job.said
    assert run.outcome["outcome"] == "preempted" and run.outcome["reason"] == "signal SIGTERM on node1"
    assert (run.out / f"checkpoints/step_{len(run.losses):08d}/manifest.json").exists()


@pytest.mark.slow
def test_a_second_signal_ends_ranks_that_hang_on_far_hosts(hosts: Any, run: Any, tmp_path: Path) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, "run.steps=100000"], tmp_path)
    run.reach(12, job)
    os.kill(two[1].ranks()[0], signal.SIGSTOP)
    job.tell(signal.SIGTERM)
    time.sleep(3)
    assert job.process.poll() is None and len(two[0].ranks() + two[1].ranks()) == 4
    told = time.monotonic()
    job.tell(signal.SIGTERM)
    assert job.ended(15) == 75
    until(lambda: not two[0].ranks() + two[1].ranks(), "the end of the ranks", 60)
    print(f"from the second signal to the end of the last rank: {time.monotonic() - told:.1f} s")
    assert run.outcome["reason"] == "signal SIGTERM on node1 for the second time; not saved"


@pytest.mark.slow
def test_a_supervisor_over_ssh_that_is_killed_leaves_a_run_that_saves_and_ends(
    hosts: Any, run: Any, tmp_path: Path
) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, "run.steps=100000"], tmp_path)
    run.reach(12, job)
    told = time.monotonic()
    job.tell(signal.SIGKILL)  # DeepSpeed's launcher hears of it, and ends its jobs on all hosts
    until(lambda: not two[0].ranks() + two[1].ranks(), "the end of the ranks", 60)
    print(f"from the death of the supervisor to the end of the last rank: {time.monotonic() - told:.1f} s")
    assert run.outcome["outcome"] == "preempted"
    assert (run.out / f"checkpoints/step_{len(run.losses):08d}/manifest.json").exists()


@pytest.mark.slow
def test_a_run_that_has_lost_its_supervisor_and_its_launcher_is_stopped_by_hand(
    hosts: Any, run: Any, tmp_path: Path
) -> None:
    two = hosts("node1", "node2")
    job = over_ssh(two, [*run.words, "run.steps=100000"], tmp_path)
    run.reach(12, job)
    for process in with_descendants([next(children(job.process.pid))]):
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(5)
    assert len(two[0].ranks() + two[1].ranks()) == 4
    (run.out / "stop").touch()
    until(lambda: not two[0].ranks() + two[1].ranks(), "the end of the ranks", 60)
    assert run.outcome["outcome"] == "preempted"
    assert (run.out / f"checkpoints/step_{len(run.losses):08d}/manifest.json").exists()


def test_pods_give_one_curve_and_when_the_first_is_lost_the_other_waits_until_it_is_back(
    hosts: Any, run: Any, plain: list[float], tmp_path: Path
) -> None:
    pods = hosts("fer-scale-0.fer-scale", "fer-scale-1.fer-scale")
    _, second = in_pods(pods, run.words, tmp_path, 0, 1)
    run.reach(12, second)
    pods[0].kill()  # the one that they all meet at
    until(lambda: "is started again with fer-scale-0.fer-scale:29500" in second.said, "the second's next start", 60)
    assert run.outcome["outcome"] == "failed" and run.outcome["host"] == pods[1].name
    pods.restart(0)
    [first] = in_pods(pods, run.words, tmp_path, 0)
    goes_on(first, run, plain)
    assert second.ended(30) == 0


@pytest.mark.slow
def test_a_pod_that_is_taken_away_stops_the_run_on_all_which_is_saved(hosts: Any, run: Any, tmp_path: Path) -> None:
    pods = hosts("fer-scale-0.fer-scale", "fer-scale-1.fer-scale")
    first, second = in_pods(pods, [*run.words, "run.steps=100000"], tmp_path, 0, 1)
    run.reach(12, second)
    second.tell(signal.SIGTERM)
    assert first.ended(60) == second.ended(60) == 75
    assert run.outcome["outcome"] == "preempted" and not (run.out / "stop").exists()
    assert (run.out / f"checkpoints/step_{len(run.losses):08d}/manifest.json").exists()


@pytest.mark.slow
def test_a_pod_with_a_run_folder_of_its_own_answers_as_the_others(hosts: Any, run: Any, tmp_path: Path) -> None:
    pods = hosts("fer-scale-0.fer-scale", "fer-scale-1.fer-scale")
    run.out.mkdir()
    mounted = pods[1].run(tmp_path / "mounted", "mount", "-t", "tmpfs", "none", run.out)
    assert mounted.ended(10) == 0
    first, second = in_pods(pods, [*run.words, "run.steps=100000"], tmp_path, 0, 1)
    run.reach(12, second)
    first.tell(signal.SIGTERM)
    assert first.ended(60) == second.ended(60) == 75, second.said
    assert "signal SIGTERM on fer-scale-0" in first.said and "another rank was asked to stop" in second.said


@pytest.mark.slow
def test_a_pod_that_is_back_before_its_loss_was_noticed_waits_for_the_next_start(
    hosts: Any, run: Any, tmp_path: Path
) -> None:
    pods = hosts("fer-scale-0.fer-scale", "fer-scale-1.fer-scale")
    words = [*run.words, "run.steps=100000", "run.hang_seconds=step=25"]
    first, second = in_pods(pods, words, tmp_path, 0, 1)
    run.reach(12, second)
    lost = time.monotonic()
    pods.power_off(1)
    pods.restart(1)
    (tmp_path / "said1").unlink()
    [back] = in_pods(pods, words, tmp_path, 1)
    until(lambda: run.starts[1:] == [("resume", 4)], "the second start", 120)
    print(f"from the loss of a pod that is back at once to the next start: {time.monotonic() - lost:.1f} s")
    assert "it is started again" not in back.said, "its first launch was for the second start"
    first.tell(signal.SIGTERM)
    assert first.ended(60) == back.ended(60) == 75


@pytest.mark.slow
def test_a_spare_host_steps_in_for_one_that_loses_its_power_and_one_that_comes_back_is_taken_in(
    hosts: Any, run: Any, tmp_path: Path
) -> None:
    some = hosts("node0", "node1", "node2")
    words = ["--restarts", "5", "--min-nodes", "1", "pretrain", *run.words, "run.steps=100000", "run.hang_seconds=15"]

    def start(number: int) -> Running:
        env = {"NODES": "2", "NODE": str(number), "MAIN": "node0:29500", "RANKS": "1"}
        return some[number].run(tmp_path / f"said{number}", "bash", "launch/node.sh", *words, **env)

    jobs = [start(number) for number in range(3)]
    run.reach(12, jobs[0])
    lost, spare = (1, 2) if "node1" in run.hosts else (2, 1)
    some.power_off(lost)
    until(lambda: run.starts[1:] == [("resume", 2)], "the spare", 120)
    assert run.hosts == ["node0", f"node{spare}"]
    some[spare].kill()
    until(lambda: run.starts[2:] == [("resume", 1)], "a start of one host", 120)
    some.restart(lost)
    jobs[lost] = start(lost)
    until(lambda: run.starts[3:] == [("resume", 2)], "a start with the host that is back", 120)
    jobs[lost].tell(signal.SIGTERM)
    assert jobs[0].ended(60) == jobs[lost].ended(60) == 75


def ends_within_a_minute(job: Running, run: Any, left: Host) -> None:
    """Where `job` is what the host says that is left."""
    assert job.ended(60) == 1
    assert run.outcome["outcome"] == "failed" and run.outcome["host"] == left.name
    assert run.outcome["reason"].splitlines()[0] in job.said
    failed, hung = run.out / "first_failure.json", list(run.out.glob("attempts/0001/*.stacks"))
    assert hung or json.loads(failed.read_text())["traceback"].startswith("Traceback")


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
