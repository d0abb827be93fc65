"""The page of `fer-scale app` in a real browser: what it says, and that nothing that was given leaves the machine."""

import asyncio
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import fer_scale
from fer_scale import app, app_page
from fer_scale.__main__ import main
from fer_scale.demo.face import act, draw_face, person
from fer_scale.predicted import Face, Photo

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # `hub` is tests/hub
import served

pytestmark = pytest.mark.skipif(app.gr is None, reason="needs gradio: pip install -e .[dev]")
CHROMIUM = shutil.which("chromium") or ""
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PHONE, DESKTOP = (390, 844), (1200, 900)


def in_a_browser(test: Any) -> Any:
    there = CHROMIUM and importlib.util.find_spec("playwright")
    return pytest.mark.browser(pytest.mark.skipif(not there, reason="needs Debian's chromium, and playwright")(test))


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn face in a photo of 640 x 480 px."""
    rng = np.random.default_rng(3)
    drawn, _ = draw_face(person(rng), act("happiness", rng), rng)
    photo = Image.new("RGB", (640, 480), (120, 140, 150))
    photo.paste(drawn.resize((320, 320), Image.Resampling.BICUBIC), (200, 100))
    photo.save(file := tmp_path_factory.mktemp("photos") / "a face.png")
    return file


@pytest.fixture(scope="module")
def page(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Page]:
    """The page, opened in a browser that waits until it is ended."""
    words = ("app", str(model), "--port", "0", "--detector", "haar", "--min-confidence", "0", "--open")
    folder = tmp_path_factory.mktemp("page")
    os.mkfifo(folder / "end")
    quiet = f"exec > {os.devnull} 2>&1"  # it outlives the page, whose stderr is read to its end
    browser = f"sh -c '{quiet}; echo $0 > {folder}/said; mv {folder}/said {folder}/opened; cat {folder}/end' %s"
    (folder / "run.py").write_text("import sys; from fer_scale.__main__ import main; sys.exit(main())")
    page = served.Page(folder, folder / "run.py", *words, PYTHONPATH=str(served.ROOT), BROWSER=browser)
    yield page
    page.kill()
    with suppress(OSError):  # nobody reads: it was never opened
        os.close(os.open(folder / "end", os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture(scope="module")
def url(page: served.Page) -> str:
    return page.address()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


class Tab:
    """The page in a browser's tab, and what it asked of whom."""

    def __init__(self, chromium: Any, url: str, size: tuple[int, int] = DESKTOP) -> None:
        self.page = chromium.new_page(viewport={"width": size[0], "height": size[1]})
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.goto(url)
        self.page.get_by_text(app_page.GIVE).wait_for()

    def give(self, file: Path) -> str:
        """Give a picture; the text of the answer."""
        self.page.locator("input[type=file]").first.set_input_files(file)
        return self.answer()

    def answer(self) -> str:
        answer = self.page.locator(".fer section, .fer [role=alert]")
        answer.first.wait_for()
        return "\n".join(answer.all_inner_texts())


