"""The house rules, as code: arrows go down, one door for each heavy dependency, a fixed top level, short functions.

DESIGN: __main__ -> verbs -> stages -> ground floor -> shards. Stages meet at files on disk.
"""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "shards").rglob("*.py"), *(ROOT / "fer_scale").rglob("*.py")])

STAGES = {  # which stage a file of fer_scale belongs to; all others are the ground floor
    "pretrain": "pretrain",
    "finetune": "finetune",
    "publish.py": "publish",
    "card.py": "publish",
    "card_evaluation.py": "publish",
    "card_facts.py": "publish",
    "card_overlap.py": "publish",
    "trained.py": "publish",
    "sets.py": "publish",
    "set_card.py": "publish",
    "cuts.py": "predict",
    "predict.py": "predict",
    "predicted.py": "predict",
    "drawn.py": "predict",
    "explain.py": "predict",
    "app.py": "predict",
    "app_page.py": "predict",
    "space.py": "predict",
    "export.py": "export",
    "exported.py": "export",
}
ABOVE = {  # may know every stage
    "__init__.py", "__main__.py", "command_line.py", "verbs.py", "verbs_labeled.py", "verbs_using.py", "arguments.py",
    "arguments_labeled.py", "arguments_using.py",
    "supervise.py", "demo", "report", "watch.py",
}  # fmt: skip
DOORS = {
    "deepspeed": {"fer_scale/pretrain/engine.py", "fer_scale/pretrain/world.py"},
    "torch.distributed": {"fer_scale/pretrain/world.py"},
    "accelerate": {"fer_scale/finetune/processes.py"},
    "huggingface_hub": {
        f"fer_scale/hub{part}.py" for part in ("", "_client", "_errors", "_pull", "_push", "_rights", "_tree", "_xet")
    },
    "matplotlib": {"fer_scale/plots.py"},
    "webdataset": set(),  # reads what we pack, to the byte what its TarWriter writes; it would bring torch into packing
    "rich": {"fer_scale/log.py"},
    "cv2": {"shards/detector.py"},
    "fsspec": {"shards/transfer.py"},
    "pyarrow": {"shards/sources/parquet.py"},
    "model_signing": {"fer_scale/signature.py"},
    **{name: {"fer_scale/export.py"} for name in ("onnx", "onnxruntime", "onnxscript")},
    "gradio": {"fer_scale/app.py"},
    "fastapi": {"fer_scale/app.py"},
    "uvicorn": {"fer_scale/app.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where an arrow goes"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(dotted: str) -> str:
    """fer_scale.pretrain.mae -> pretrain; fer_scale.hub.pull -> hub.py."""
    first = dotted.split(".")[1]
    return first if (ROOT / "fer_scale" / first).is_dir() else f"{first}.py"


def test_shards_know_neither_tensors_nor_fer_scale() -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "shards")
        for name in imports(path)
        if name.split(".")[0] in ("torch", "fer_scale", "timm")
    ]
    assert not broken, "\n".join(broken)


def test_arrows_go_down() -> None:
    broken = []
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[0] != "fer_scale" or parts[1] in ABOVE:
            continue
        here = STAGES.get(parts[1])
        for name in imports(path):
            if name.startswith("fer_scale."):
                there = room(name)
                if there in ABOVE:
                    broken.append(f"{path.relative_to(ROOT)} imports {name}, which lies above it")
                if there in STAGES and STAGES[there] != here:
                    broken.append(f"{path.relative_to(ROOT)} imports {name}: stages meet at files on disk")
    assert not broken, "\n".join(broken)


def test_each_heavy_dependency_has_one_door() -> None:
    broken = []
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        for name in imports(path):
            for door, files in DOORS.items():
                if (name == door or name.startswith(f"{door}.")) and place not in files:
                    broken.append(f"{place} imports {name}; only {', '.join(sorted(files)) or 'tests'} may")
    assert not broken, "\n".join(broken)


def test_there_are_no_circles() -> None:
    modules = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in SOURCES}
    graph = {
        name: {m for i in imports(path) for m in (i, i.rpartition(".")[0]) if m in modules} - {name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_only_the_command_line_imports_inside_functions() -> None:
    """A function-local import hides a circle; where a dependency is optional, the line says so."""
    broken = []
    for path in SOURCES:
        if path.name in ("verbs.py", "verbs_labeled.py", "verbs_using.py") or path == ROOT / "fer_scale/__init__.py":
            continue
        lines = path.read_text().splitlines()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom) and "# an extra" not in lines[node.lineno - 1]:
                        broken.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not broken, broken


def test_files_and_functions_can_be_held_in_ones_head() -> None:
    broken = []
    for path in SOURCES:
        text = path.read_text()
        if text.count("\n") > 310:
            broken.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 70:
                broken.append(f"{path.relative_to(ROOT)}: {node.name} is longer than a screen")
        if path.stem in ("utils", "util", "misc", "common", "helpers"):
            broken.append(f"{path.relative_to(ROOT)}: a name that says nothing")
    assert not broken, "\n".join(broken)


def test_most_functions_are_short() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    found = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = sorted((function.end_lineno or 0) - function.lineno + 1 for function in found)
    assert lines[len(lines) // 2] <= 8 and lines[len(lines) * 9 // 10] <= 25, lines[len(lines) * 9 // 10]


def test_every_module_opens_with_a_docstring() -> None:
    bare = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not bare


def test_the_top_level_is_as_designed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    allowed = {"README.md", "pyproject.toml", "fer_scale", "shards", "launch", "configs", "tests"}
    allowed |= {"LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; from fer_scale.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'timm', 'PIL', 'rich') if m in sys.modules])"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - began < 30  # a process started at all; the figure is measured in tests/benchmarks
