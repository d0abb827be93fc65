"""The wheel: it carries recipes and launch files, works in any folder, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES, SHIPPED, MORE = ("fer_scale", "shards"), ("configs", "launch"), ("pyproject.toml", "README.md", "LICENSE")
OF_A_CHECKOUT = {f"launch/{name}" for name in ("demo.sh", "test.sh", "tutorial.sh", "Dockerfile")}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel is made of, in a folder of its own: a build leaves build/ behind, and the next one takes from it."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES, *SHIPPED, *MORE], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("source")
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made as pip makes it but without an environment of its own."""
    out = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, out, cwd=source)
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_it_holds_every_source_recipe_and_launch_file_and_nothing_else(source: Path, wheel: Path) -> None:
    files = [path.relative_to(source) for name in (*PACKAGES, *SHIPPED) for path in (source / name).rglob("*.*")]
    wanted = {str(Path("fer_scale/shipped" if file.parts[0] in SHIPPED else "", file)) for file in files}
    wanted -= {f"fer_scale/shipped/{name}" for name in OF_A_CHECKOUT}
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
    missing, surplus = sorted(wanted - held), sorted(held - wanted)
    assert not missing and not surplus, f"packages are listed in pyproject.toml: {missing=} {surplus=}"


def test_from_another_folder_recipes_and_layouts_are_those_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    place = {"cwd": tmp_path, "PYTHONPATH": str(unpacked)}
    listed = json.loads(run(sys.executable, "-m", "fer_scale", "recipes", "--json", **place))
    assert len(listed) == len([*ROOT.glob("configs/*/*.toml")])
    assert all(Path(row["file"]).is_relative_to(unpacked) for row in listed)
    code = (
        "from fer_scale import config, shipped\n"
        "from fer_scale.pretrain.layout import zero_layout\n"
        "from fer_scale.pretrain.recipe import Pretrain\n"
        "recipe = config.load(Pretrain, shipped.find('pretrain/ssfer_vit_base'), ['data.shards=s', 'run.out=r'])\n"
        "print(shipped.ROOT, zero_layout(recipe.run.deepspeed)['stage'])"
    )
    assert run(sys.executable, "-c", code, **place) == f"{unpacked}/fer_scale/shipped 1\n"


def test_its_launch_files_are_copied_to_where_one_works(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked / "fer_scale/shipped/launch", tmp_path / "launch")
    words = ["bash", "launch/node.sh", "pretrain", "pretrain/demo", "run.out=runs/mine"]
    assert run(*words, cwd=tmp_path, DRY_RUN="1").endswith("-m fer_scale pretrain pretrain/demo run.out=runs/mine \n")


@pytest.mark.slow
def test_what_is_installed_and_used_is_gone_when_it_is_uninstalled(wheel: Path, tmp_path: Path) -> None:
    here = tmp_path / "environment"
    venv.create(here, with_pip=True)
    before = set(here.rglob("*"))
    pip = [here / "bin/python", "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    assert run(here / "bin/fer-scale", "--version", cwd=tmp_path) == "fer_scale 0.1.0\n"
    assert "pretrain/demo" in run(here / "bin/fer-scale", "pretrain", "--help", cwd=tmp_path)
    run(*pip, "uninstall", "--yes", "fer_scale", cwd=tmp_path)
    assert [path for path in here.rglob("*") if path not in before and "__pycache__" not in path.parts] == []
    assert not [path for path in here.rglob("*") if "fer_scale" in path.name or "shards" in path.name]
