"""What a set far away promises: the bytes of the index or plain words, each shard once a node, within the cap."""

import errno
import hashlib
import importlib.util
import json
import os
import pickle
import random
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

try:
    import s3fs
except ImportError:
    s3fs = None

from shards import access, cache, patience, remote, transfer
from shards.errors import Broken, ShardError
from shards.index import ShardSet
from shards.pack import pack
from shards.remote import RemoteSet, open_set
from shards.transfer import DiskTrouble, NoAnswer, NoRight, NotThere, OtherBytes, RemoteError
from shards.verify import verify

sys.path.append(str(Path(__file__).parents[1]))  # `hub` is tests/hub; `servers` lies beside this file
from hub.server import Hub

sys.path.append(str(Path(__file__).parent))
from servers import HERE_AND_THERE, Web, _Server, reader

TAR = r"\.tar$"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    monkeypatch.setattr(transfer, "WAIT_S", 0.01)
    monkeypatch.setattr(transfer, "DEADLINE_S", 5)


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in 7 shards of about 16 kB."""
    folder = tmp_path_factory.mktemp("far")
    (folder / "faces").mkdir()
    for number, noise in enumerate(np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), dtype=np.uint8)):
        Image.fromarray(noise).save(folder / "faces" / f"{number:03d}.jpg")
    return pack(folder / "faces", folder / "set", source="folder", name="made-up", shard_mb=0.016, workers=1).path


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> ShardSet:
    """The set in a folder that may be damaged."""
    return ShardSet.open(shutil.copytree(packed_once, tmp_path / "set"))


@pytest.fixture
def web(packed: ShardSet) -> Iterator[Web]:
    """A server of the packed set."""
    server = Web(packed.path)
    yield server
    server.stop()


def digest(faces: ShardSet) -> str:
    return hashlib.sha256(b"".join(sample.image for sample in faces.samples_in_order())).hexdigest()


def needed(faces: ShardSet) -> Counter[str]:
    """What reading the whole set takes: the bytes of each file."""
    names = [f"{shard['name']}.{kind}" for shard in faces.index["shards"] for kind in ("tar", "idx")]
    return Counter({name: (faces.path / name).stat().st_size for name in ["index.json", *names]})


def served(web: Web, expected: Counter[str]) -> bool:
    """Whether the server has sent exactly this: it counts a moment after the client has it."""
    end = time.monotonic() + 1
    while web.served != expected and time.monotonic() < end:
        time.sleep(0.01)
    if web.served != expected:
        print(f"too many bytes: {web.served - expected}, too few: {expected - web.served}")
    return web.served == expected


def until(true: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def cached(folder: Path, kind: str = "") -> list[str]:
    """The names in the cache."""
    return sorted(file.name for file in folder.glob(f"*{kind}") if file.name not in ("lock", "said"))


def seen(failed: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, and all that a traceback with its variables could show of our code."""
    return str(failed.value) + "".join(repr(entry.frame.f_locals) for entry in failed.traceback[1:])


def used(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in cached(folder))


# ---- reading


