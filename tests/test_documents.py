"""What the documents, the recipes' heads and --help say to type can be typed, and names what is there.

tests/test_documents_run.py runs it.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import documents
import pytest
from documents import ROOT, Typed

from fer_scale import command_line, config
from fer_scale.command_line import ORDER, VERBS
from fer_scale.config import ConfigError
from fer_scale.finetune.recipe import Finetune
from fer_scale.pretrain.recipe import Pretrain

READERS_OWN = {"launch/hostfile"}  # names a file of the reader's, beside hostfile.example
KEYS = {key for schema in (Pretrain, Finetune) for key, _ in config.keys(schema)}
SECTIONS = {key.partition(".")[0] for key in KEYS}
FILES = documents.FILES
TREE = {file.name for top in ("fer_scale", "shards", "launch", "tests") for file in (ROOT / top).rglob("*.*")}
OPTIONAL = re.compile(r"[\[\]]")  # of a usage line: bash launch/demo.sh [--seed N]


def of_all() -> list[Typed]:
    return [typed for file in FILES for typed in documents.commands(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_is_one(file: Path) -> None:
    """No option that is none, no recipe or key that is not there; in a line of its own nothing is missing either."""
    for typed in [*documents.commands(file), *(documents.examples() if file.name == "README.md" else [])]:
        if words := typed.of_ours:
            check_ours(typed, words)


def check_ours(typed: Typed, words: list[str]) -> None:
    """The words after fer-scale, whatever started it."""
    if len(words) == 1 and not typed.shown and not words[0].startswith("-"):
        assert words[0] in ORDER, typed
        return
    if "|" in typed.text:  # a verb's own words are listed
        *words, listed = " ".join(words).replace(" | ", "|").split()
        for word in listed.split("|"):
            check_ours(Typed(typed.where, f"fer-scale {words[0]} {word} ...", False), [*words, word])
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args = command_line.parse(VERBS, [word for word in words if word != "..."])
    except SystemExit as ended:
        if ended.code == 0:  # --help
            return
        left_out = "..." in words or not typed.shown
        assert left_out and "arguments are required" in said.getvalue(), f"{typed}\n{said.getvalue()}"
        return
    recipe = getattr(args, "recipe", None)
    if recipe:
        schema = Finetune if args.verb in ("finetune", "sweep") or "finetune" in recipe.parts else Pretrain
        check_recipe(typed, schema, recipe, given_by_options(args.verb, words) + args.overrides)


def given_by_options(verb: str, words: list[str]) -> list[str]:
    """Keys that a recipe must have, which `finetune --data` and `sweep` bring along, or `doctor` does not read."""
    if verb == "doctor":
        return ["data.shards=SET"]
    if verb == "sweep" or "--data" in words:
        return ["data.shards=SET", "run.out=RUN", "data.split=FILE", "model.start_from=ENCODER"]
    return []


def check_recipe(typed: Typed, schema: type, recipe: Path, overrides: list[str]) -> None:
    if recipe.stem.isupper():  # RECIPE: the reader's choice
        assert not {override.partition("=")[0] for override in overrides} - KEYS, typed
        return
    assert recipe.is_file(), f"{typed}: no such recipe"
    try:
        config.load(schema, recipe, overrides)
    except ConfigError as error:
        mistakes = str(error).splitlines()[1:]
        missing = [line for line in mistakes if line.endswith("missing; it has no default")]
        assert not typed.shown and mistakes == missing, f"{typed}\n{error}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_and_key_that_is_named_is_there(file: Path) -> None:
    for name in documents.names(file):
        if re.fullmatch(r"(fer_scale|shards|launch|configs|tests)(/[\w.*-]+)+/?", name) and name not in READERS_OWN:
            assert list(ROOT.glob(name.rstrip("/"))), f"{file}: {name}"
        elif re.fullmatch(r"\w+\.(py|sh|sbatch)", name):
            assert name in TREE, f"{file}: {name}"
        elif found := re.fullmatch(r"([a-z]+)\.([a-z_]+)( ?=.*)?", name):
            key = f"{found[1]}.{found[2]}"
            is_file = found[2] in ("json", "toml", "md", "idx", "hashes", "yaml", "png", "jsonl", "html", "safetensors")
            assert found[1] not in SECTIONS or is_file or key in KEYS, f"{file}: {name}"


def test_what_is_started_is_there_with_its_options_and_tests() -> None:
    """`python FILE`, `bash FILE`, `pytest`: the file, options that it knows, markers, and tests that -k finds."""
    markers = (ROOT / "pyproject.toml").read_text()
    for typed in of_all():
        words = typed.words
        for word in words:
            if re.match(r"(launch|configs|tests)/", word := OPTIONAL.sub("", word)) and word not in READERS_OWN:
                assert (ROOT / word).exists(), typed
        if words[0] == "python" and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text()
            options = [word for word in words if word.startswith("--")]
            assert all(f'"{option}"' in source for option in options), typed
        if words[0] == "pytest" or "launch/test.sh" in words:
            options = dict(zip(words, [*words[1:], ""], strict=True))
            assert "-m" not in options or f'"{options["-m"].rstrip("]")}: ' in markers, typed
            if typed.words[-2] == "-k" and (ROOT / words[-3]).is_file():
                assert re.search(rf"def test_\w*{options['-k']}", (ROOT / words[-3]).read_text()), typed


def test_every_benchmark_stands_in_their_index() -> None:
    folder = ROOT / "tests/benchmarks"
    rows = re.findall(r"^\| `(\w+\.py)` \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({file.name for file in folder.glob("*.py")})


STARTERS = ("launch/node.sh", "launch/ssh.sh")


@pytest.mark.parametrize("typed", [t for t in of_all() if set(t.words) & {*STARTERS}], ids=lambda typed: typed.text)
def test_the_launch_scripts_take_these_words_as_they_stand(typed: Typed, tmp_path: Path) -> None:
    """What they would run is printed, in an environment without cards, and is a command of ours."""
    settings = typed.settings | ({"HOSTFILE": "launch/hostfile.example"} if "HOSTFILE" in typed.settings else {})
    plain = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "", "DRY_RUN": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(typed.words, cwd=ROOT, env=plain | settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    started = shlex.split(done.stdout)
    check_ours(typed, shlex.split(done.stdout.rpartition(" fer_scale ")[2]))
    assert not settings.get("NODES") or settings["NODES"] in started[started.index("--nnodes") + 1], done.stdout


def test_the_tutorial_types_commands_that_are_some() -> None:
    """tests/test_documents_run.py runs it, which is slow."""
    lines = re.findall(r"^step (fer-scale .*)$", (ROOT / "launch/tutorial.sh").read_text(), re.MULTILINE)
    assert len(lines) > 8
    for line in lines:
        words = ["..." if "[@]" in word else word for word in shlex.split(line)]  # of an array, which is not known here
        check_ours(Typed("launch/tutorial.sh", line, False), words[1:])
