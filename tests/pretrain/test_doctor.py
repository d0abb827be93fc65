"""What `fer-scale doctor` concludes from what ranks and hosts say; on one machine, that ranks find and say it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import RECIPE, recipe

from fer_scale import shipped
from fer_scale.__main__ import main
from fer_scale.pretrain import doctor, fitness, probe, setup, shared_folder
from fer_scale.pretrain.fitness import Facts, Folder, Needs
from shards.errors import UserError

VERSIONS = {"torch": "2.15.0", "Python": "3.12.1"}


def cluster(*hosts: str, ranks: int = 2) -> list[Facts]:
    """So many ranks on each of these hosts, with nothing amiss."""
    found: list[Facts] = []
    for number, host in enumerate(hosts):
        neighbours = {hosts[number - 1], hosts[(number + 1) % len(hosts)]} - {host}
        for local in range(ranks):
            mine = Facts(
                rank=len(found), host=host, device="cpu", cores=8, versions=VERSIONS, tflops=1.0, sent_bytes=100,
                stamps=[10.0, 20.0, 30.0], links=dict.fromkeys(neighbours, (10.0, 50.0)),
            )  # fmt: skip
            if not local:
                folder = Folder(fsync_mb_per_s=500, free_gb=100)
                mine = replace(mine, moved_bytes={"lo": 9999, "eth0": 420, "eth1": 3}, folder=folder)
            found.append(mine)
    return found


def of(facts: list[Facts], host: str, **changes: Any) -> list[Facts]:
    """The same, but for what this host's ranks found."""
    return [replace(f, **changes) if f.host == host else f for f in facts]


def test_a_cluster_with_nothing_amiss_is_fit() -> None:
    needs = Needs("/run", checkpoint_gb=1.3, checkpoints=3, writers=5, grace_s=25)
    for hosts in (["a"], ["a", "b"], ["a", "b", "c", "d"]):
        assert fitness.findings(cluster(*hosts), needs) == []


@pytest.mark.parametrize("hosts", [["a", "b"], ["b", "a"], ["a", "b", "c"], ["a", "c", "d", "b"]])
def test_the_host_that_computes_slowly_is_named_by_what_the_better_half_does(hosts: list[str]) -> None:
    [said] = fitness.findings(of(cluster(*hosts), "b", tflops=0.5), None)
    assert said.startswith("b computes at 50% of the usual rate, 0.5 of 1 TFLOP/s: ")


def test_of_a_host_with_one_slow_card_its_rank_is_named() -> None:
    facts = cluster("a", "b")
    facts[3] = replace(facts[3], tflops=0.7)
    [said] = fitness.findings(facts, None)
    assert said.startswith("b (rank 3) computes at 70%")


def test_a_slow_card_of_the_network_is_told_from_that_of_its_neighbours() -> None:
    facts, slow = cluster("a", "b", "c", "d", ranks=1), (1.0, 50.0)
    for host, neighbour in (("b", "a"), ("b", "c"), ("a", "b"), ("c", "b")):
        [mine] = [f for f in facts if f.host == host]
        mine.links[neighbour] = slow
    [said] = fitness.findings(facts, None)
    assert said.startswith("b exchanges at 10% of the usual rate, 1 of 10 Gbit/s")


def test_a_clock_is_off_from_most_or_of_two_from_the_first() -> None:
    early = [9.0 - 90, 19.0 - 90, 29.0 - 90]
    [said] = fitness.findings(of(cluster("a", "b", "c"), "a", stamps=early), None)
    assert said.startswith("a: its clock is 91.0 s behind most others'")
    [said] = fitness.findings(of(cluster("a", "b"), "a", stamps=early), None)
    assert said.startswith("b: its clock is 91.0 s ahead of that of a")


def test_versions_and_devices_that_differ_are_named_with_their_hosts() -> None:
    facts = of(cluster("a", "b", "c"), "b", versions=VERSIONS | {"torch": "2.14.1"})
    assert fitness.findings(facts, None) == ["torch is not the same: 2.15.0 on a, c; 2.14.1 on b"]
    [said] = fitness.findings(of(cluster("a", "b", "c"), "c", device="NVIDIA A100"), None)
    assert said == "device is not the same: cpu on a, b; NVIDIA A100 on c"