def test_a_set_far_away_reads_like_the_one_on_disk(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    far = open_set(web.url, tmp_path / "cache", 1)
    assert (far.name, far.counts, far.fingerprint) == (packed.name, packed.counts, packed.fingerprint)
    assert [far.keys(shard) for shard in range(7)] == [packed.keys(shard) for shard in range(7)]
    assert web.requests == ["index.json"]
    assert list(far.samples_in_order()) == list(packed.samples_in_order())
    assert [far.keys(2), far.origins(2), far.where(2, 1)] == [packed.keys(2), packed.origins(2), packed.where(2, 1)]
    assert [a.tolist() for a in far.hashes()] == [a.tolist() for a in packed.hashes()]
    assert digest(far) == digest(packed)
    assert max(Counter(web.requests).values()) == 1


def test_a_set_far_away_is_verified_as_it_is_fetched(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert verify(web.url, decode=True) == verify(packed.path, decode=True)
    with monkeypatch.context() as patch:
        patch.setattr("shards.verify.sha256", Mock(side_effect=AssertionError("hashed a second time")))
        assert verify(web.url)["damaged"] == []
    shutil.rmtree(tmp_path / ".cache")
    damage(packed.file(3, "tar"))
    damage(packed.file(5, "idx"))
    found = {each["where"]: each["what"] for each in verify(web.url)["damaged"]}
    assert list(found) == ["made-up/made-up-000003.tar", "made-up/made-up-000005.idx"]
    assert all("arrives with other bytes than index.json says" in what for what in found.values())


def test_what_is_damaged_here_alone_is_no_damage_of_the_set_far_away(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    far = open_set(web.url)
    for kind in ("tar", "idx", "hashes", "origin.gz"):
        damage(far.file(0, kind))
    assert [a.tolist() for a in far.hashes()] == [a.tolist() for a in packed.hashes()]
    assert verify(web.url)["damaged"] == []
    damage(packed.file(0, "hashes"))
    with pytest.raises(ShardError, match=r"made-up-000000.hashes: other bytes than were packed"):
        packed.hashes()


def test_a_set_far_away_is_verified_by_what_its_server_has_now_whatever_lies_in_the_cache(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, far = tmp_path / ".cache" / "fer_scale", open_set(web.url)
    for shard in range(7):
        sound = [far.file(shard, kind) for kind in ("tar", "idx", "hashes", "origin.gz")]
    before = cached(folder)
    packed.file(0, "tar").unlink()
    damage(packed.file(1, "tar"))
    packed.file(2, "origin.gz").unlink()
    for decode in (False, True):
        found = {each["where"]: each["what"] for each in verify(web.url, decode=decode)["damaged"]}
        assert list(found) == [f"made-up/made-up-{name}" for name in ("000000.tar", "000001.tar", "000002.origin.gz")]
        assert "000000.tar: not there (404)" in found["made-up/made-up-000000.tar"]
        assert "arrives with other bytes" in found["made-up/made-up-000001.tar"]
    assert cached(folder) == before and all(file.exists() for file in sound), "and those who read go on with theirs"


def test_verifying_a_set_far_away_takes_the_room_of_one_shard_and_leaves_nothing(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, most, done = tmp_path / ".cache" / "fer_scale", 0, list[int]()
    fill = cache.Cache._fill

    def filled(self: cache.Cache, *args: Any) -> int:
        nonlocal most
        fd = fill(self, *args)
        most = max(most, sum(file.stat().st_size for file in folder.glob("*/*")))
        return fd

    monkeypatch.setattr(cache.Cache, "_fill", filled)
    with cache.empty(folder) as held:
        for left in ("empty-of-the-dead", held.name):
            (folder / left).mkdir(exist_ok=True)
            (folder / left / "held").touch()
        assert verify(web.url, decode=True, progress=lambda now, of: done.append(now))["damaged"] == []
        assert cached(folder) == [held.name]
    assert cached(folder) == [] and done[-1] == 60 and len(done) == 7
    files = [
        sum(packed.file(n, kind).stat().st_size for kind in ("tar", "idx", "hashes", "origin.gz")) for n in range(7)
    ]
    assert most == max(files)


def test_an_outage_is_no_damage(web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    web.add("status", "0002" + TAR, status=503, headers={"Retry-After": "86400"})
    with pytest.raises(NoAnswer):
        verify(web.url)


def test_an_address_may_be_a_folder(packed: ShardSet, tmp_path: Path) -> None:
    near = open_set(packed.path, tmp_path / "cache", 1)
    assert type(near) is ShardSet
    assert near.fingerprint == packed.fingerprint
    near.prefetch([0, 1])
    assert not (tmp_path / "cache").exists()


def test_files_are_named_by_their_content_and_found_under_another_address(
    web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    digest(open_set(web.url, tmp_path / "cache", 1))
    assert cached(tmp_path / "cache", ".tar") == sorted(f"{s['sha256']}.tar" for s in packed.index["shards"])
    other = Web(packed.path)
    assert digest(open_set(other.url, tmp_path / "cache", 1)) == digest(packed)
    assert other.requests == ["index.json"]
    other.stop()


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[700 % len(data)] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("kind", ["tar", "idx"])
def test_a_file_that_is_damaged_in_the_cache_is_fetched_anew_by_all_who_have_it_open(
    kind: str, web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    one, other = (open_set(web.url, tmp_path / "cache", 1) for _ in range(2))
    for far in (one, other):
        if kind == "tar":  # of an .idx what was read once stays in memory
            far.read(0, 0)
    damage(one.file(0, kind))
    assert digest(one) == digest(other) == digest(packed)
    assert web.requests.count(f"made-up-000000.{kind}") == 2


def test_a_file_that_is_damaged_again_and_again_is_said_to_be(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    far = open_set(web.url, tmp_path / "cache", 1)
    far.read(0, 0)
    for _ in range(2):
        damage(far.file(0, "tar"))
        damaged = [row for row in range(packed.counts[0]) if not readable(far, row)]
    assert len(damaged) == 1 and web.requests.count("made-up-000000.tar") == 2


def readable(shards: ShardSet, row: int) -> bool:
    try:
        shards.read(0, row)
        return True
    except ShardError as error:
        return "other bytes than were packed" not in str(error)


def test_a_file_in_the_cache_that_was_cut_short_is_fetched_anew(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    far = open_set(web.url, tmp_path / "cache", 1)
    os.truncate(far.file(0, "tar"), 1000)
    assert digest(far) == digest(packed)


# ---- faults


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 502, "headers": {"RateLimit": '"api";r=499;t=300', "Retry-After": "86400"}},
        {"kind": "status", "status": 503, "headers": {"RateLimit": '"api";r=499;t=300', "Retry-After": "1"}},
        {"kind": "status", "status": 503, "headers": {"Retry-After": "1"}},
        {"kind": "status", "status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=1'}},
        {"kind": "cut", "bytes": 5000},
        {"kind": "cut", "bytes": 0},
        {"kind": "reset", "bytes": 5000},
        {"kind": "stall", "bytes": 5000, "seconds": 0.1},
        {"kind": "stall", "bytes": 5000, "seconds": 0.5},
        {"kind": "wrong"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_one_fault_costs_a_moment(fault: dict[str, Any], web: Web, packed: ShardSet, tmp_path: Path) -> None:
    web.add(path="0001" + TAR, **fault)
    began = time.monotonic()
    assert digest(open_set(web.url, tmp_path / "cache", 1)) == digest(packed)
    assert len(web.fired) == 1
    if fault.get("status") in (429, 503):
        assert 1 <= time.monotonic() - began < 2, "the pause that the server asks for"
    if fault["kind"] in ("cut", "stall", "status"):
        assert served(web, needed(packed)), "it goes on where it stopped"


def test_without_ranges_a_cut_file_begins_anew(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    web.ranges = False
    web.add("cut", "0001" + TAR, bytes=5000)
    assert digest(open_set(web.url, tmp_path / "cache", 1)) == digest(packed)
    assert served(web, needed(packed) + Counter({"made-up-000001.tar": 5000}))


def test_without_ranges_a_line_that_is_always_cut_ends_in_plain_words(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "DEADLINE_S", 0.3)
    web.ranges = False
    web.add("cut", "0001" + TAR, bytes=5000, times=1000)
    far = open_set(web.url, tmp_path / "cache", 1)
    with pytest.raises(NoAnswer, match=r"/made-up-000001.tar: nothing comes \(cut off at byte 5000\), given up"):
        far.read(1, 0)


def test_wrong_bytes_are_refused_after_a_second_fetch(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    web.add("wrong", "0001" + TAR, times=2)
    far = open_set(web.url, tmp_path / "cache", 1)
    with pytest.raises(OtherBytes, match=r"/set/made-up-000001.tar: arrives with other bytes than index.json says"):
        far.read(1, 0)
    assert web.requests.count("made-up-000001.tar") == 2
    assert not cached(tmp_path / "cache", ".part") and not cached(tmp_path / "cache", ".tar")
    assert far.read(1, 0) == packed.read(1, 0), "and nothing of it is kept"


@pytest.mark.parametrize("change", [-512, 512])
def test_a_shard_of_another_length_is_refused(change: int, web: Web, packed: ShardSet, tmp_path: Path) -> None:
    file = packed.file(1, "tar")
    os.truncate(file, file.stat().st_size + change)
    with pytest.raises(OtherBytes):
        open_set(web.url, tmp_path / "cache", 1).read(1, 0)
    assert web.requests.count(file.name) == 2


def test_a_length_that_is_no_number_is_as_none(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said twice, as proxies join it: RFC 9110, 8.6."""
    handler = web._server.RequestHandlerClass
    twice: Any = lambda length: {"Content-Length": f"{length}, {length}", "Connection": "close"}  # noqa: E731
    said: Any = lambda self, status, length, headers: head(self, status, length, headers | twice(length))  # noqa: E731
    head = handler._head
    monkeypatch.setattr(handler, "_head", said)
    assert open_set(web.url, tmp_path / "cache", 1).read(1, 0) == packed.read(1, 0)


@pytest.mark.parametrize("seed", range(50))
def test_random_faults_lose_nothing_and_fetch_nothing_twice(
    seed: int, web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    kinds = ["status", "cut", "stall", "wrong"]
    files = [*needed(packed)]
    for _ in range(draw.randrange(1, 9)):
        kind = draw.choice(kinds)
        web.add(
            kind,
            "json$" if kind != "wrong" and draw.random() < 0.1 else draw.choice(files[1:]),
            bytes=draw.randrange(20_000),
            status=draw.choice([408, 429, 500, 502, 503, 504]),
            seconds=draw.choice([0.01, 0.4]),
        )
    far = open_set(web.url, tmp_path / "cache", 1)
    far.prefetch(draw.sample(range(len(far.counts)), draw.randrange(len(far.counts))))
    try:
        assert digest(far) == digest(packed)
    except OtherBytes as error:
        struck = Counter(fault.path for fault in web.fired if fault.kind == "wrong")
        assert any(name in str(error) for name, times in struck.items() if times > 1), "after the second time only"
        return
    until(lambda: far._ahead._threads == 0)
    wrong = Counter(fault.path for fault in web.fired if fault.kind == "wrong")
    again = Counter({name: times * needed(packed)[name] for name, times in wrong.items()})
    assert served(web, needed(packed) + again)


def test_a_part_that_turns_out_to_be_all_is_taken(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    whole = packed.file(0, "origin.gz").read_bytes()
    part = tmp_path / "cache" / f"{packed.index['shards'][0]['origin_sha256']}.origin.gz.0.part"
    part.write_bytes(whole)
    assert open_set(web.url, tmp_path / "cache", 1).origins(0) == packed.origins(0)
    assert web.served["made-up-000000.origin.gz"] == 0


def test_a_server_in_trouble_is_asked_ever_less_often(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WAIT_S", 0.02)
    monkeypatch.setattr(transfer, "DEADLINE_S", 1)
    web.add("status", TAR, times=1000)
    with pytest.raises(NoAnswer, match=r"nothing comes \(the server answers 500\), given up"):
        open_set(web.url, tmp_path / "cache", 1).read(0, 0)
    assert 5 <= web.requests.count("made-up-000000.tar") <= 8


# ---- what cannot be had


def test_errors_say_what_and_where_in_plain_words(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=rf"{web.url}/nowhere/index.json: not there \(404\)"):
        open_set(f"{web.url}/nowhere", tmp_path / "cache", 1)
    far = open_set(web.url, tmp_path / "cache", 1)
    packed.file(1, "tar").unlink()
    with pytest.raises(NotThere, match=r"made-up-000001.tar: not there"):
        far.read(1, 0)
    web.add("status", "0002" + TAR, status=403)
    with pytest.raises(NoRight, match=r"made-up-000002.tar: the server refuses to give it \(403\)"):
        far.read(2, 0)
    web.add("status", "0002" + TAR, status=418)
    with pytest.raises(RemoteError, match=r"made-up-000002.tar: the server answers 418"):
        far.read(2, 0)
    web.add("status", "0002" + TAR, status=503, headers={"Retry-After": "86400"})
    with pytest.raises(NoAnswer, match=r"answers 503, come again in 86400 s\), given up"):
        far.read(2, 0)


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What those who wait for a server go by."""
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


LIMITED = {"status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=250'}}


@pytest.mark.parametrize("path", ["index.json", TAR])
def test_a_pause_that_the_server_names_is_waited_for_beyond_the_patience(
    path: str, clock: Clock, web: Web, packed: ShardSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The Hub counts requests over five minutes, and a small file or a shard is given up after less without a byte."""
    web.add("status", path, **LIMITED)
    web.add("status", path)  # what troubles it afterwards has the whole patience again
    assert open_set(web.url, tmp_path / "cache", 1).read(0, 0) == packed.read(0, 0)
    assert len(web.fired) == 2 and 250 < clock.now < 251 and max(clock.slept) <= 10, "it can be stopped, and speaks"
    if path == "index.json":
        said = f"waiting for {web.url}/index.json; the server answers 429, come again in 250 s, trying again\n"
        assert capfd.readouterr().err == said


def test_pauses_that_the_server_names_end_with_its_window(clock: Clock, web: Web, tmp_path: Path) -> None:
    far = open_set(web.url, tmp_path / "cache", 1)
    web.add("status", TAR, times=1000, **LIMITED)
    words = r"answers 429, come again in 250 s\), given up; the server limits requests: start again in 250 s: what"
    with pytest.raises(NoAnswer, match=words):
        far.read(0, 0)
    assert len(web.fired) == 2 and clock.now == 250
    web.forget()
    web.add("status", TAR, status=503, headers={"Retry-After": "311"})
    with pytest.raises(NoAnswer, match="the server limits requests: start again in 311 s"):
        far.read(0, 0)
    assert clock.now == 250, "nobody waits for what is too long"


def test_every_byte_renews_the_patience_and_the_window(
    clock: Clock, web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    for _ in range(3):
        web.add("cut", "0000" + TAR, bytes=3000)
        web.add("status", "0000" + TAR, **LIMITED)
    assert open_set(web.url, tmp_path / "cache", 1).read(0, 0) == packed.read(0, 0)
    assert len(web.fired) == 6 and clock.now > 750


def test_an_address_may_have_any_letters(web: Web, tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"/größe/index.json: not there \(404\)"):
        open_set(f"{web.url}/größe", tmp_path / "cache", 1)


@pytest.mark.parametrize(
    ("to", "follows"), [("https://hub/b", True), ("https://other/b", False), ("http://hub/b", False)]
)
@pytest.mark.parametrize("proxy", ["", "other:3128"])
def test_a_token_follows_a_redirect_within_its_own_server_alone_and_so_behind_a_proxy(
    to: str, follows: bool, proxy: str
) -> None:
    request = urllib.request.Request("https://hub/a")
    request.add_unredirected_header("Authorization", "Bearer hf_x")
    if proxy:
        request.set_proxy(proxy, "http")
    new = transfer._Redirects().redirect_request(request, BytesIO(), 302, "Found", Message(), to)
    assert new is not None and new.has_header("Authorization") == follows


def test_no_error_of_fetching_is_one_of_a_sample() -> None:
    """A ShardError costs a sample, which is replaced; all of these concern whole shards, and must stop the run."""
    assert not issubclass(RemoteError, ShardError)
    assert issubclass(NoAnswer, Broken) and not issubclass(RemoteError, Broken), "what an outage ends is started again"
    error = OtherBytes("what", "more")
    assert pickle.loads(pickle.dumps(error)).args == error.args, "a reader process sends it to its rank"


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    monkeypatch.setattr(transfer, "DEADLINE_S", 1)
    web.stop()
    with pytest.raises(NoAnswer, match=r"index.json: nothing comes \(ConnectionRefusedError .*look at network"):
        open_set(web.url, tmp_path / "cache", 1)


def test_a_certificate_that_is_not_trusted_is_no_outage(tmp_path: Path) -> None:
    """Somebody must mend it, so no run is started again for it."""
    key, web = tmp_path / "key.pem", _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    with pytest.raises(RemoteError, match=r"certificate is not trusted \(.*set SSL_CERT_FILE") as refused:
        open_set(f"https://localhost:{web.server_address[1]}/set", tmp_path / "cache", 1)
    web.shutdown()
    web.server_close()
    assert not isinstance(refused.value, Broken)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_without_an_end_is_given_up_and_not_kept(
    ranges: bool, web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.ranges = ranges
    monkeypatch.setattr(transfer, "_MOST_BYTES", 1 << 20)
    far = open_set(web.url, tmp_path / "cache", 1)
    for file in (packed.file(0, "origin.gz"), packed.path / "left_out.jsonl", packed.path / "index.json"):
        os.truncate(file, 3_000_000)
    web.add("cut", "origin", bytes=500_000)
    with pytest.raises(RemoteError, match=r"made-up-000000.origin.gz: has more than 1 MB, as no set's file has"):
        far.origins(0)
    assert not cached(tmp_path / "cache")
    with pytest.raises(RemoteError, match=r"left_out.jsonl: has more than 1 MB"):
        transfer.content(far.source, "left_out.jsonl")
    monkeypatch.setattr(remote, "INDEX_MB", 2)
    with pytest.raises(RemoteError, match=r"index.json: has more than 2 MB"):
        open_set(web.url, tmp_path / "cache", 1)
    monkeypatch.setattr(remote, "INDEX_MB", 64)
    with pytest.raises(ShardError, match=r"index.json: cannot be read"):
        open_set(web.url, tmp_path / "cache", 1)


def test_an_index_that_was_cut_short_is_asked_for_again_and_a_broken_one_refused(
    web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    web.add("cut", "json", bytes=100)
    assert open_set(web.url, tmp_path / "cache", 1).counts == packed.counts
    index = packed.path / "index.json"
    whole = index.read_text()
    index.write_text(whole[:100])
    with pytest.raises(ShardError, match=r"/set/index.json: cannot be read"):
        open_set(web.url, tmp_path / "cache", 1)
    index.write_text(whole.replace(packed.index["shards"][0]["sha256"], "../../../etc/passwd"))
    with pytest.raises(ShardError, match=r"/set/index.json: .*is no shard"):
        open_set(web.url, tmp_path / "cache", 1)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/set",
        "https://me:secret@host/set",
        "https://host/set?sig=secret",
        "hf://lab/faces",
        "hf://datasets/x",
        "https://[::1/set",
        "http://host:port/set",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(address: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="not understood; a set lies at hf://datasets/ORG/NAME") as refused:
        open_set(address, tmp_path / "cache", 1)
    assert "secret" not in str(refused.value)


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_said_plainly(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskTrouble, match=r"file/cache: Not a directory; a cache needs a folder"):
        open_set(web.url, tmp_path / "file" / "cache", 1).read(0, 0)
    far = open_set(web.url, tmp_path / "cache", 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_write", full)
    with pytest.raises(DiskTrouble, match=r"cache: the disk is full; make room, or lower data.cache_gb"):
        far.read(0, 0)


# ---- several processes


@pytest.mark.parametrize("options", [(), ("--ahead",)])
def test_processes_share_a_cache_and_fetch_each_shard_once(
    options: tuple[str, ...], web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    web.add("stall", TAR, times=3, bytes=3000, seconds=0.1)
    readers = [reader(web.url, tmp_path / "cache", *options) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in readers]
    assert said == [(digest(packed) + "\n", "")] * 3
    expected = needed(packed)
    expected["index.json"] *= 3
    assert served(web, expected)


def test_a_killed_fetcher_leaves_what_the_next_one_goes_on_with(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    web.add("stall", "0001" + TAR, bytes=5000, seconds=3)
    first = reader(web.url, tmp_path / "cache")
    until(lambda: [file for file in tmp_path.glob("cache/*.tar.*.part") if file.stat().st_size == 5000], 30)
    waiting = reader(web.url, tmp_path / "cache")
    until(lambda: web.requests.count("index.json") == 2, 30)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert waiting.communicate(timeout=60) == (digest(packed) + "\n", "")
    assert not cached(tmp_path / "cache", ".part")
    expected = needed(packed)
    expected["index.json"] *= 2
    assert served(web, expected)


@pytest.mark.slow
def test_whenever_a_fetcher_is_killed_the_next_one_reads_all(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    draw = random.Random(0)
    web.add("stall", TAR, times=10_000, bytes=8000, seconds=0.05)
    for _ in range(20):
        process = reader(web.url, tmp_path / "cache", gb=5e-5)
        until(lambda: "index.json" in web.requests, 30)
        web.forget()
        web.add("stall", TAR, times=10_000, bytes=8000, seconds=0.05)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.communicate()
    assert digest(open_set(web.url, tmp_path / "cache", 1)) == digest(packed)


@pytest.mark.slow
def test_processes_that_share_too_small_a_cache_read_nothing_wrong(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    gb = 3 * max(shard["bytes"] for shard in packed.index["shards"]) / 1e9
    options = [(str(packed.path), str(seed)) for seed in range(4)]
    readers = [reader(web.url, tmp_path / "cache", *each, gb=gb, script=HERE_AND_THERE) for each in options]
    for process in readers:
        said, errors = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "the same\n"), errors
    assert max(Counter(web.requests).values()) > 1, "the cache was large enough"


# ---- the cap


def test_the_cache_stays_within_its_size_and_drops_what_was_not_used_longest(
    web: Web, packed: ShardSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, sizes = tmp_path / "cache", [shard["bytes"] for shard in packed.index["shards"]]
    room = sum(sizes[:3]) + 2000
    far = open_set(web.url, folder, room / 1e9)
    for shard in (0, 1, 2):
        far.read(shard, 0)
    far._opened.clear()
    assert far.file(0, "tar").exists(), "looked for, though not read: the disk may not note it, or not when it is read"
    far.read(3, 0)
    assert used(folder) <= room
    assert f"{packed.index['shards'][0]['sha256']}.tar" in cached(folder)
    assert f"{packed.index['shards'][1]['sha256']}.tar" not in cached(folder)
    rows = [(shard, row) for shard, count in enumerate(packed.counts) for row in range(count)]
    for shard, row in random.Random(0).sample(rows, len(rows)):
        assert far.read(shard, row) == packed.read(shard, row)
        assert used(folder) <= room
    assert capfd.readouterr().err == ""


def test_what_another_process_has_open_stays_there(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    folder, room = tmp_path / "cache", 3 * max(shard["bytes"] for shard in packed.index["shards"])
    other, far = open_set(web.url, folder, room / 1e9), open_set(web.url, folder, room / 1e9)
    other.read(0, 0)
    digest(far)
    assert f"{packed.index['shards'][0]['sha256']}.tar" in cached(folder)
    assert web.requests.count("made-up-000000.tar") == 1
    other._opened.clear()
    digest(far)
    assert f"{packed.index['shards'][0]['sha256']}.tar" not in cached(folder)


def test_what_is_wanted_next_stays_there_until_it_is_past(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    folder, room = tmp_path / "cache", 4 * max(shard["bytes"] for shard in packed.index["shards"])
    ahead, far = open_set(web.url, folder, room / 1e9), open_set(web.url, folder, room / 1e9)
    ahead.prefetch([0, 1])
    until(lambda: {"made-up-000000.tar", "made-up-000001.tar"} <= set(web.requests))
    digest(far)
    assert web.requests.count("made-up-000000.tar") == web.requests.count("made-up-000001.tar") == 1
    ahead.prefetch([1])
    digest(far)
    digest(far)
    assert web.requests.count("made-up-000000.tar") > web.requests.count("made-up-000001.tar") == 1


def test_a_cap_that_is_too_small_is_exceeded_and_said_once(
    web: Web, packed: ShardSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache._say_full.cache_clear()
    assert digest(open_set(web.url, tmp_path / "cache", 1e-6)) == digest(packed)
    said = capfd.readouterr().err
    assert said.count("data.cache_gb = 1e-06 holds less than is read at once") == 1
    assert len(cached(tmp_path / "cache", ".tar")) <= 1


# ---- ahead of need


def test_what_comes_next_is_fetched_in_its_order_as_far_as_there_is_room(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_THREADS", 1)
    sizes = [shard["bytes"] for shard in packed.index["shards"]]
    room = sum(sizes[:3]) * 1.1  # two are less than three quarters of it, three are more
    far = open_set(web.url, tmp_path / "cache", room / 1e9)
    far.prefetch([2, 0, 1, 3])
    until(lambda: far._ahead._threads == 0)
    assert [name for name in web.requests if name.endswith(".tar")] == ["made-up-000002.tar", "made-up-000000.tar"]
    far.prefetch([0, 1, 3])
    until(lambda: far._ahead._threads == 0)
    tars = [name for name in web.requests if name.endswith(".tar")]
    assert tars == ["made-up-000002.tar", "made-up-000000.tar", "made-up-000001.tar"]
    before = list(web.requests)
    assert [far.read(0, 0), far.read(1, 0)] == [packed.read(0, 0), packed.read(1, 0)]
    assert web.requests == before


def test_what_cannot_be_fetched_ahead_is_said_to_whoever_reads_it(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    packed.file(1, "tar").unlink()
    far = open_set(web.url, tmp_path / "cache", 1)
    far.prefetch([1, 0])
    until(lambda: far._ahead._threads == 0)
    far.prefetch([1, 0, 2])
    until(lambda: far._ahead._threads == 0)
    assert web.requests.count("made-up-000001.tar") == 1
    with pytest.raises(NotThere, match=r"made-up-000001.tar"):
        far.read(1, 0)
    assert far.read(0, 0) == packed.read(0, 0)


@pytest.mark.parametrize("trouble", ["outage", "full disk"])
def test_what_may_pass_ends_fetching_ahead_until_the_next_call_only(
    trouble: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote, "_THREADS", 1)
    far = open_set(web.url, tmp_path / "cache", 1)
    with monkeypatch.context() as troubled:
        if trouble == "outage":
            web.add("status", "0001" + TAR, status=503, headers={"Retry-After": "86400"})
        else:
            troubled.setattr(transfer, "_write", full)
        far.prefetch([1, 0])
        until(lambda: far._ahead._threads == 0)
    assert web.requests == ["index.json", "made-up-000001.tar"], "nobody asks on and on"
    far.prefetch([1, 0])
    until(lambda: far._ahead._threads == 0)
    assert sorted(far._ahead._held) == [0, 1]


def test_a_copy_in_another_process_fetches_with_threads_of_its_own(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_THREADS", 1)
    web.add("stall", "0000" + TAR, bytes=5000, seconds=0.2)
    far = open_set(web.url, tmp_path / "cache", 1)
    far.prefetch([0])
    until(lambda: web.served["made-up-000000.tar"] == 5000)
    child = os.fork()
    if not child:
        same = False
        try:
            far.prefetch([1])
            until(lambda: far._ahead._threads == 0)
            same = 1 in far._ahead._held and far.read(1, 0) == packed.read(1, 0)
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    again = pickle.loads(pickle.dumps(far))
    again.prefetch([2])
    until(lambda: again._ahead._threads == 0)
    assert isinstance(again, RemoteSet) and again.read(2, 0) == packed.read(2, 0)
    assert max(Counter(web.requests).values()) == 1


def test_what_arrives_when_it_is_no_longer_wanted_is_let_go(web: Web, tmp_path: Path) -> None:
    web.add("stall", "0000" + TAR, bytes=5000, seconds=0.2)
    far = open_set(web.url, tmp_path / "cache", 1)
    far.prefetch([0])
    until(lambda: web.served["made-up-000000.tar"] == 5000)
    far.prefetch([1])
    until(lambda: far._ahead._threads == 0)
    assert len(cached(tmp_path / "cache", ".tar")) == 2
    links = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    held = [link.readlink().name for link in links if link.exists() and link.readlink().parent == tmp_path / "cache"]
    assert sorted(held) == sorted(far.cache.path(far._item(1, kind)).name for kind in ("tar", "idx"))


def test_shards_that_were_not_read_for_long_are_closed(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_IDLE_S", 0.2)
    far = open_set(web.url, tmp_path / "cache", 1)
    far.read(0, 0)
    far.read(1, 0)
    time.sleep(0.25)
    far.read(1, 0)
    far.read(2, 0)
    assert sorted(far._opened) == [1, 2]


def test_a_long_wait_shows_how_far_it_is(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "_SPEAK_S", 0.1)
    web.add("stall", "0000" + TAR, bytes=5000, seconds=0.2)
    open_set(web.url, tmp_path / "cache", 1).read(0, 0)
    assert capfd.readouterr().err == f"waiting for {web.url}/made-up-000000.tar: 0 of 0 MB\n"


# ---- the Hub


TOKEN = "hf_alicewritestolab"


@pytest.fixture
def hub_server(tmp_path: Path, packed: ShardSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the private dataset lab/faces: the packed set on main, and tagged v1; nobody is logged in."""
    server = Hub(tmp_path / "server")
    repo = server.store.create("datasets/lab/faces", private=True)
    files = {}
    for file in packed.path.iterdir():
        sha256 = server.store.keep(file.read_bytes())
        large = file.suffix == ".tar"
        files[file.name] = server.store.large(sha256) if large else server.store.small(file.read_bytes())
    repo.tags["v1"] = repo.commit(files, "the set").sha
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token here"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.stop()


def test_a_private_dataset_of_the_hub_is_read_with_the_token_of_the_environment(
    hub_server: Hub, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    far = open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)
    hub_server.faults.add("cut", "GET", "/cdn/")
    assert digest(far) == digest(packed)
    process = reader("hf://datasets/lab/faces@v1", tmp_path / "other")
    assert TOKEN not in Path(f"/proc/{process.pid}/cmdline").read_text()
    assert process.communicate(timeout=60) == (digest(packed) + "\n", "")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert digest(open_set("hf://datasets/lab/faces", tmp_path / "third", 1)) == digest(packed)


def test_a_revision_becomes_a_commit_when_it_is_opened_and_stays_that(
    hub_server: Hub, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    far = open_set("hf://datasets/lab/faces@main", tmp_path / "cache", 1)
    repo = hub_server.store.repos["datasets/lab/faces"]
    first = repo.branches["main"]
    assert far.address == f"hf://datasets/lab/faces@{first}" and packed.address is None
    repo.commit({}, "emptied")
    assert digest(far) == digest(packed)
    with pytest.raises(NotThere, match=r"hf://datasets/lab/faces@[0-9a-f]{40}/index.json: not there"):
        open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)


def test_a_folder_of_a_dataset_may_hold_the_set(
    hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    repo = hub_server.store.repos["datasets/lab/faces"]
    repo.commit({f"sets/one/{name}": file for name, file in repo.at("main").files.items()}, "moved")
    far = open_set("hf://datasets/lab/faces/sets/one", tmp_path / "cache", 1)
    assert far.read(0, 0).key == "000000000"


@pytest.mark.parametrize(
    ("address", "token", "error", "words"),
    [
        ("lab/faces", None, NoRight, "no such dataset on the Hub, or it is private: then log in"),
        ("lab/faces", "hf_bobisastranger", NotThere, "no such dataset on the Hub, or this token may not see it"),
        (
            "lab/faces",
            "hf_expired",
            NoRight,
            "no such dataset on the Hub, or this token may not see it, or has expired",
        ),
        ("lab/faces@v2", TOKEN, NotThere, "lab/faces@v2: no such branch, tag or commit there"),
        ("lab/nothing", TOKEN, NotThere, "lab/nothing: no such dataset on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    address: str, token: str | None, error: type, words: str, hub_server: Hub, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=words) as refused:
        open_set(f"hf://datasets/{address}", tmp_path / "cache", 1)
    assert not token or token not in seen(refused)


@pytest.mark.parametrize("answer", ["<html>log in to this network</html>", "[]", '{"sha": "../../main"}'])
def test_what_is_no_hub_is_noticed(
    answer: str, web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = packed.path / "api" / "datasets" / "lab" / "faces" / "revision" / "main"
    page.parent.mkdir(parents=True)
    page.write_text(answer)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    with pytest.raises(RemoteError, match="does not answer as the Hub does; look at HF_ENDPOINT and proxy"):
        open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)


@pytest.mark.parametrize("endpoint", ["http://mirror.example.net", "http://10.0.0.7:8080"])
def test_an_endpoint_that_anybody_on_the_way_may_answer_for_gets_no_request(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(transfer._OPENER, "open", lambda request, timeout: asked.append(request))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", endpoint + "/")
    with pytest.raises(RemoteError, match=f"HF_ENDPOINT={endpoint}: anybody on the way could answer for it") as refused:
        open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)
    assert not asked and TOKEN not in seen(refused)
    assert access.distrust("https://hub.example.org") is access.distrust("http://[::1]:80") is None
    monkeypatch.setenv(access.TRUSTED, endpoint)
    assert access.distrust(endpoint) is None


@pytest.mark.parametrize(
    "endpoint",
    ["https://me:secret@hub.example.org", "https://me:sec/secret@hub.org:80", "https://hub.example.org:secret"],
)
def test_an_endpoint_with_a_password_or_no_port_is_refused_at_once_and_not_shown(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(transfer._OPENER, "open", lambda request, timeout: asked.append(request))
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(RemoteError, match=r"lab/faces: HF_ENDPOINT=.*: not understood; write https://HOST") as refused:
        open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)
    assert not asked and "me:sec" not in str(refused.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_token_that_was_wrapped_is_taken_without_its_newlines(
    newline: str, hub_server: Hub, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN[:8] + newline + TOKEN[8:] + newline)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert open_set("hf://datasets/lab/faces", tmp_path / "cache", 1).counts == packed.counts


@pytest.mark.parametrize("sign", ["\t", "\x7f", "\N{ZERO WIDTH SPACE}", "\xfc"])
def test_what_can_be_no_token_is_refused_and_not_shown(
    sign: str, hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}{sign}more")
    with pytest.raises(NoRight, match="what HF_TOKEN or its file holds is no token") as refused:
        open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)
    assert TOKEN not in seen(refused)


def test_no_token_lies_in_a_pickle_a_log_or_a_traceback(
    hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(transfer, "DEADLINE_S", 1)
    far = open_set("hf://datasets/lab/faces", tmp_path / "cache", 1)
    hub_server.faults.add("status", "GET", "/resolve/", times=1000)
    with pytest.raises(NoAnswer) as failed:
        far.read(0, 0)
    assert TOKEN.encode() not in pickle.dumps(far) and TOKEN not in repr(far)
    assert TOKEN not in seen(failed) + "".join(capfd.readouterr())


def test_a_request_limit_of_the_hub_is_waited_for(
    hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(transfer, "DEADLINE_S", 10)
    hub_server.faults.add("status", "GET", "/api/datasets/", status=429, headers={"RateLimit": '"api";r=0;t=1'})
    began = time.monotonic()
    assert json.dumps(open_set("hf://datasets/lab/faces", tmp_path / "cache", 1).index)
    assert 1 <= time.monotonic() - began < 3


# ---- S3


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """The URL of an S3 server with a bucket `lab`."""
    if s3fs is None or not importlib.util.find_spec("moto"):
        pytest.skip("moto and s3fs are not installed")
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        yield next(match[0] for line in process.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def s3(s3_url: str, packed: ShardSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the packed set in a bucket, with keys for it in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretexample")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdirs("lab", exist_ok=True)
    store.put(str(packed.path), "lab/sets/faces", recursive=True)
    yield "s3://lab/sets/faces"
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_set_in_a_bucket_of_s3_reads_like_the_one_on_disk(
    s3: str, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PIECE", 5000)  # a shard is several requests
    far = open_set(s3, tmp_path / "cache", 1)
    far.prefetch([0, 1])
    assert digest(far) == digest(packed)
    assert b"secretexample" not in pickle.dumps(far)
    process = reader(s3, tmp_path / "other", "--ahead")
    assert process.communicate(timeout=60) == (digest(packed) + "\n", "")


def test_what_s3_refuses_is_said_plainly(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotThere, match=r"s3://lab/nowhere/index.json: not there"):
        open_set("s3://lab/nowhere", tmp_path / "cache", 1)
    with pytest.raises(NotThere, match=r"s3://nowhere/index.json: not there"):
        open_set("s3://nowhere", tmp_path / "cache", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(NoRight, match=r"no keys for S3 are there: set AWS_PROFILE"):
        open_set(s3, tmp_path / "cache", 1)


def test_the_folder_of_the_cache_may_be_said_for_all_commands() -> None:
    script = "from shards.remote import CACHE_DIR; print(CACHE_DIR)"
    env = os.environ | {"FER_SCALE_CACHE_DIR": "/scratch/faces"}
    said = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert said.stdout == "/scratch/faces\n"
