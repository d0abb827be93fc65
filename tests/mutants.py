"""Whether tests notice when a module computes something else: it is changed in one place at a time.

python tests/mutants.py SOURCE[:FUNCTION,...] TESTS...
    in the root of a checkout; TESTS go to pytest; prints each change that they let pass, then how many they killed

Changed are operators, comparisons, numbers (by one), words, conditions, max and min and their like, early returns, and
calls that may be left out (clip, round, ...); what people, types or asserts read is not. Objects that tests make while
they are collected, as parameters, stay of the unchanged classes. Killed on 2026-11-27 (boxes, metrics and cuts: a day
later), with the tests of each module:

shards/boxes.py     96 of  96  100.0 %    finetune/pseudo_labels.py               139 of 142   97.9 %
pretrain/mae.py    221 of 234   94.4 %    finetune/metrics.py                     281 of 282   99.6 %
finetune/facemix    99 of 101   98.0 %    finetune/framing:frames,within,cut       77 of  78   98.7 %
                                          finetune/views:crop_boxes,rotate_boxes  140 of 140  100.0 %
                                          cuts:around,crop_for,_part              179 of 179  100.0 %
shards/order.py    273 of 295   92.5 %
"""

import ast
import copy
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.main import pytest_runtestloop as run

OPERATORS = """Add Sub, Sub Add, Mult Div, Div Mult, FloorDiv Mult, Mod FloorDiv, Pow Mult, BitAnd BitOr, BitOr BitAnd,
BitXor BitOr, LShift RShift, RShift LShift, And Or, Or And, Lt LtE GtE, LtE Lt Gt, Gt GtE LtE, GtE Gt Lt, Eq NotEq,
NotEq Eq, Is IsNot, IsNot Is, In NotIn, NotIn In"""
INSTEAD = {name: [getattr(ast, to)() for to in others] for name, *others in map(str.split, OPERATORS.split(","))}
PAIRS = "max min, maximum minimum, argmax argmin, mean sum, nanmean nansum, ceil floor, all any, sin cos, right left"
SWAPPED = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
SWAPPED |= {"prod": "sum", "cumsum": "cumprod", "zeros": "ones"}
LEFT_OUT = {"clip", "clamp", "round", "abs", "square", "sqrt", "flip", "double", "float", "astype"}
QUICKLY = "-x -q -s --tb=no -p no:cacheprovider -p no:unraisableexception -W ignore::pytest.PytestAssertRewriteWarning"


def changes(node: ast.AST) -> Iterator[tuple[Any, Any]]:
    """(what stands there, what stands there instead) of all changes below a node; each is undone before the next."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or getattr(node, "arg", "") == "strict":
            continue
        holder: Any = value if isinstance(value, list) else vars(node)
        for at in range(len(value)) if isinstance(value, list) else [field]:
            match child := holder[at]:
                case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert() | ast.JoinedStr():
                    continue
                case ast.Expr(ast.Constant()) | ast.Subscript(ast.Name("Literal")):
                    continue
                case ast.AST():
                    for other in others(node, field, child):
                        holder[at] = ast.copy_location(other, child)
                        yield child, other
                    holder[at] = child
                    yield from changes(child)


def others(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST]:
    """What may stand where a node stands."""

    def but(**fields: Any) -> Any:
        new = copy.copy(node)
        vars(new).update(fields)
        return new

    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            yield from (but(op=to) for to in INSTEAD[type(op).__name__])
        case ast.Compare(ops=ops):
            for k, of in enumerate(ops):
                yield from (but(ops=[*ops[:k], to, *ops[k + 1 :]]) for to in INSTEAD[type(of).__name__])
        case ast.UnaryOp(operand=operand):
            yield copy.copy(operand)
        case ast.Constant(bool(value)):
            yield but(value=not value)
        case ast.Constant(int(number) | float(number)):
            yield from (but(value=number + by) for by in (1, -1))
        case ast.Constant(str(text)):
            yield but(value="XX" + text)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in SWAPPED:
            yield but(id=SWAPPED[name], attr=SWAPPED[name])
        case ast.Call(ast.Attribute(value=whole, attr=name)) if name in LEFT_OUT:
            yield copy.copy(whole)
        case ast.Return(ast.expr()) if isinstance(parent, ast.If):
            yield ast.Pass()
    if field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), but())


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Instead of running the tests that pytest collected: do so for each change, in a process of its own."""
    source, _, names = sys.argv[1].partition(":")
    tree, lived = ast.parse(Path(source).read_text()), []
    assert passes(session, source, tree), "the tests fail as it is"
    parts = [node for node in tree.body if not names or getattr(node, "name", None) in names.split(",")]
    for old, new in changes(ast.Module(parts, [])):
        lived.append(passes(session, source, tree))
        if lived[-1]:
            print(f"{source}:{old.lineno}: {ast.unparse(old)} -> {ast.unparse(new)}", flush=True)
    print(f"{sys.argv[1]}: {lived.count(False)} of {len(lived)} killed, {100 - 100 * sum(lived) / len(lived):.1f} %")
    return True


def passes(session: pytest.Session, source: str, tree: ast.Module) -> bool:
    """Whether the tests pass, in a fork, where the source is this tree."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))  # seconds: loops of mutants may not end
        resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        here = vars(sys.modules[source.removesuffix(".py").replace("/", ".")])
        before = dict(here)
        exec(compile(ast.fix_missing_locations(tree), source, "exec"), here)
        changed = {name for name in before if here[name] is not before[name]}
        for module in list(sys.modules.values()):  # that have one of its names, too
            for name in changed & vars(module).keys():
                if vars(module)[name] is before[name]:
                    setattr(module, name, here[name])
        run(session)  # raises at the first failure
        os._exit(0)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, phases=[hypothesis.Phase.generate])
    hypothesis.settings.load_profile("mutants")
    pytest.main([*QUICKLY.split(), *sys.argv[2:]], [sys.modules["__main__"]])
