"""The documents' commands are run, README's from top to bottom: on drawn faces, with small networks and a loopback Hub.

What stands below /data and /runs lies in a folder of the test, and ORG is a namespace of that Hub. Whatever is not run
stands in ONLY_READ, with the reason; tests/test_documents.py reads all of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import canary
import documents
import numpy as np
import pytest
import timm
import transformers
from accelerate.state import AcceleratorState, PartialState
from documents import ROOT, Typed

sys.path.append(str(Path(__file__).parent))  # `hub` is tests/hub
from hub import client
from hub.server import User

import fer_scale
import shards
from fer_scale.__main__ import main
from fer_scale.demo.face import act, draw_face, person
from shards import speed
from shards.expressions import EXPRESSIONS
from shards.pack import pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's LFS upload
    pytest.mark.filterwarnings("ignore:unclosed file .*tar'>:ResourceWarning"),  # webdataset's
]

# How a command begins that is not run here, and why.
ONLY_READ = {
    "fer-scale check configs/pretrain/vit_": "heads of recipes; tests/pretrain/test_prices.py runs them",
    "fer-scale check configs/pretrain/ssfer_vit_base.toml data.shards=SET": "a head of a recipe, as those",
    "fer-scale check pretrain/vit_base_112": "README's like is run",
    "deepspeed --module fer_scale pretrain configs/pretrain/vit_": "heads of recipes for GPUs; README's like is run",
    "deepspeed --hostfile": "several hosts; tests/launch/test_clusters.py",
    "fer-scale doctor": "several hosts; tests/launch/test_doctor.py, tests/pretrain/test_doctor.py",
    "salloc --nodes 4": "Slurm; tests/launch/test_clusters.py",
    "sbatch --nodes 4": "Slurm; tests/launch/test_clusters.py",
    "bash launch/node.sh": "printed, not run; tests/launch",
    "NODES=4 NODE=": "printed, not run; tests/launch",
    "HOSTFILE=launch/hostfile bash launch/ssh.sh": "printed, not run; tests/launch/test_clusters.py",
    "bash launch/test.sh": "this suite",
    "bash launch/demo.sh": "minutes; tests/demo/test_flow.py, slow",
    "fer-scale demo": "minutes; tests/demo/test_flow.py, slow",
    "fer-scale sweep": "dozens of runs; tests/finetune/test_sweep.py",
    "fer-scale watch": "runs of fine-tuning; tests/finetune/test_watch.py",
    "fer-scale export": "torch's compiler, for a quarter of a minute; tests/fer_scale/test_export.py",
    "fer-scale app": "serves until it is stopped; tests/fer_scale/test_app.py",
    "fer-scale overlap LFW": "real faces, whose figures stand below it; the example of --help is run",
    "fer-scale overlap FERPLUS": "as the one before",
}
NETWORK = "model.encoder=64x2x2 model.image_px=32 model.patch_px=8 model.decoder_width=32 model.decoder_depth=1"
TRAINING = "batch.size=8 batch.micro=4 run.epochs=none run.steps=2 optim.warmup_epochs=none optim.warmup_steps=1"
SMALLER = {  # what is typed after a verb's own words here
    "pack": "--workers=1",
    "check": "batch.size=64 batch.micro=64",
    "pretrain": f"{NETWORK} model.decoder_heads=2 {TRAINING} data.workers=0 run.precision=fp32",
    "finetune": "supervised.steps=2 supervised.batch=8 supervised.warmup_steps=1 supervised.decay_steps=0 "
    "semi.steps=2 semi.batch=4 semi.warmup_steps=1 run.precision=fp32",
    "predict": "--faces=whole",  # to a detector a drawing is no face
    "explain": "--faces=whole",
}
INSTEAD = {  # of sizes, and of what a head leaves to the reader
    "1419": "24", "5%": "12", "SET": "/data/shards/ferplus", "FILE": "split.json", "ENCODER": "encoders/base",
}  # fmt: skip
IN_A_FOLDER = "import os, sys; os.chdir(sys.argv[1]); from fer_scale.__main__ import main; sys.exit(main(sys.argv[2:]))"


def shown(*files: str) -> list[Typed]:
    return [typed for file in files for typed in documents.commands(ROOT / file) if typed.shown]


class Reader:
    """Types commands in a folder of its own, in which what the documents take for granted lies."""

    def __init__(self, folder: Path, launch: Callable[..., Any]) -> None:
        self.folder, self._launch = folder, launch
        draw(folder / "data")
        pack(folder / "data/casia", folder / "sets/lfw", source="folder", name="lfw", shard_mb=0.1, workers=1)
        for name, what in (("shards", "data/shards"), ("sets/ferplus", "data/shards/ferplus")):
            (folder / name).symlink_to(folder / what)
        (folder / "photos").mkdir()
        for name in ("face.jpg", "photo.jpg", "photos/1.jpg", "a.jpg", "b.jpg"):
            shutil.copy(folder / "data/casia/0000/0.jpg", folder / name)

    def type(self, typed: Typed) -> None:
        began = time.monotonic()
        verb, *words = (self._here(word) for word in typed.of_ours)
        words += SMALLER.get(verb, "").split()
        if verb == "finetune":  # RUN of one recipe's head is not that of another; accelerate keeps one state a process
            shutil.rmtree("RUN", ignore_errors=True)
            AcceleratorState._reset_state(True)
            PartialState._reset_state()
        if verb == "pretrain":
            ranks = 2 if typed.words[0] == "deepspeed" else 1
            there = [str(self.folder), verb, *words]
            self._launch(
                ranks, "-c", IN_A_FOLDER, *there, HF_TOKEN=canary.TOKEN
            ).wait()  # the token of all forked ranks
        else:
            code = main([verb, *words])
            assert code == 0, f"{typed.text} ended with {code}"
        print(f"{time.monotonic() - began:.1f} s: {typed.text}")

    def run(self, code: str) -> None:
        exec(code, {"fer_scale": fer_scale, "timm": timm, "transformers": transformers})

    def _here(self, word: str) -> str:
        key, equals, value = word.rpartition("=")
        value = re.sub(r"^/(?=data/|runs/)", f"{self.folder}/", INSTEAD.get(value, value))
        return f"{key}{equals}{value}"


def draw(data: Path) -> None:
    """/data/casia, ten people without labels, and /data/ferplus, as FERPlus lies on disk: drawn faces of 48 px."""
    rng = np.random.default_rng(0)
    (data / "ferplus/FER2013Train").mkdir(parents=True)
    rows = [f"Usage,Image name,{','.join(EXPRESSIONS)},unknown,NF"]
    for number in range(240):
        somebody, expression = person(rng), number % len(EXPRESSIONS)
        picture, _ = draw_face(somebody, act(EXPRESSIONS[expression], rng), rng)
        name = f"fer{number:07d}.png"
        picture.convert("L").save(data / "ferplus/FER2013Train" / name)
        rows.append(f"Training,{name},{','.join('10' if k == expression else '0' for k in range(8))},0,0")
        if number < 80:
            place = data / "casia" / f"{number % 10:04d}"
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{number}.jpg", quality=95)
    (data / "ferplus/fer2013new.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Callable[..., Any]) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed.measure, "__defaults__", (0.1, None))  # for ten seconds
    with client.running(tmp_path, monkeypatch) as server:
        server.tokens[client.WRITER] = User("alice", ("ORG",))
        yield Reader(tmp_path, launch)


def test_readme_typed_from_top_to_bottom_and_then_the_rest(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    readme = to_type(shown("README.md"))
    for typed in readme:
        reader.type(typed)
    for code in documents.snippets(ROOT / "README.md"):
        reader.run(code)
    done = {typed.of_ours[0] for typed in readme}
    for typed in to_type(documents.examples()):
        if typed.of_ours[0] not in done:
            reader.type(typed)
    for typed in to_type(shown(*(str(file.relative_to(ROOT)) for file in documents.FILES if file.name != "README.md"))):
        reader.type(typed)
    for code in documents.snippets(ROOT / "shards/README.md"):
        reader.run(code)
    reader.run(documents.of_docstring(shards))
    reader.run(documents.of_docstring(fer_scale).replace("NAME", "expressions"))
    page = (ROOT / "shards/README.md").read_text()
    index = json.loads((reader.folder / "sets/lfw/index.json").read_text())
    assert not [key for key in (*index, *index["shards"][0]) if f"`{key}`" not in page], "the format's page names all"


def to_type(commands: list[Typed]) -> list[Typed]:
    return [typed for typed in commands if typed.of_ours and not typed.text.startswith(tuple(ONLY_READ))]


def test_what_is_only_read_is_there() -> None:
    texts = [typed.text for file in documents.FILES for typed in documents.commands(file)]
    texts += [typed.text for typed in documents.examples()]
    assert not [begin for begin in ONLY_READ if not any(text.startswith(begin) for text in texts)]


@pytest.mark.slow
def test_the_tutorial_makes_a_model_of_a_folder_of_pictures(tmp_path: Path) -> None:
    """Folders as people name them, one without labels, a name with a space in it, and files that are no pictures."""
    rng = np.random.default_rng(0)
    for number in range(120):
        expression = ("happiness", "sadness", "anger")[number % 3]
        folder = tmp_path / "my faces" / (("Happy", "sad", "ANGER")[number % 3] if number < 90 else "others")
        folder.mkdir(parents=True, exist_ok=True)
        draw_face(person(rng), act(expression, rng), rng)[0].save(folder / f"{number}.jpg", quality=95)
    for folder in (tmp_path / "my faces").iterdir():  # what lies beside pictures
        (folder / ".DS_Store").write_bytes(b"Bud1")
        (folder / "Thumbs.db").write_bytes(bytes(8))
    (tmp_path / "my faces" / ".ipynb_checkpoints").mkdir()
    out = tmp_path / "out"
    environment = os.environ | {"OUT": str(out), "STEPS": "20", "LICENCE": "cc-by-4.0"}
    done = subprocess.run(
        ["bash", ROOT / "launch/tutorial.sh", tmp_path / "my faces"],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((out / "model/config.json").read_text())
    assert sorted(said["label_names"]) == ["anger", "happiness", "sadness"]
    assert "license: cc-by-4.0" in (out / "model/README.md").read_text()
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + 3
    assert json.loads((out / "run/outcome.json").read_text())["outcome"] == "done" and (out / "report.html").is_file()
