"""A Space for an expression model: what is in it, that it is always the same, and that it runs by itself."""

import ast
import importlib.metadata
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from fer_scale import app_page, hub, space
from fer_scale.__main__ import main
from fer_scale.front_matter import check
from fer_scale.hub_errors import HubError
from shards.detector import ON_THE_HUB

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # `hub` is tests/hub
import served
from hub.looking import held
from hub.server import Hub

MODEL = "hf://lab/expressions"
COMES_WITH = {"pillow": "torchvision", "PyYAML": "timm", "fastapi": "gradio", "uvicorn": "gradio", "tqdm": "timm"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_space_of_a_model_on_the_hub_names_its_commit(
    hub_server: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = hub.push(model, MODEL, message="a model")
    assert main(["publish", MODEL, str(tmp_path / "space"), "--space", "--title", "Faces: a *page*"]) == 0
    assert str(tmp_path / "space") in capsys.readouterr().out
    made = files(tmp_path / "space")
    app, readme = made["app.py"].decode(), made["README.md"].decode()
    assert f'MODEL = "{address}"' in app and not any(name.startswith("model/") for name in made)
    assert "detector" not in app  # of a model on the Hub YuNet is the default
    ast.parse(app)
    check(readme)
    front = next(yaml.safe_load_all(readme.split("---\n")[1]))
    assert front["title"] == "Faces: a *page*" and front["models"] == ["lab/expressions"]
    assert (front["sdk"], front["app_file"], front["license"]) == ("gradio", "app.py", "cc-by-nc-4.0")
    assert front["sdk_version"] == importlib.metadata.version("gradio")
    assert "Not a lie detector" in readme and app_page.FEELING in readme and "secret HF_TOKEN" in readme
    lines = made["requirements.txt"].decode().splitlines()
    assert f"gradio=={front['sdk_version']}" in lines and all("==" in line and "+" not in line for line in lines)
    space.publish(MODEL, str(tmp_path / "again"), title="Faces: a *page*")
    assert files(tmp_path / "again") == made


def test_a_space_is_pushed_whole_and_an_older_one_of_ours_is_replaced(
    hub_server: Hub, model: Path, tmp_path: Path
) -> None:
    to = "hf://spaces/lab/faces"
    address = space.publish(str(model), to)
    assert address.startswith(f"{to}@")
    repo = hub_server.store.repos["spaces/lab/faces"]
    space.publish(str(model), str(tmp_path / "space"))
    there = held(hub_server, "spaces/lab/faces")
    assert {n: hub_server.store.digest(d) for n, d in files(tmp_path / "space").items()}.items() <= there.items()
    assert space.publish(str(model), to) == address  # the same again is no commit
    other = dict.fromkeys(("app.py", "fer_scale/gone.py", "notes.txt"), hub_server.store.small(b"old"))
    repo.commit(repo.at("main").files | other, "somebody")
    space.publish(str(model), to)
    names = repo.at("main").files.keys()
    assert "fer_scale/gone.py" not in names and "notes.txt" in names


def test_code_is_pushed_to_spaces_alone_and_never_pulled(hub_server: Hub, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1")
    for address in ("hf://lab/faces", "hf://datasets/lab/faces"):
        with pytest.raises(HubError, match=r"app\.py: such files do not travel"):
            hub.push_files({"app.py": tmp_path / "app.py"}, address, message="code")
    pushed = hub.push_files({"app.py": tmp_path / "app.py"}, "hf://spaces/lab/faces", message="code")
    with pytest.raises(HubError, match="holds none of the files that are wanted"):
        hub.pull_files(pushed, lambda name: True)


def test_what_is_no_published_expression_model_makes_no_space(
    model: Path, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    unpublished = model.parent / "run" / "model"
    for words, told in (
        ([encoder_folder, tmp_path / "space"], "is an encoder without expressions"),
        ([unpublished, tmp_path / "space"], "has no card; publish it first"),
        ([model, "hf://lab/faces"], "hf://lab/faces: is no Space; one on the Hub is hf://spaces/ORG/NAME"),
        ([model, tmp_path / "full"], "is there already, and a Space is written anew"),
        ([model, "."], ".: is where you are, and another folder would take its place; give a folder in it"),
        ([model, "/proc"], "/proc: is a mount point"),
        ([model, tmp_path / "space", "--licence", "mit"], "a Space says what the model's card says"),
    ):
        assert main(["publish", *map(str, words), "--space"]) == 2
        assert told in capsys.readouterr().err
    assert main(["publish", MODEL, str(tmp_path / "space")]) == 2
    assert "lies far away; `fer-scale pull` fetches it, and --space makes a Space for it" in capsys.readouterr().err
    assert not (tmp_path / "space").exists() and not list(tmp_path.glob(".*"))


# Others load W&B where they find it; boards.py asks for it when a run does, which a page never is.
NOT_OURS = {"fer_scale", "shards", "wandb"}


@pytest.fixture(scope="module")
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Page]:
    folder = tmp_path_factory.mktemp("running")
    space.publish(str(model), str(folder / "space"))
    asked_by_the_hub = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "0"}
    page = served.Page(folder, folder / "space" / "app.py", **asked_by_the_hub)
    yield page
    page.kill()


def test_a_space_runs_by_itself_with_the_packages_that_it_names_and_ends_by_sigterm(running: served.Page) -> None:
    with urlopen(Request(running.address(), headers={"Host": "lab-faces.example"})) as answer:
        assert app_page.SERVED.split(".")[0] in answer.read().decode()
    code, overheard = running.stop(signal.SIGTERM)
    assert code == 143 and overheard["asked"] == [] and not running.left()
    app = (running.folder / "space" / "app.py").read_text()
    assert f'detector="{ON_THE_HUB}" if "SPACE_ID" in os.environ else None' in app  # the Hub sets it
    assert "note     whoever reaches this machine can use the page" in running.said()
    place = running.folder / "space"
    ours = {name: file for name, file in overheard["modules"].items() if name.split(".")[0] in ("fer_scale", "shards")}
    assert all(Path(file).is_relative_to(place) for file in ours.values())
    named = {line.partition("==")[0] for line in (place / "requirements.txt").read_text().splitlines()}
    of = importlib.metadata.packages_distributions()
    loaded = {name.split(".")[0] for name in overheard["modules"]}
    for file in ours.values():
        for node in ast.walk(ast.parse(Path(file).read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & loaded & of.keys() - NOT_OURS:
                needed = {d.replace("_", "-") for d in of[name]}
                assert needed & named or needed & COMES_WITH.keys(), f"{file} imports {name}: {needed}"