def test_a_folder_that_is_not_one_for_all_or_too_small_or_too_slow() -> None:
    facts, needs = cluster("a", "b", "c", ranks=1), Needs("/run", 10.0, 3, writers=3, grace_s=25)
    assert fitness.findings(of(facts, "b", folder=Folder(problem="is not there")), needs) == ["b: /run: is not there"]
    unseen = Folder(unseen=["a"], fsync_mb_per_s=500, free_gb=100)
    assert fitness.findings(of(facts, "c", folder=unseen), needs) == ["c: /run: what a wrote there cannot be read"]
    [said] = fitness.findings(of(facts, "b", folder=Folder(fsync_mb_per_s=500, free_gb=20)), needs)
    assert said.startswith("/run: 20.0 GB are free there (seen from b), and the checkpoints still take 30.0 GB: 3 of")


def test_a_checkpoint_is_written_by_the_first_ranks_and_takes_as_long_as_their_slowest_host() -> None:
    facts = [f for f in cluster("a", "b", "c") if f.rank != 1]  # a has one rank, the others have two
    needs = Needs("/run", 10.0, 3, grace_s=25)
    for host, rate in (("a", 500), ("b", 200), ("c", 1)):
        facts = of(facts, host, folder=Folder(fsync_mb_per_s=rate, free_gb=100))
    facts = [replace(f, rank=number) for number, f in enumerate(facts)]
    assert not fitness.findings(facts, replace(needs, writers=1))  # a takes 20 s
    [said] = fitness.findings(facts, replace(needs, writers=3))
    assert said.startswith(
        "/run: a checkpoint of 10.0 GB takes 33 s to write, 6.7 GB of it by b at 200 MB/s, more than"
    )
    [said] = fitness.findings(facts, replace(needs, writers=5))
    assert "takes 4,000 s to write, 4.0 GB of it by c at 1 MB/s" in said


def needs(*more: str) -> Needs:
    """What doctor finds that the recipe wants: 50 steps, a checkpoint every 10, of which 2 are kept."""
    found = probe._needs(RECIPE, ["data.shards=/none", "run.out=/none", *more], None)
    assert found
    return found


def test_a_checkpoint_is_as_large_and_has_as_many_writers_as_all_weights_ask_for_frozen_ones_too() -> None:
    weights = [*setup.build(recipe()).parameters()]
    whole = sum((12 if weight.requires_grad else 4) * weight.numel() for weight in weights)
    assert needs().checkpoint_gb == whole / 1e9
    assert needs("model.image_px=2048", "model.patch_px=2").writers == 3  # 67 M weights, nearly all of them positions


def test_room_is_needed_for_checkpoints_that_stay_for_good_too() -> None:
    assert (needs().checkpoints, needs().writers, needs().uncounted) == (3, 1, False)
    assert needs("run.keep_every_steps=10").checkpoints == 5 + 3
    assert needs("run.keep_every_steps=15").checkpoints == 3 + 3  # steps 20, 30 and 50
    assert needs("publish.to=/none", "card.license=mit").checkpoints == 3 + 2  # one is read, and one waits for it
    unknown = needs("run.keep_every_steps=10", "run.steps=none", "run.epochs=3")
    assert unknown.checkpoints == 3 and "was not counted" in fitness.notes(cluster("a"), unknown)[0]


def test_the_interfaces_are_those_that_moved_what_the_hosts_sent() -> None:
    facts = cluster("a", "b")
    assert fitness.notes(facts, Needs("/run")) == ["the hosts talk over eth0"]
    [said] = fitness.notes(of(facts, "b", moved_bytes={"docker0": 500}), Needs("/run"))
    assert said.startswith("the hosts talk over different interfaces: eth0 on a; docker0 on b; INTERFACE=NAME")
    many = {f"eth{n}": 100 for n in range(4)} | {"docker0": 5}
    assert fitness.carriers(replace(facts[0], moved_bytes=many), 400) == "eth0 eth1 eth2 eth3"
    unseen = fitness.carriers(replace(facts[0], moved_bytes={"lo": 900, "eth0": 5}), 400)
    assert unseen.startswith("what the kernel does not count")


