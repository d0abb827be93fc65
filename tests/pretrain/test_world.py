"""Every launcher's way of telling a process who it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_scale.pretrain import world

ROOT = Path(__file__).parents[2]
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name in NAMES or name.startswith(("SLURM", "OMPI", "PMI")):
            monkeypatch.delenv(name)
    for name in NAMES:  # so that what the code sets is taken back
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    return monkeypatch


def told() -> tuple[str, ...]:
    world._name_ourselves()
    return tuple(os.environ[name] for name in NAMES[:4])


def test_a_process_without_a_launcher_is_alone(env: pytest.MonkeyPatch) -> None:
    assert told() == ("0", "1", "0", "127.0.0.1")
    assert int(os.environ["MASTER_PORT"]) > 1023


def test_torchruns_names_are_left_alone(env: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("3", "8", "1", "node1", "1234"), strict=True):
        env.setenv(name, value)
    assert told() == ("3", "8", "1", "node1") and os.environ["MASTER_PORT"] == "1234"


def test_a_task_of_srun_knows_its_rank(env: pytest.MonkeyPatch) -> None:
    for name, value in (("PROCID", "5"), ("STEP_NUM_TASKS", "16"), ("LOCALID", "2"), ("NTASKS", "16")):
        env.setenv(f"SLURM_{name}", value)
    env.setenv("MASTER_ADDR", "node1")
    assert told() == ("5", "16", "2", "node1") and os.environ["MASTER_PORT"] == "29500"


def test_a_batch_shell_of_slurm_is_no_task(env: pytest.MonkeyPatch) -> None:
    env.setenv("SLURM_PROCID", "0")
    env.setenv("SLURM_NTASKS", "16")
    assert told() == ("0", "1", "0", "127.0.0.1")


def test_a_process_of_mpirun_knows_its_rank(env: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("SIZE", "2"), ("LOCAL_RANK", "1")):
        env.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert told() == ("1", "2", "1", "127.0.0.1")


def test_a_rank_that_nobody_comes_to_meet_says_for_whom_it_waits_and_ends_as_a_machine_that_failed(
    env: pytest.MonkeyPatch,
) -> None:
    for name, value in zip(NAMES, ("0", "2", "0", "127.0.0.1", str(world._free_port())), strict=True):
        env.setenv(name, value)
    recipe = ["pretrain", "tests/ranks/pretrain.toml", "data.shards=x", "run.out=y", "run.hang_seconds=4"]
    command = [sys.executable, "-m", "fer_scale", *recipe]
    rank = subprocess.run(command, env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, cwd=ROOT)
    assert rank.returncode == os.EX_TEMPFAIL and b"Traceback" not in rank.stderr, rank.stderr
    assert b"fer-scale pretrain: the ranks did not find" in rank.stderr and b"Timed out after" in rank.stderr
    assert b"meeting  2 ranks at 127.0.0.1:" in rank.stderr and b"; who is not there in 4s ends it" in rank.stderr
