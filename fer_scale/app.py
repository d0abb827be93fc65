"""`fer-scale app`: a page in the browser where pictures are judged by an expression model (the extra `app`: gradio).

It is served on this machine alone unless another host is asked for. A picture that is given lies in a folder of TMPDIR
until it is answered; what was seen goes back within the page, so nothing else is written. No page of it asks another
server for anything: gradio's theme brings its fonts, what it would tell its makers is off, and the browser is told to
ask nobody else, whatever a stranger's card has in it.
"""

import asyncio
import errno
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from fer_scale import app_page, artifact, card_reading, encoder, hub, log, photos, predict, scratch
from shards.errors import UserError

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from gradio import route_utils
except ImportError:
    gr = None

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PORT = 7860
MIN_CONFIDENCE = 0.5  # below, a calibrated model is wrong more often than right
_PAGE_MB = 50  # the largest picture that is taken
_LEFT_S = 300  # for how long a picture may lie that was given and never asked about
_CLOSING_S = 2  # pages that are open are not waited for longer
_POLICY = (  # gradio makes functions of its templates, hence unsafe-eval
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
_CLOSED = tuple(  # by these gradio gives files out, fetches what it is told to, or keeps what it is sent
    f"/gradio_api/{route}" for route in ("file", "proxy", "stream", "deep_link", "process_recording")
)


class AppError(UserError):
    """A page that cannot be served as asked."""


def serve(
    address: str, *, host: str = "127.0.0.1", port: int = PORT, faces: predict.Faces = "all",
    min_confidence: float = MIN_CONFIDENCE, detector: str | Path | None = None, key: Path | None = None,
    show: bool = False,
) -> None:  # fmt: skip
    """Serve the page of the model at `address` until Ctrl-C (KeyboardInterrupt) or SIGTERM (SystemExit with 143).

    Port 0 is any free one; the page's address is printed. `faces`, `min_confidence`, `detector` and `key` are those of
    predict; `show` opens a browser.
    """
    if gr is None:
        raise AppError("the app needs gradio: pip install 'fer_scale[app]'")
    if not 0 <= min_confidence <= 1:
        raise AppError(f"--min-confidence {min_confidence:g}: must be a probability, 0 to 1")
    with _listening(host, port) as listening, scratch.folder() as given, _ending():
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(given)}
        local = listening.getsockname()[0] in ("127.0.0.1", "::1")
        with log.progress(f"pulling {address}", "bytes") as tick:
            pulled = hub.pull(address, key=key, progress=tick)
        model = predict.load(pulled.address, faces=faces, detector=detector, key=key)
        words = app_page.Words(
            name=address if hub.is_remote(address) else Path(address).resolve().name,
            card=card_reading.read(pulled.folder),
            licence=artifact.licence(pulled.folder, encoder.config_of(pulled.folder)),
            privacy=app_page.HERE if local else app_page.SERVED,
            min_confidence=min_confidence,
        )
        _run(_page(model, words, given), listening, local=local, show=show)


# ---- the page


def _page(model: predict.Model, words: app_page.Words, given: Path) -> Any:
    """The page, whose pictures are given into the folder `given`; gradio is told to keep nothing and to tell nobody."""
    of_crops = replace(model, finder=None)

    def judged(file: str | None, is_crop: bool) -> tuple[None, str]:
        """What is seen in the picture that was given, which is deleted; the field is empty for the next."""
        asked = of_crops if is_crop else model
        return None, "" if file is None else _judged(asked, Path(file), words.min_confidence)

    with gr.Blocks(title=words.title, analytics_enabled=False, delete_cache=(60, _LEFT_S)) as page:
        gr.Markdown(app_page.head(words))
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                picture = gr.Image(
                    type="filepath", sources=["upload", "webcam", "clipboard"], buttons=[], height=260,
                    label="Picture: a file, from the camera, or pasted", placeholder=app_page.GIVE,
                )  # fmt: skip
                picture.preprocess = lambda said: said and _given(said.path, given)  # photos.py knows more kinds
                is_crop = gr.Checkbox(label=app_page.CROP, visible=bool(model.finder))
                for field in (picture, is_crop):
                    field.async_move_resource_to_block_cache = _as_named
                seen = gr.HTML()
            with gr.Column(scale=2, min_width=320):
                for part in app_page.limits(words):
                    gr.Markdown(part)
        picture.input(judged, [picture, is_crop], [picture, seen], api_visibility="private", show_progress="minimal")
    return page