@pytest.mark.parametrize("hosts", range(1, 8))
def test_neighbours_meet_in_rounds_in_which_no_host_stands_twice(hosts: int) -> None:
    rounds = fitness.rounds(hosts)
    for pairs in rounds:
        assert len({host for pair in pairs for host in pair}) == 2 * len(pairs)
    links = {frozenset(pair) for pairs in rounds for pair in pairs}
    ring = {frozenset({a, (a + 1) % hosts}) for a in range(hosts)}
    assert links == {link for link in ring if len(link) == 2} and len(rounds) <= 3


def here(host: str, address: str = "10.0.0.1", gpu: bool = False, **versions: str) -> dict[str, Any]:
    return {"host": host, "address": address, "gpu": gpu, "versions": VERSIONS | versions}


def test_what_keeps_ranks_from_meeting_is_told_by_what_the_hosts_answer() -> None:
    assert doctor.amiss({"a": here("a"), "b": here("b")}) == doctor.Amiss()
    assert doctor.amiss({"a": here("a"), "b": "no answer"}).blocking == ["b: no answer"]
    assert doctor.amiss({"a": here("a"), "b": here("b", torch="none")}).blocking == ["b: torch not installed there"]
    assert doctor.amiss({"a": here("a"), "b": here("b", torch="2.14.1")}) == doctor.Amiss(
        [], ["torch is not the same: 2.15.0 on a; 2.14.1 on b"]
    )
    [said] = doctor.amiss({"a": here("a"), "b": here("a")}).blocking
    assert said.startswith("b: calls itself a, as a does")
    lost = {"a": here("a"), "b": here("b", address="127.0.1.1")}
    [said] = doctor.amiss(lost).blocking
    assert said.startswith("b: its own name means 127.0.1.1, where no other host finds it") and "INTERFACE" in said
    assert doctor.amiss(lost, interface="eth0") == doctor.Amiss()  # gloo then looks there
    [said] = doctor.amiss({"a": here("a", gpu=True), "b": here("b")}).blocking
    assert said == "a GPU is not the same: there on a; none on b"


