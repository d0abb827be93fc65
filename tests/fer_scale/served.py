"""A page of `fer-scale app` as a process of its own, and a small expression model for it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from hub import trained

from fer_scale import publish

ROOT = Path(__file__).parents[2]
NAMES = ("neutral", "happiness", "fear")


def expression_model(folder: Path) -> Path:
    """A published model with random weights: what it says of a face is nonsense, and always the same."""
    run = trained.finetune(folder / "run")
    (run / "evaluation" / "confusion_matrix.png").unlink()  # no picture
    publish.publish(run, str(folder / "model"), licence="cc-by-nc-4.0", title="Small expressions")
    return folder / "model"


class Page:
    """A script that serves a page: it prints the address when it does."""

    def __init__(self, folder: Path, script: Path, *words: str, **environment: str) -> None:
        self.folder, self.temporary, self._notes = folder, folder / "tmp", folder / "notes.json"
        self.temporary.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "PYTHONPATH"))}
        kept |= {"TMPDIR": str(self.temporary), "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, str(Path(__file__).with_name("overheard.py")), str(self._notes), str(script), *words]
        self._said: list[str] = []
        self.process = subprocess.Popen(
            command, env=kept, cwd=script.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stderr
        self._said += self.process.stderr

    def address(self) -> str:
        """Where the page is, once it answers."""
        assert self.process.stdout
        url = self.process.stdout.readline().strip()
        assert url.startswith("http://"), "".join(self._said)
        port = url.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        with urlopen(url, timeout=60):
            return url

    def said(self) -> str:
        return "".join(self._said)

    def left(self) -> list[str]:
        """The files in its folder for temporary ones."""
        return [str(path) for path in self.temporary.rglob("*") if path.is_file()]

    def stop(self, number: signal.Signals) -> tuple[int, dict[str, Any]]:
        """End it by a signal; its exit code, and what was overheard."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._listening.join(timeout=60)
        assert not self._listening.is_alive(), "a process that outlives it holds its stderr"
        return code, json.loads(self._notes.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listening.join()
        assert self.process.stdout and self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()
