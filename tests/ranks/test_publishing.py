"""Publishing while training, and going on elsewhere from what was published. Real runs, against the loopback Hub."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub.server import Hub
from runs import events, losses

from fer_scale import checkpoint, processes, signature

HERE = Path(__file__).parent
TO, STATE = "lab/faces", "lab/faces-state"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    running = Hub(tmp_path / "server")
    yield running
    running.stop()


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> list[str]:
    """What follows `python`: a run of four steps in tmp_path / "run", saved at steps 2 and 4, one checkpoint kept."""
    given = [f"data.shards={faces}", f"run.out={tmp_path / 'run'}", "run.steps=4", "run.checkpoint_every_steps=2"]
    driver = [str(HERE / "to_a_hub.py"), "pretrain", str(HERE / "pretrain.toml")]
    return [*driver, *given, "run.keep_checkpoints=1", "card.license=cc-by-nc-4.0", "publish.wait_s=100"]


@pytest.fixture
def train(launch: Any, tmp_path: Path, server: Hub) -> Callable[..., str]:
    """train(*words, ranks=1, **environment): what rank 0 said."""

    def run(*words: str, ranks: int = 1, **environment: str) -> str:
        return launch(ranks, *words, HUB=server.url, CACHE=str(tmp_path / "cache"), **environment).wait()

    return run


PUBLISH = (f"publish.to=hf://{TO}", "publish.every_steps=2")


def titles(server: Hub, repo: str) -> list[str]:
    """Of the commits, but for the one with which a repository begins."""
    return [commit.title for commit in server.store.repos[repo].commits.values()][1:]


def files(server: Hub, repo: str, number: int) -> dict[str, bytes]:
    """Of the commit with this number."""
    made = list(server.store.repos[repo].commits.values())[number].files
    return {name: server.store.blob(file.sha256).read_bytes() for name, file in made.items()}


def test_each_due_step_is_a_commit_that_can_be_made_again_and_the_state_goes_on_elsewhere_to_the_bit(
    words: list[str], tmp_path: Path, train: Callable[..., str], server: Hub
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    more = ("publish.parts=encoder,decoder", "publish.state=true", "run.keep_checkpoints=2")
    train(*words, *PUBLISH, *more, ranks=2, ONE_BY_ONE="1")
    assert [title.rpartition(", ")[2] for title in titles(server, TO)] == ["step 2", "step 4"]
    assert [row["step"] for row in events(run, "published")] == [2, 4]
    heads = [commit.sha for commit in server.store.repos[TO].commits.values()]
    assert [row["address"] for row in events(run, "published")] == [f"hf://{TO}@{sha}" for sha in heads[1:]]
    train(words[0], "publish", str(run), f"hf://{TO}", "--step", "2")
    assert files(server, TO, 3) == files(server, TO, 1) != files(server, TO, 2), "the same bytes, by hand and later"
    assert "decoder.safetensors" in files(server, TO, 3), "the run says what it publishes"

    kept = b"".join(file.read_bytes() for file in run.rglob("*") if file.is_file())
    assert b"hf_alice" not in kept and (run / "attempts/0001/publisher.log").exists(), "no token in what is kept"

    states = server.store.repos[STATE]
    assert titles(server, STATE) == ["Training state, step 2", "Training state, step 4"] and states.private
    early = f"hf://{STATE}@{list(states.commits)[1]}"
    said = train(*words, f"run.out={moved}", f"run.resume_from={early}", ranks=2)
    assert f"pulled   step 2 of {early}" in said and losses(moved) == losses(run)
    assert [row["step"] for row in events(moved, "resume")] == [2]
    ended = [checkpoint.manifest(checkpoint.folder_of(where, 4)) for where in (run, moved)]
    assert all(ended[0][name] == ended[1][name] for name in ended[0] if name.startswith("state-")), "to the bit"


def test_a_hub_that_refuses_every_publication_costs_the_run_nothing_and_what_to_do_is_said(
    words: list[str], tmp_path: Path, train: Callable[..., str], server: Hub
) -> None:
    server.faults.add("status", "POST", "/commit/", status=403, times=99)
    said = train(*words, f"publish.to=hf://{TO}")
    train(*words, f"run.out={tmp_path / 'plain'}")
    run = tmp_path / "run"
    assert losses(run) == losses(tmp_path / "plain")
    assert json.loads((run / "outcome.json").read_text())["outcome"] == "done"
    assert [row["step"] for row in events(run, "not_published")] == [4] and titles(server, TO) == []
    command = f"fer-scale publish {run} hf://{TO} --step 4 --licence cc-by-nc-4.0"
    assert f"to publish its step 4 later: {command}" in said and "this token may not do that" in said


def test_nothing_is_published_of_a_run_whose_values_are_not_finite(
    words: list[str], launch: Any, tmp_path: Path, server: Hub
) -> None:
    given = [*words, f"publish.to=hf://{TO}", "publish.every_steps=6", "run.steps=6"]
    [rank] = launch(1, *given, HUB=server.url, CACHE=str(tmp_path / "cache"), SPOILED="0").processes
    said = rank.communicate(timeout=200)[0]
    assert rank.returncode and "holds NaN or infinite values; such a state is not saved" in said
    assert not server.store.repos and not events(tmp_path / "run", "published")


@pytest.mark.slow  # two publications
def test_a_folder_is_published_to_as_well_signed_at_the_end_of_a_run_and_again_when_it_has_gone_on(
    words: list[str], tmp_path: Path, train: Callable[..., str], server: Hub
) -> None:
    encoder, run, key, public = (tmp_path / name for name in ("encoder", "run", "key.pem", "public.pem"))
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    for last in ("run.stop_after_steps=2", "run.steps=4"):
        train(*words, last, f"publish.to={encoder}", f"publish.sign={key}")
        signature.check(encoder, public)
    secret = key.read_bytes().splitlines()[1]
    holding = [file for place in (run, encoder) for file in place.rglob("*") if file.is_file()]
    assert not [file for file in holding if secret in file.read_bytes()], "the key stays where it is"
    assert [row["step"] for row in events(run, "published")] == [2, 4] and server.requests == []
    assert json.loads((encoder / "config.json").read_text())["fer_scale"]["step"] == 4
    assert "nothing to do" in train(*words, f"publish.to={encoder}")
    assert len(events(run, "published")) == 2, "what is there is not published again"


@pytest.mark.slow  # two tries of a publication that wait for an answer
def test_the_hub_is_down_for_a_whole_run_which_is_unharmed_and_says_so(
    words: list[str], tmp_path: Path, train: Callable[..., str], server: Hub
) -> None:
    server.stop()
    given = [*words, "run.steps=40", "run.checkpoint_every_steps=10"]
    said = train(*given, *PUBLISH, "publish.state=true", "publish.wait_s=40")
    train(*given, f"run.out={tmp_path / 'plain'}")
    run = tmp_path / "run"
    assert losses(run) == losses(tmp_path / "plain")
    assert json.loads((run / "outcome.json").read_text())["outcome"] == "done"
    assert "publish.to: whether this may be published is not known: hf://lab/faces: no answer from" in said
    command = f"fer-scale publish {run} hf://{TO} --step 40 --licence cc-by-nc-4.0 --parts encoder"
    assert f"{command} --state hf://{STATE}" in said
    assert events(run, "not_published")[0]["step"] == 10 and "no answer from" in said


@pytest.fixture
def endless(words: list[str], launch: Any, tmp_path: Path, server: Hub) -> Callable[[], Any]:
    """endless(): a run that saves every 20 of its short steps, whose first publication hangs in its commit."""

    def start() -> Any:
        server.faults.add("silent", "POST", "/commit/", seconds=100, times=99)
        given = [*words, *PUBLISH, "run.steps=1000000", "run.checkpoint_every_steps=20", "run.log_every_steps=20"]
        (tmp_path / "scratch").mkdir()
        places = {"CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "scratch")}
        return launch(1, *given, HUB=server.url, **places).processes[0]

    return start


def until(done: Callable[[], Any], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def publisher_of(rank: Any) -> list[processes.Process]:
    return [p for p in processes.children(rank.pid) if b"publish" in Path(f"/proc/{p.pid}/cmdline").read_bytes()]


def hangs_at_its_commit(rank: Any, server: Hub) -> processes.Process:
    until(lambda: any(request.startswith("POST") and "/commit/" in request for request in server.requests))
    [found] = publisher_of(rank)
    return found


@pytest.mark.slow  # three publications
def test_a_publisher_that_is_killed_harms_nothing_and_the_next_checkpoint_is_published(
    endless: Callable[[], Any], tmp_path: Path, server: Hub
) -> None:
    rank, run = endless(), tmp_path / "run"
    publisher = hangs_at_its_commit(rank, server)
    held = checkpoint.complete(run)[-1]
    until(lambda: checkpoint.complete(run)[0].name > "step_00000200")
    assert checkpoint.complete(run)[-1] == held and len(checkpoint.complete(run)) <= 3, "read, and so not pruned"
    assert titles(server, TO) == []
    server.faults.clear()
    os.kill(publisher.pid, signal.SIGKILL)
    until(lambda: events(run, "published"))
    (run / "stop").touch()
    said = rank.communicate(timeout=200)[0]
    last = json.loads((run / "outcome.json").read_text())["step"]
    [failed] = events(run, "not_published")
    assert failed["why"] == "its process was killed by signal 9" and f"step {failed['step']} is not published" in said
    steps = [int(title.rpartition("step ")[2].replace(",", "")) for title in titles(server, TO)]
    assert steps == sorted(set(steps)) and steps[-1] == last and failed["step"] not in steps
    assert steps == [row["step"] for row in events(run, "published")] and not held.exists()


@pytest.mark.slow  # three starts
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_is_told_to_leave_leaves_no_publisher_and_the_next_start_publishes(
    endless: Callable[[], Any], words: list[str], train: Callable[..., str], tmp_path: Path, server: Hub, number: int
) -> None:
    rank, run = endless(), tmp_path / "run"
    publisher = hangs_at_its_commit(rank, server)
    rank.send_signal(number)
    rank.communicate(timeout=20)
    until(lambda: not publisher.lives(), 2)
    server.faults.clear()
    step = checkpoint.progress_of(checkpoint.complete(run)[0])["step"]
    assert titles(server, TO) == []
    if number == signal.SIGTERM:
        assert not list((tmp_path / "scratch").iterdir())
    train(*words, *PUBLISH, "run.steps=1000000", f"run.stop_after_steps={step}")
    assert [title.rpartition(", ")[2] for title in titles(server, TO)] == [f"step {step:,}"]