def test_without_a_report_it_is_said_who_did_not_come() -> None:
    came = 'node1: fer-scale doctor: {"came": {"host": "a", "device": "cpu"}}W1126 another rank warns'
    heard = doctor.hear(iter([came, "node2: ImportError"]))
    assert heard.report is None
    assert heard.without_report({"a": "node1", "b": "node2"})[0].startswith("node2: no rank came from there")
    [said] = heard.without_report({"a": "node1"})
    assert said.startswith("the ranks were lost: before they had met")
    told = doctor.hear(iter([came, "node1: fer-scale doctor: they did not find one another"]))
    assert told.without_report({"a": "node1"}) == ["they did not find one another"]
    number = doctor.hear(iter(["fer-scale doctor: 2026-11-26: it is late", 'fer-scale doctor: {"a": 1, "b": 2}']))
    assert number.mistakes == ["2026-11-26: it is late", '{"a": 1, "b": 2}']


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("node1 slots=8\nnode2\n", ":2: 'node2' is not of the form `host slots=8`"),
        ("# none\n", "names no host"),
        ("node1 slots=8\nnode1 slots=4\n", "node1 stands there twice"),
    ],
)
def test_a_hostfile_that_deepspeed_would_not_read(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(UserError, match=says):
        doctor.hosts_in(tmp_path / "hostfile")


def test_mistakes_of_the_one_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    assert main(["doctor", "--slurm"]) == 2 and "salloc" in capsys.readouterr().err
    assert main(["doctor", "--hostfile", str(tmp_path / "none")]) == 2 and "no such hostfile" in capsys.readouterr().err
    assert main(["doctor", "--slurm", str(tmp_path / "none.toml")]) == 2
    assert "no such recipe" in capsys.readouterr().err
    assert main(["doctor", "--slurm", "run.out=/x"]) == 2 and "--out DIR" in capsys.readouterr().err
    assert main(["doctor", "--slurm", "tests/ranks/pretrain.toml", "--out", "/x"]) == 2
    assert "run.out=/x" in capsys.readouterr().err


def test_an_ssh_that_answers_with_a_banner_is_told_from_a_host_that_is_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hostfile").write_text("node1 slots=1\n")
    ssh = tmp_path / "ssh"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for answer, last in (("echo Welcome; echo 5", "5"), ("echo Welcome", "Welcome"), ("true", "nothing")):
        ssh.write_text(f"#!/bin/sh\n{answer}\n")
        ssh.chmod(0o755)
        assert main(["doctor", "--hostfile", str(tmp_path / "hostfile")]) == 2
        assert f"node1: ssh answered something else than what the host has: {last}\n" in capsys.readouterr().out


def test_nothing_of_a_launcher_is_left_when_doctor_is_told_to_stop(tmp_path: Path) -> None:
    ranks = f"trap 'echo told >> {tmp_path}/ranks; exit' TERM; echo $$ > {tmp_path}/ranks; while :; do sleep 0.1; done"
    launcher = ["sh", "-c", f"sh -c {ranks!r} & trap 'echo told, too >> {tmp_path}/ranks' TERM; wait; wait"]
    ours = f"import os; from fer_scale.pretrain import doctor; doctor._listen({launcher!r}, dict(os.environ))"
    stopped = subprocess.Popen([sys.executable, "-c", ours])
    end = time.monotonic() + 60
    while not ((tmp_path / "ranks").exists() and (tmp_path / "ranks").read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(30) == 128 + signal.SIGTERM
    _, *said = (tmp_path / "ranks").read_text().splitlines()
    assert said == ["told"]  # DeepSpeed's launcher would end others' jobs, if it were told


def test_after_the_time_limit_it_is_said_that_doctor_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROBE_S", 1)
    heard = doctor._listen(["sh", "-c", "sleep 100; true"], dict(os.environ))
    assert heard.without_report({})[0].startswith("gave up after 1 s: no rank was started")


def test_the_folder_is_cleared_up_where_a_rank_is_lost_on_the_way(tmp_path: Path) -> None:
    class Lost(Exception):
        pass

    def meet(what: str, value: Any) -> list[Any]:
        if what.startswith("reading"):
            assert list(tmp_path.glob("runs/new/.doctor-x/a"))
            raise Lost
        return [value]

    with pytest.raises(Lost):
        shared_folder.look(tmp_path / "runs/new", "a", "x", meet, is_main=True)
    assert not list(tmp_path.iterdir())


def test_a_rank_ends_when_the_doctor_that_started_it_is_gone() -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-m", "fer_scale", "doctor", "--reporting"]
    rank = subprocess.Popen(
        command, env=os.environ | alone | {"DS_ACCELERATOR": "cpu"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert rank.stdout and b'"came"' in rank.stdout.readline()
    rank.stdout.close()
    rank.communicate(timeout=30)  # it waits two minutes for the other
    assert rank.returncode


def test_ranks_of_one_host_find_it_fit_and_leave_nothing_behind(launch: Any, tmp_path: Path) -> None:
    out = tmp_path / "runs/new"
    recipe = ["tests/ranks/pretrain.toml", "data.shards=faces", f"run.out={out}"]
    said = launch(2, "-m", "fer_scale", "doctor", *recipe, "--reporting").wait()
    report = doctor.hear(iter(said.splitlines())).report
    assert report and not [text for text in report["findings"] if "computes" not in text]  # others may take our cores
    [row] = report["hosts"]
    assert row["ranks"] == 2 and row["tflops"] > 0 and row["fsync_mb_per_s"] > 0 and row["free_gb"] > 0
    assert report["all_reduce"]["ranks"] == 2 and report["all_reduce"]["gbit_per_s"] > 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 0])
def test_a_rank_that_is_lost_on_the_way_is_named(launch: Any, lost: int) -> None:
    hasty = "from fer_scale.__main__ import main; from fer_scale.pretrain import probe; probe._WAIT_S = 10; "
    hasty += "main(['doctor'])"
    ranks = launch(2, "-c", hasty)
    said, end = "", time.monotonic() + 120
    while "matrix products" not in said and time.monotonic() < end:
        if not (line := ranks.processes[0].stdout.readline()):
            break
        said += line
    ranks.processes[lost].kill()
    said += ranks.processes[1 - lost].communicate(timeout=60)[0]
    assert f"rank {lost} on " in said and "not heard of any more" in said and "not fit" in said


def test_a_recipe_needs_no_shards_for_it() -> None:
    recipe = doctor.read(shipped.find("pretrain/vit_base_112"), ["run.out=runs/base"], None)
    assert recipe is not None and recipe.run.out == Path("runs/base")
