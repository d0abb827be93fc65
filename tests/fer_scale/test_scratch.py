"""What is made in TMPDIR is gone with its maker, a killed one too, and nobody's else is touched."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fer_scale import scratch

OWNER = """
import sys, time
from fer_scale import scratch
with scratch.folder() as made:
    (made / "model").mkdir()
    print(made, flush=True)
    time.sleep(600)
"""


def test_a_killed_owners_folder_is_cleared_by_the_next_and_a_living_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (foreign := tmp_path / f"{scratch._PREFIX}linked").symlink_to(Path.home())
    settings = os.environ | {"TMPDIR": str(tmp_path)}
    owners = [subprocess.Popen([sys.executable, "-c", OWNER], env=settings, stdout=subprocess.PIPE) for _ in range(2)]
    folders = [Path(owner.stdout.readline().decode().strip()) for owner in owners if owner.stdout]
    try:
        for folder in folders:
            os.utime(folder, (0, 0))
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait(20)
        assert folders[0].exists()
        with scratch.folder() as made:
            assert {*tmp_path.iterdir()} == {made, folders[1], foreign} and not [*made.iterdir()]
        assert {*tmp_path.iterdir()} == {folders[1], foreign}
    finally:
        for owner in owners:
            owner.kill()
            owner.wait(20)
            assert owner.stdout
            owner.stdout.close()
