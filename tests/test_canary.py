"""The search for tokens at the end of the session would find one: conftest.py does it, canary.py says where."""

import base64
import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import canary
import pytest

OTHER = "hf_" + "anotherone" * 3  # not the session's, which must not be found


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"x" * ((1 << 20) - 10)], ids=["start", "1", "2", "a border"])
def test_a_token_is_found_in_any_file_as_it_is_in_base64_and_under_gzip(tmp_path: Path, before: bytes) -> None:
    text = before + OTHER.encode() + b" and more"
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/plain.log").write_bytes(text)
    (tmp_path / "base64.json").write_bytes(base64.b64encode(text))
    (tmp_path / "origin.gz").write_bytes(gzip.compress(text))
    (tmp_path / "clean").write_bytes(before + canary.TOKEN[:-1].encode())
    (tmp_path / "token").write_bytes(text)  # where `hf auth login` puts it
    found = [Path(path).name for path in canary.files_with([OTHER], tmp_path)]
    assert sorted(found) == ["base64.json", "origin.gz", "plain.log"]


def test_a_token_in_the_arguments_of_a_process_or_in_what_is_said_is_heard() -> None:
    ears = canary.Ears([OTHER])
    ears.audit("subprocess.Popen", ("curl", ["curl", "-H", f"Authorization: Bearer {OTHER}"], None, {"A": "b"}))
    ears.audit("subprocess.Popen", ("curl", ["curl"], None, {"HF_TOKEN": OTHER}))
    ears.listen("a log", f"sent {OTHER}")
    ears.listen("a log", "sent hf_...")
    assert ears.started == 2 and ears.heard == ["the arguments of a process (subprocess.Popen)", "a log"]


def test_the_session_listens_and_what_it_starts_has_the_token(ears: canary.Ears) -> None:
    assert os.environ["HF_TOKEN"] == canary.TOKEN and canary.TOKEN in ears.needles
    before = ears.started
    say = "import os, hashlib; print(hashlib.sha256(os.environ['HF_TOKEN'].encode()).hexdigest())"
    told = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout
    assert told.strip() == hashlib.sha256(canary.TOKEN.encode()).hexdigest()
    assert ears.started > before