@in_a_browser
def test_the_page_says_what_predict_says_and_keeps_nothing(
    chromium: Any, page: served.Page, url: str, model: Path, face: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    tab = Tab(chromium, url)
    said = tab.give(face)
    [photo] = fer_scale.load(model, faces="all", detector="haar").predict([face])
    [seen] = photo.faces
    assert said.startswith(f"Face 1: {seen.label}, {app_page._percent(seen.confidence)}")
    names, shares = (tab.page.locator(f".fer {cells}").all_inner_texts() for cells in ("th", "td:last-child"))
    assert dict(zip(names, shares, strict=True)) == {n: app_page._percent(p) for n, p in seen.probabilities.items()}
    assert tab.page.locator(".fer svg text").all_text_contents() == ["1"]
    whole = tab.page.inner_text("body")
    assert "An expression is not a feeling." in whole and "Pictures stay on this machine." in whole
    assert "Not a lie detector" in whole and "cc-by-nc-4.0" in whole
    hosts = {asked.split("/")[2] for asked in tab.asked if asked.startswith(("http", "ws"))}
    assert hosts == {url.removeprefix("http://")} and not tab.errors
    assert not page.left()
    assert not Axe().run(tab.page).response["violations"]


def test_the_page_is_served_while_the_browser_that_it_opened_is_there(page: served.Page, url: str) -> None:
    until = time.monotonic() + 30
    while not (page.folder / "opened").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (page.folder / "opened").read_text().strip() == url


@in_a_browser
def test_on_a_phone_nothing_sticks_out_and_a_crop_is_not_searched_for_faces(
    chromium: Any, url: str, face: Path
) -> None:
    tab = Tab(chromium, url, PHONE)
    tab.page.get_by_label(app_page.CROP).check()
    assert tab.give(face).startswith("Face 1: ")
    assert not tab.page.locator(".fer svg").count()  # no box
    wide, seen = tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen


@in_a_browser
def test_the_camera_gives_pictures_and_what_is_no_picture_is_said_to_be_none(
    chromium: Any, page: served.Page, url: str, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    tab = Tab(chromium, url)
    said = tab.give(tmp_path / "text.png")
    assert said.startswith("text.png: cannot be read as a picture") and str(page.temporary) not in said
    tab.page.get_by_label("Capture from camera").click()
    tab.page.get_by_text("Click to Access Webcam").click()
    tab.page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    tab.page.get_by_label("capture photo").click()
    tab.page.get_by_text("No face was found.").wait_for()
    assert not page.left()


def give(url: str, picture: bytes) -> str:
    """Give a picture as the page does; the path that is answered."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + picture + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urlopen(Request(f"{url}/gradio_api/upload", body, headers)) as answer:
        [given] = json.load(answer)
    return str(given)


def ask(url: str, *fields: Any) -> str:
    """What the page answers about a picture and whether it is a crop, whatever is put in their place."""
    session = {"session_hash": uuid.uuid4().hex}
    body = json.dumps({"data": fields, "fn_index": 0, **session}).encode()
    with urlopen(Request(f"{url}/gradio_api/queue/join", body, {"Content-Type": "application/json"})):
        pass
    with urlopen(f"{url}/gradio_api/queue/data?{urlencode(session)}", timeout=60) as lines:
        return next(line.decode() for line in lines if b"process_completed" in line)


def file_data(path: str | Path, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def test_no_answer_lets_the_browser_ask_others_or_gives_a_picture_away(page: served.Page, url: str, face: Path) -> None:
    with urlopen(url) as answer:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "form-action 'self'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert "fonts.googleapis" not in answer.read().decode()
    given = give(url, face.read_bytes())
    assert page.left() == [given]
    fetched = [f"{route}=https://elsewhere.invalid/x.png?" for route in ("file", "proxy")]
    for route in ("file=", "file/", "file//tmp/..", "deep_link?session_hash=", *fetched):
        with urlopen(f"{url}/gradio_api/{route}{given}") as answer:
            assert (answer.status, answer.read()) == (204, b"")
    for route in ("/file=", "/file/", "//gradio_api/file=", "//gradio_api/file/", "/static/", "/assets/"):
        with pytest.raises(HTTPError, match=r"40[034]"):
            urlopen(f"{url}{route}{given}")
    assert "data:image" in ask(url, file_data(given), True) and not page.left()


def test_only_a_picture_that_was_given_is_looked_at_or_deleted(
    page: served.Page, url: str, face: Path, tmp_path: Path
) -> None:
    theirs, private = give(url, face.read_bytes()), tmp_path / "private"
    private.mkdir()
    (private / "letter.txt").touch()
    shutil.copyfile(face, private / "face.png")
    of_all = Path(theirs).parents[1]
    named = [private / "face.png", private / "none.png", private, of_all, of_all / "none.png", Path(theirs).parent, ""]
    named += [f"{of_all}/{up}{private}/face.png" for up in ("../" * 9, "x/../" + "../" * 9)]
    named += ["https://elsewhere.invalid/x.png", (private / "face.png").as_uri()]
    for said in (*map(file_data, named), file_data(private / "face.png", is_stream=True)):
        for fields in ((said, False), (said, True), (None, said)):
            answer = ask(url, *fields)
            assert "data:image" not in answer and "letter" not in answer
    assert "This picture is not there any more" in ask(url, file_data(private / "face.png"), True)
    assert sorted(path.name for path in private.iterdir()) == ["face.png", "letter.txt"]
    assert page.left() == [theirs]
    assert "data:image" in ask(url, file_data(theirs), True) and not page.left()
    assert "This picture is not there any more" in ask(url, file_data(theirs), True)


def test_the_same_picture_given_by_two_is_answered_to_both(page: served.Page, url: str, face: Path) -> None:
    given = [give(url, face.read_bytes()) for _ in range(2)]
    assert all("data:image" in ask(url, file_data(path), True) for path in given) and not page.left()


def test_a_page_of_this_machine_is_refused_to_other_pages_and_names(url: str) -> None:
    port = url.rpartition(":")[2]
    for headers in (
        {"Host": f"elsewhere.invalid:{port}"},  # whose DNS says 127.0.0.1
        {"Host": "localhost.elsewhere.invalid"},
        {"Origin": "https://elsewhere.invalid"},
        {"Origin": "null"},
    ):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{url}/config", headers=headers))
    for host in (f"localhost:{port}", f"[::1]:{port}", "localhost:8080"):  # the last by a tunnel
        with urlopen(Request(f"{url}/config", headers={"Host": host, "Origin": f"http://{host}"})) as answer:
            assert answer.status == 200


def test_ctrl_c_ends_it_leaves_nothing_and_no_other_machine_was_asked(page: served.Page, url: str) -> None:
    code, overheard = page.stop(signal.SIGINT)
    assert code == 130 and page.said().rstrip().endswith("interrupted; the same command goes on or starts anew")
    assert "Traceback" not in page.said(), page.said()
    assert overheard["asked"] == [] and not page.left()


def test_a_port_that_is_taken_and_a_host_that_is_none_are_told(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["app", str(model), "--port", port]) == 2
    assert f"127.0.0.1:{port}: another program listens there; choose another --port" in capsys.readouterr().err
    for words in ("--host no.such.host.invalid", "--host 127.0.0..1", "--host 192.0.2.1", "--port 70000"):
        assert main(["app", str(model), *words.split()]) == 2
        assert "fer-scale app: " in capsys.readouterr().err


def test_an_encoder_is_no_expression_model(capsys: pytest.CaptureFixture[str], encoder_folder: Path) -> None:
    assert main(["app", str(encoder_folder), "--port", "0", "--faces", "whole"]) == 2
    assert "is an encoder without expressions; fine-tune it first" in capsys.readouterr().err


def test_the_extra_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr(app, "gr", None)
    assert main(["app", str(model)]) == 2
    assert capsys.readouterr().err == "fer-scale app: the app needs gradio: pip install 'fer_scale[app]'\n"


def seen(label: str | None, shares: dict[str, float], score: float | None = 5.0) -> Photo:
    return Photo("photo 0", (64, 48), (Face((8, 8, 40, 40), score, label, max(shares.values()), shares),))


def test_a_face_without_a_label_is_said_to_be_unsure_and_no_probability_is_certain() -> None:
    said = app_page.answer(seen(None, {"joy": 0.45, "fear": 0.3, "anger": 0.25}), Image.new("RGB", (64, 48)))
    assert "<h2>Face 1: not sure enough to say</h2>" in said
    assert [app_page._percent(share) for share in (0.0001, 0.006, 0.994, 1)] == [
        "under 1 %",
        "1 %",
        "99 %",
        "over 99 %",
    ]


def test_a_face_that_was_found_and_cannot_be_used_is_not_said_to_be_none() -> None:
    photo = Photo("photo 0", (9, 9), (), 1, "photo 0: the cut around a face would have more than 200,000,000 pixels")
    assert "the cut around a face" in app_page.answer(photo, Image.new("RGB", (9, 9)))
    assert "No face was found" in app_page.answer(Photo("photo 0", (9, 9), (), 0, "none"), Image.new("RGB", (9, 9)))


def test_names_of_a_strangers_model_are_text() -> None:
    said = app_page.answer(seen("<script>", {"<script>": 0.9, 'a"b': 0.1}, None), Image.new("RGB", (64, 48)))
    assert "<script>" not in said and 'a"b' not in said and "<svg" not in said


def test_a_large_picture_is_shown_small_however_thin_it_is() -> None:
    sizes = {(2560, 1280): (1280, 640), (5000, 1): (1280, 1), (64, 48): (64, 48)}
    assert {size: app_page._small(Image.new("RGB", size)).size for size in sizes} == sizes


def test_the_number_of_a_face_is_seen_wherever_its_box_is() -> None:
    for box in ((-9.0, -5.0, 90.0, 99.0), (95.0, 90.0, 130.0, 130.0)):
        drawn = app_page._box(2, box, (112, 100))
        x, y, side = (float(n) for n in re.findall(r'x="(.*?)" y="(.*?)" width="(.*?)"', drawn)[-1])
        assert 0 <= x <= 112 - side and 0 <= y <= 100 - side


def test_pages_that_are_cut_off_at_the_end_are_no_failure_and_all_else_is_said() -> None:
    """uvicorn cancels what lasts longer than it waits, and logs each as an exception of the application."""
    for error, news in ((asyncio.CancelledError("graceful shutdown exceeded"), False), (ValueError("a bug"), True)):
        line = (logging.ERROR, "", 0, "Exception in ASGI application", (), (type(error), error, None))
        assert app._is_news(logging.LogRecord("uvicorn.error", *line)) == news
