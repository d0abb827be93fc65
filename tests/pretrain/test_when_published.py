"""What of a run is published and when; what of a recipe could only fail after days is refused before the first step."""

import json
from pathlib import Path

import pytest
from runs import recipe

from fer_scale import checkpoint, config, ending, log
from fer_scale.config import ConfigError
from fer_scale.pretrain import publishing
from fer_scale.pretrain.publishing import Publisher, is_due, refuse


def save(run: Path, step: int) -> None:
    part = checkpoint.part_of(place := checkpoint.folder_of(run, step))
    checkpoint.finish(part, place, [checkpoint.write_part(part, 0, 1, {})], {"step": step})


def test_the_first_checkpoint_at_or_after_each_multiple_is_due_and_only_it() -> None:
    published, due = 0, []
    for step in (40, 90, 100, 150, 210, 290, 400, 410):
        if is_due(step, published, 100):
            published = step
            due.append(step)
    assert due == [100, 210, 400] and not is_due(1000, 0, None)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["publish.to=hf://lab/faces"], "card.license: publish.to needs the licence of the weights"),
        (["publish.to=hf://lab/faces", "card.license= "], "card.license: publish.to needs"),
        (["publish.to=hf://lab"], "publish.to: hf://lab is neither a folder nor hf://ORG/NAME"),
        (["publish.to=hf://lab/faces@v1"], "each publication is a commit, so there is no tag"),
        (["publish.to=hf://datasets/lab/faces"], "publish.to: hf://datasets/lab/faces is neither"),
        (["publish.to=s3://bucket/faces"], "publish.to: s3://bucket/faces is neither"),
        (["publish.every_steps=10"], "publish.to: missing"),
        (["publish.state=true"], "publish.to: missing"),
        (["publish.to=/faces", "publish.state=true"], "publish.state: goes to a repository of its own"),
        (["publish.to=hf://lab/faces", "publish.state=/disk"], "publish.state: goes to a repository of its own"),
        (["publish.to=hf://lab/faces", "publish.state=hf://lab/faces"], "publish.state: needs another repository"),
        (["publish.sign=/key.pem"], "publish.to: missing"),
        (["publish.to=/faces", "publish.parts=decoder"], "publish.parts: must be one of 'encoder', 'encoder,decoder'"),
        (["publish.state=5"], "publish.state: must be true or false, not 5"),
        (["publish.to=/faces", "publish.every_steps=0"], "publish.every_steps: must be 1 or more"),
        (["run.resume_from=/run", "run.resume=never"], "run.resume_from: goes on, which resume = never forbids"),
    ],
)
def test_a_recipe_that_cannot_be_published_as_it_says_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        recipe(*overrides)
    assert said in str(refused.value)


def test_where_the_state_goes() -> None:
    hub = ("publish.to=hf://lab/faces", "card.license=mit")
    assert recipe(*hub).publish.state_to is None
    assert recipe(*hub, "publish.state=true").publish.state_to == "hf://lab/faces-state"
    assert recipe(*hub, "publish.state=hf://me/x").publish.state_to == "hf://me/x"
    kept = recipe(*hub, "publish.state=hf://me/x", "publish.every_steps=7")
    assert config.dump(kept).count("hf://me/x") == 1 and kept.publish.every_steps == 7


def test_a_folder_that_holds_something_else_is_refused_before_the_first_step(tmp_path: Path) -> None:
    refuse(recipe(f"publish.to={tmp_path / 'new'}", "card.license=mit"))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"publish.to: .*is not empty and holds .*thesis.tex"):
        refuse(recipe(f"publish.to={tmp_path}", "card.license=mit"))


def test_a_key_that_cannot_sign_is_refused_before_the_first_step(tmp_path: Path) -> None:
    wanted = (f"publish.to={tmp_path / 'new'}", "card.license=mit", f"publish.sign={tmp_path / 'key.pem'}")
    with pytest.raises(ConfigError, match=r"publish.sign: .*key.pem: no private key that can sign"):
        refuse(recipe(*wanted))


def test_a_run_that_goes_on_is_not_ended_by_what_can_no_longer_be_published(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    save(tmp_path, 1)
    refuse(recipe(f"publish.to={tmp_path}", "card.license=mit", out=tmp_path))
    assert "publish.to: the run goes on, and this may not be published" in "".join(capfd.readouterr())


def test_a_checkpoint_that_is_being_published_is_not_pruned(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, 1, but={2})
    assert [folder.name for folder in checkpoint.complete(tmp_path)] == ["step_00000004", "step_00000002"]
    checkpoint.prune(tmp_path, 1)
    assert [folder.name for folder in checkpoint.complete(tmp_path)] == ["step_00000004"]


def test_the_disk_never_holds_more_than_has_room_asks_for_while_what_is_read_or_waits_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_its_start: list[set[int]] = []

    class Endless:  # a process that publishes for ever
        def __init__(self, step: int, *_: object):
            self.step = step
            at_its_start.append(publisher.in_use())

        def is_over(self) -> bool:
            return False

    monkeypatch.setattr(publishing, "_Publication", Endless)
    rec = recipe("publish.to=hf://lab/faces", "card.license=mit", "publish.every_steps=1", out=tmp_path)
    publisher = Publisher(rec, ending.claim(tmp_path), is_main=True)
    most = 0
    for step in (1, 2, 3, 4):
        most = max(most, len(checkpoint.complete(tmp_path)) + 1)  # the one that is being written
        save(tmp_path, step)
        checkpoint.prune(tmp_path, 1, but=publisher.in_use())
        publisher.saved(step)
    assert at_its_start == [{1}] and publisher.in_use() == {1, 4}
    assert most == 4 == 1 + 1 + publisher.most_in_use


def test_what_was_published_of_a_course_that_was_left_is_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its newest checkpoints were taken away, to go on otherwise, or all of them, to begin anew."""
    begun: list[int] = []
    monkeypatch.setattr(publishing, "_Publication", lambda step, *_: begun.append(step))
    rec = recipe("publish.to=hf://lab/faces", "card.license=mit", "publish.every_steps=10", out=tmp_path)
    journal, attempt = log.Journal(tmp_path), ending.claim(tmp_path)
    for kind, goes_on_from, due in (
        ("start", 0, [10, 20]),
        ("resume", 20, [30]),
        ("resume", 10, [20]),
        ("start", 0, [10]),
    ):
        begun.clear()
        publisher = Publisher(rec, attempt, is_main=True)
        journal.event(kind, step=goes_on_from)
        publisher.recall()
        for step in range(goes_on_from or 10, due[-1] + 10, 10):
            publisher.saved(step)
            journal.event("published", step=step, to="hf://lab/faces", address="hf://lab/faces@1")
        assert begun == due


def test_a_publisher_that_cannot_be_understood_is_a_publication_that_failed_and_no_more(tmp_path: Path) -> None:
    said = tmp_path / "publisher.log"
    for words, code in ((["--help"], 0), (["dance"], 2)):
        process = publishing._Publication(1, words, said)
        process._process.wait(60)
        said.unlink()
        told, reason = process.result()
        assert process.may_help() == (code == 0), "of the first it is not known that it failed: so it is tried again"
        assert told == {} and f"code {code}, and what it said cannot be read" in reason


def test_the_result_is_found_among_what_a_library_says() -> None:
    result = {"published": "hf://lab/faces@1", "state": {"at": "hf://lab/faces-state@2"}}
    assert publishing._result_in(f"A new version!\n{json.dumps(result, indent=2)}\ngoodbye\n") == result
    for said in ("", "[]", "{}", "{not json"):
        with pytest.raises(ValueError):
            publishing._result_in(said)
