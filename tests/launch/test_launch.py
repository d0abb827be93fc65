"""The scripts of launch/, without a cluster: what they would run, what they export, and how a Slurm job comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch", ROOT / ".ci/run"])
RECIPE = ["pretrain", "configs/pretrain/demo.toml", "run.out=a b"]


def environment(**changes: str) -> dict[str, str]:
    """A plain machine without a graphics card, whatever this one is."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "CUDA_VISIBLE_DEVICES": ""} | changes


def output(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(script: str, *words: str, **env: str) -> str:
    command = ["bash", f"launch/{script}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    return done.stderr


def exported(name: str, **env: str) -> str:
    return output("bash", "-c", f'set -euo pipefail; source launch/env.sh; environment; echo "${{{name}:-}}"', **env)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_valid_bash_that_stops_at_the_first_failure(script: Path) -> None:
    output("bash", "-n", script)
    assert script.name == "env.sh" or "set -euo pipefail" in script.read_text() or "exec bash" in script.read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    output("shellcheck", "-x", script.relative_to(ROOT))


def test_the_first_start_talks_on_stderr_so_that_stdout_may_be_json(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")  # pip that has nothing to do
    python.chmod(0o755)
    script = f"set -euo pipefail; source {ROOT}/launch/env.sh; setup"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "installing ." in done.stderr and not done.stdout


def test_a_node_runs_torchrun_with_its_place_among_the_nodes() -> None:
    line = output("bash", "launch/node.sh", *RECIPE, DRY_RUN="1", NODES="4", NODE="2", MAIN="node0:1234", RANKS="8")
    assert line == (
        "torchrun --nnodes 4 --node-rank 2 --master-addr node0 --master-port 1234 --nproc-per-node 8 "
        "--max-restarts 0 -m fer_scale pretrain configs/pretrain/demo.toml run.out=a\\ b"
    )


def test_nodes_that_may_be_fewer_meet_at_the_first_of_them() -> None:
    options = ["--restarts", "3", "--min-nodes", "2"]
    env = {"DRY_RUN": "1", "NODES": "4", "MAIN": "node0:1234"}
    first = output("bash", "launch/node.sh", *options, *RECIPE, NODE="0", **env)
    spare = output("bash", "launch/node.sh", *options, *RECIPE, NODE="4", **env)
    assert first.startswith("torchrun --nnodes 2:4 --rdzv-backend c10d --rdzv-endpoint node0:1234 ")
    assert "is_host=true" in first and "is_host=false" in spare and "--node-rank" not in spare
    assert first.endswith("-m fer_scale pretrain configs/pretrain/demo.toml run.out=a\\ b")


@pytest.mark.parametrize("number", ["0", "1"])
def test_nodes_wait_for_a_lost_one_over_a_night_where_the_run_is_to_restart(number: str) -> None:
    env = {"DRY_RUN": "1", "NODES": "2", "NODE": number, "MAIN": "node0:29500"}
    waits, as_ever = (output("bash", "launch/node.sh", *more, *RECIPE, **env) for more in (["--restarts", "3"], []))
    assert " --rdzv-conf timeout=86400 " in waits and "timeout" not in as_ever


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("node.sh", ["--restart", "3"], "--restart: unknown"),
        ("node.sh", ["--help"], "--help: unknown; before the verb may stand"),
        ("node.sh", ["--restarts", "pretrain"], "--restarts: needs a number"),
        ("ssh.sh", ["--min-nodes", "1"], "starts all hosts or none"),
    ],
)
def test_an_option_that_means_nothing_is_refused(script: str, words: list[str], said: str) -> None:
    assert said in refused(script, *words, *RECIPE)


@pytest.mark.parametrize("where", [{}, {"NODE": "1"}, {"MAIN": "node0:29500"}])
def test_a_node_that_does_not_know_which_it_is_or_where_the_first_is_does_not_wait_for_itself(
    where: dict[str, str],
) -> None:
    assert "NODES=2: say also which of them this is" in refused("node.sh", *RECIPE, NODES="2", **where)
    assert "--node-rank 0" in output("bash", "launch/node.sh", *RECIPE, DRY_RUN="1", NODES="2", NODE="0")


def test_an_address_with_a_port_is_no_address_for_deepspeeds_launcher() -> None:
    said = refused("ssh.sh", *RECIPE, MAIN="node0:1234", HOSTFILE="launch/hostfile.example")
    assert said == "ssh.sh: MAIN=node0:1234: is an address alone here; its port is PORT=1234\n"


def test_scripts_work_from_any_folder(tmp_path: Path) -> None:
    line = output("bash", ROOT / "launch/node.sh", *RECIPE, DRY_RUN="1", cwd=tmp_path)
    assert "--nnodes 1 --node-rank 0 " in line and " --nproc-per-node 2 " in line


def test_ssh_gives_deepspeed_the_hostfile_and_takes_our_variables_along(tmp_path: Path) -> None:
    hosts = "launch/hostfile.example"
    line = output("bash", "launch/ssh.sh", *RECIPE, DRY_RUN="1", HOSTFILE=hosts, MAIN="10.0.0.1", TMPDIR=str(tmp_path))
    assert line.startswith(f"deepspeed --hostfile {hosts} --force_multi --master_addr 10.0.0.1 --master_port 29500 ")
    assert line.endswith("--module fer_scale pretrain configs/pretrain/demo.toml run.out=a\\ b")
    [taken] = tmp_path.iterdir()
    assert {"DS_ACCELERATOR=cpu", "NCCL_DEBUG=WARN"} <= set(taken.read_text().splitlines())


def test_ssh_takes_no_token_along_but_the_name_of_a_file_with_one(tmp_path: Path) -> None:
    env = {"HOSTFILE": "launch/hostfile.example", "DRY_RUN": "1", "TMPDIR": str(tmp_path)}
    secrets = {"HF_TOKEN": "hf_secret", "MLFLOW_TRACKING_TOKEN": "secret"}
    command = ["bash", "launch/ssh.sh", *RECIPE]
    done = subprocess.run(command, cwd=ROOT, env=environment(**env, **secrets), capture_output=True, text=True)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert "HF_TOKEN, MLFLOW_TRACKING_TOKEN would be open to all" in done.stderr and "secret" not in done.stderr
    output(*command, **env, HF_TOKEN_PATH="/keys/hub", AWS_SESSION_TOKEN="stays here")
    [taken] = tmp_path.iterdir()
    assert "HF_TOKEN_PATH=/keys/hub\n" in taken.read_text() and "stays here" not in taken.read_text()


def test_ssh_takes_along_what_reaches_a_set_far_away_but_no_secret(tmp_path: Path) -> None:
    env = {"HOSTFILE": "launch/hostfile.example", "DRY_RUN": "1", "TMPDIR": str(tmp_path)}
    far = ["FER_SCALE_CACHE_DIR", "FSSPEC_S3_ANON", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"]
    far += ["AWS_ENDPOINT_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "all_proxy", "no_proxy"]
    stay = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "FSSPEC_S3_SECRET"]
    command = ["bash", "launch/ssh.sh", *RECIPE]
    output(*command, **env, **dict.fromkeys([*far, *stay], "http://host:3128/a@b"))
    [taken] = tmp_path.iterdir()
    names = {line.partition("=")[0] for line in taken.read_text().splitlines()}
    assert names >= {*far} and not names & {*stay}
    taken.unlink()
    proxies = {"https_proxy": "http://me:secret@proxy:3128", "ALL_PROXY": "me:secret@proxy", "HTTP_PROXY": "me@proxy"}
    said = refused("ssh.sh", *RECIPE, **env, **proxies)
    assert "secret" not in said and not list(tmp_path.iterdir())
    assert sorted(said.partition(": the password in it")[0].removeprefix("ssh.sh: ").split(", ")) == [
        "ALL_PROXY",
        "https_proxy",
    ]


def test_ssh_without_a_hostfile_says_how_to_get_one() -> None:
    done = subprocess.run(
        ["bash", "launch/ssh.sh", *RECIPE],
        cwd=ROOT,
        env=environment(HOSTFILE="nowhere"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "ssh.sh: no nowhere: copy launch/hostfile.example and name your hosts in it\n"


def test_without_a_graphics_card_deepspeed_is_told_so_and_with_one_it_is_not() -> None:
    assert exported("DS_ACCELERATOR") == "cpu"
    assert exported("DS_ACCELERATOR", CUDA_VISIBLE_DEVICES="0,1") == ""


@pytest.mark.parametrize(
    ("visible", "said", "cards"),
    [
        ("0,1", "", 2),
        ("GPU-8932f937", "", 1),
        ("1,-1,0", "", 1),
        ("-1", "", 0),
        ("NoDevFiles", "", 0),
        (None, "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n", 2),
        (None, "GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 3g.40gb Device 0: (UUID: MIG-1)\n", 1),
        (None, "No devices were found\n", 0),
        (None, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 0),
    ],
)
def test_cards_are_counted_and_not_what_is_said_of_them(
    visible: str | None, said: str, cards: int, tmp_path: Path
) -> None:
    told = tmp_path / "nvidia-smi"
    told.write_text(f"#!/bin/sh\ncat << 'END'\n{said}END\n")
    told.chmod(0o755)
    variable = "unset CUDA_VISIBLE_DEVICES" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}"
    script = f"set -euo pipefail; source launch/env.sh; {variable}; count_gpus"
    assert output("bash", "-c", script, PATH=f"{tmp_path}:{os.environ['PATH']}") == str(cards)


def test_an_environment_without_pip_is_given_one_and_not_thrown_away(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv/keep").touch()
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "none"\n')
    script = f"set -euo pipefail; source {ROOT}/launch/env.sh; setup"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "pip could not install ." in done.stderr  # which is no project
    assert (tmp_path / ".venv/keep").exists() and (tmp_path / ".venv/bin/pip3").exists()


def test_ranks_share_the_cores_and_a_value_that_is_set_stays() -> None:
    assert int(exported("OMP_NUM_THREADS", RANKS="1")) == len(os.sched_getaffinity(0))
    assert exported("OMP_NUM_THREADS", RANKS="1000") == "1"
    assert exported("OMP_NUM_THREADS", OMP_NUM_THREADS="3") == "3"


def test_one_name_sets_the_interface_of_nccl_and_of_gloo() -> None:
    assert (
        exported("NCCL_SOCKET_IFNAME", INTERFACE="eth7") == exported("GLOO_SOCKET_IFNAME", INTERFACE="eth7") == "eth7"
    )
    assert exported("GLOO_SOCKET_IFNAME") == ""


# --- setup ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose .venv holds a python that only writes down what it was asked to do."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "pyproject.toml").write_text("one")
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    for name in ("python", "fer-scale", "ruff", "mypy"):
        tool = tools / name
        tool.write_text(
            f'#!/bin/bash\nprintf "{name}:" >> {tmp_path}/calls\nprintf " %s" "$@" >> {tmp_path}/calls\n'
            f"echo >> {tmp_path}/calls\n"
        )
        tool.chmod(0o755)
    return tmp_path


def calls(checkout: Path) -> list[str]:
    """What was run since the last look, but for the question whether pip is there."""
    file = checkout / "calls"
    lines = file.read_text().splitlines()
    file.write_text("")
    return [line for line in lines if line != "python: -m pip --version"]


def test_the_demo_installs_once_passes_its_arguments_on_and_installs_again_when_the_project_changed(
    checkout: Path,
) -> None:
    install = "python: -m pip install --quiet --disable-pip-version-check --editable ."
    output("bash", "launch/demo.sh", "--seed", "7", cwd=checkout)
    assert calls(checkout) == [install, "fer-scale: demo --seed 7"]
    output("bash", "launch/demo.sh", cwd=checkout)
    assert calls(checkout) == ["fer-scale: demo"]
    (checkout / "pyproject.toml").write_text("two")
    output("bash", "launch/demo.sh", cwd=checkout)
    assert calls(checkout) == [install, "fer-scale: demo"]


def test_the_demo_takes_its_folder_from_where_it_is_called(checkout: Path) -> None:
    (checkout / ".venv/bin/fer-scale").write_text("#!/bin/bash\npwd\n")
    (checkout / "elsewhere").mkdir()
    assert output("bash", "../launch/demo.sh", cwd=checkout / "elsewhere") == str(checkout / "elsewhere")


def test_the_tests_install_more_than_the_demo_and_what_they_install_serves_both(checkout: Path) -> None:
    install = "python: -m pip install --quiet --disable-pip-version-check --editable .[dev]"
    checks = ["ruff: check .", "mypy: shards fer_scale"]
    output("bash", "launch/demo.sh", cwd=checkout)
    calls(checkout)
    output("bash", "launch/test.sh", "-k", "word", cwd=checkout)
    assert calls(checkout) == [install, *checks, "python: -m pytest -k word"]
    (checkout / ".venv/installed").unlink()
    output("bash", "launch/demo.sh", cwd=checkout)
    assert calls(checkout) == ["fer-scale: demo"]


def test_an_installation_that_failed_is_tried_again(checkout: Path) -> None:
    pip = checkout / ".venv/bin/python"
    works = pip.read_text()
    pip.write_text(works + "[[ $* != *install* ]]\n")
    done = subprocess.run(["bash", "launch/demo.sh"], cwd=checkout, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "pip could not install" in done.stderr
    pip.write_text(works)
    calls(checkout)
    output("bash", "launch/demo.sh", cwd=checkout)
    assert len(calls(checkout)) == 2


@pytest.fixture
def debian(checkout: Path) -> Path:
    """A checkout, and a Debian machine that lacks every package: `apt` says what apt-get answers."""
    fakes = checkout / "fakes"
    fakes.mkdir()
    (checkout / "apt").write_text("0")
    scripts = {
        "dpkg-query": "exit 1",
        "id": "echo 0",
        "apt-get": f'echo "apt-get: $*" >> {checkout}/calls\nexit $(cat {checkout}/apt)',
    }
    for name, body in scripts.items():
        (fakes / name).write_text(f"#!/bin/bash\n{body}\n")
        (fakes / name).chmod(0o755)
    return checkout


def test_ci_installs_debian_packages_and_goes_on_without_them_nobody_else_does(debian: Path) -> None:
    path = f"{debian / 'fakes'}:{os.environ['PATH']}"
    output("bash", "launch/test.sh", cwd=debian, PATH=path)
    assert not any("apt-get" in call for call in calls(debian))
    (debian / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", debian / ".ci/run")
    output("bash", ".ci/run", cwd=debian, PATH=path)
    made = calls(debian)
    assert made[0] == "apt-get: update -qq" and made[1].endswith("slurmctld slurmd slurm-client faketime chromium")
    (debian / "apt").write_text("100")
    done = subprocess.run(["bash", ".ci/run"], cwd=debian, env=environment(PATH=path), capture_output=True, text=True)
    assert done.returncode == 0 and "and in a browser will be skipped: apt-get could not install" in done.stderr
    whole, clusters = calls(debian)[-2:]  # of tests: all of them, in two parts
    assert whole.endswith("not chaos and not cluster") and clusters.endswith("not chaos and cluster")


# --- Slurm ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(checkout: Path) -> Path:
    """A checkout with Slurm's commands on PATH, which write down what they are asked; srun runs fake_run.py."""
    fakes = checkout / "fakes"
    fakes.mkdir()
    real = f"export PYTHONPATH={ROOT}\nexec {sys.executable}"
    scripts = {
        fakes / "srun": f'echo "srun: $*" "$MASTER_ADDR" >> calls\n{real} {ROOT}/tests/launch/fake_run.py $PLAN "$@"',
        fakes / "scontrol": 'echo "scontrol: $*" >> calls\necho node1\necho node2',
        checkout / ".venv/bin/python": f'{real} "$@"',
    }
    for file, body in scripts.items():
        file.write_text(f"#!/bin/bash\ncd {checkout}\n{body}\n")
        file.chmod(0o755)
    shutil.copytree(ROOT / "configs", checkout / "configs")
    return checkout


def submit(cluster: Path, plan: str, restarts: int = 0) -> subprocess.Popen[bytes]:
    path = f"{cluster / 'fakes'}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(cluster), "PLAN": plan}
    slurm |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    words = [*RECIPE, "data.shards=faces"]
    return subprocess.Popen(["bash", "launch/slurm.sbatch", *words], cwd=cluster, env=environment(PATH=path, **slurm))


def trains(cluster: Path) -> None:
    """Wait until it does."""
    for _ in range(1200):
        if (cluster / "a b/events.jsonl").exists():
            return
        time.sleep(0.05)
    raise AssertionError("nothing was started")


def test_a_slurm_job_that_ends_in_time_does_not_come_back(cluster: Path) -> None:
    assert submit(cluster, "succeeds").wait(60) == 0
    assert calls(cluster) == [
        "scontrol: show hostnames node[1-2]",
        "srun: --kill-on-bad-exit=1 python -m fer_scale pretrain configs/pretrain/demo.toml run.out=a b "
        "data.shards=faces node1",
    ]


def test_a_slurm_job_whose_time_is_nearly_up_lets_the_ranks_save_and_queues_again(cluster: Path) -> None:
    job = submit(cluster, "trains")
    trains(cluster)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 0
    assert json.loads((cluster / "a b/attempts/0001/outcome.json").read_text())["outcome"] == "preempted"
    assert calls(cluster)[2:] == ["scontrol: requeue 42"]


def test_a_cancelled_slurm_job_saves_and_does_not_come_back(cluster: Path) -> None:
    job = submit(cluster, "trains")
    trains(cluster)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 75
    assert not (cluster / "a b/stop").exists() and not calls(cluster)[2:]


def test_a_slurm_job_that_failed_queues_again_until_three_starts_brought_nothing_and_a_mistake_does_not(
    cluster: Path,
) -> None:
    plan = "fails,fails,fails,fails,mistake"
    for restarts, again in ((0, True), (1, True), (2, False), (0, True)):  # 0: by a person
        submit(cluster, plan, restarts).wait(60)
        assert (calls(cluster)[-1] == "scontrol: requeue 42") == again
    assert submit(cluster, plan).wait(60) == 2
    assert calls(cluster)[-1].startswith("srun: ")