async def _as_named(path: str) -> str:
    """The path itself: gradio would copy any file or fetch any address that is named to it."""
    return path


def _given(path: str, given: Path) -> str:
    """The path if it is one that was given out for a picture.

    Whoever reaches the page can name any, and what is asked about is deleted; only a server that gradio has launched
    itself checks that.
    """
    if path not in map(str, given.glob("*/*")):
        raise gr.Error("This picture is not there any more; give it again.", print_exception=False)
    return path


def _judged(model: predict.Model, file: Path, min_confidence: float) -> str:
    try:
        pixels = photos.upright(file)
    except UserError as error:
        return app_page.problem(str(error).replace(str(file), file.name))
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)  # which holds nothing else
    [photo] = model.predict([pixels], min_confidence=min_confidence)
    return app_page.answer(photo, Image.fromarray(pixels))


# ---- the server


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, before minutes are spent on a model."""
    if not 0 <= port < 1 << 16:
        raise AppError(f"--port {port}: there are ports 1 to 65535, and 0 for any free one")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.create_server(place[:2], family=family)
    except (OSError, UnicodeError) as error:
        said = {
            errno.EADDRINUSE: "another program listens there; choose another --port, or --port 0 for any free one",
            errno.EACCES: "only root may listen there; choose a --port from 1024 on",
            errno.EADDRNOTAVAIL: "this machine has no such address; --host is 127.0.0.1 unless others shall see it",
        }
        words = f"cannot be listened to ({error}); --host is a name or address of this machine"
        raise AppError(f"{host}:{port}: {said.get(getattr(error, 'errno', 0), words)}") from None
    with opened:
        yield opened


@contextmanager
def _ending() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does, with what was given deleted, and the exit code 143."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(page: Any, listening: socket.socket, *, local: bool, show: bool) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://{'[' + host + ']' if ':' in host else host}:{port}"
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), page, "", theme=gr.themes.Default(), css=app_page.STYLE, footer_links=[],
        run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
        max_file_size=f"{_PAGE_MB}mb",
    )  # fmt: skip
    if not local:
        log.say("note     whoever reaches this machine can use the page: without a password, and without encryption")
    print(url, flush=True)
    log.say("Ctrl-C ends it")
    if show:
        # It waits until the page is served, and some, as w3m, until they are ended.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    _lying_apart()
    config = uvicorn.Config(_guarded(app, local=local), log_level="warning", timeout_graceful_shutdown=_CLOSING_S)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    uvicorn.Server(config).run(sockets=[listening])


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the server's line is worth a look: that a page which was open at the end was cut off is not."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _lying_apart() -> None:
    """Have each picture lie in a folder of its own: gradio names it by the bytes alone, which two people may give."""
    made = route_utils.GradioUploadFile.__init__

    def salted(upload: Any, *args: Any, **more: Any) -> None:
        made(upload, *args, **more)
        upload.sha.update(secrets.token_bytes(16))

    route_utils.GradioUploadFile.__init__ = salted


def _guarded(app: Any, *, local: bool) -> Callable[[Message, Any, Send], Awaitable[None]]:
    """The app, whose answers tell the browser to ask no other server and to keep nothing; no picture is given out.

    A page of this machine alone is refused to what other pages in the browser ask.
    """
    headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]

    async def guarded(scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] == "http" and local and not _is_of_this_page(dict(scope["headers"])):
            return await _refuse(send, 403, b"This page is for this machine alone: http://localhost or 127.0.0.1\n")
        if scope["type"] == "http" and scope["path"].startswith(_CLOSED):
            return await _refuse(send, 204)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [] if scope["path"].startswith("/assets/") else [(b"cache-control", b"no-store")]
                message = {**message, "headers": [*message["headers"], *headers, *kept]}
            await send(message)

        await app(scope, receive, sending)

    return guarded


def _is_of_this_page(headers: dict[bytes, bytes]) -> bool:
    """Whether a name of this machine is asked, none that a stranger's DNS makes mean it, and by no other page.

    The port is not compared: it is another one where the page is reached through a tunnel.
    """
    host = headers.get(b"host", b"")
    ours = re.fullmatch(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", host)
    return ours is not None and headers.get(b"origin", b"http://" + host) == b"http://" + host


async def _refuse(send: Send, status: int, text: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})
