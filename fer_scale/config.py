"""Read a recipe: a TOML file plus `section.key=value` overrides, as one frozen dataclass.

The dataclass is the schema. Every key must name a field, every value must have the field's type, and every field
without a default must be given. All mistakes are reported at once, each with the place where it stands and, where
there is one, the name that was probably meant.

Every key is of one kind: `maths` changes what is computed, `layout` only where and how, `watch` what one sees of it.
A run that goes on refuses another value of a `maths` key.
"""

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from fer_scale import shipped
from shards.errors import UserError

Recipe = TypeVar("Recipe")
Kind = Literal["maths", "layout", "watch"]
_MISSING = dataclasses.MISSING


class ConfigError(UserError):
    """A recipe that cannot be run as written."""


def knob(default: Any = _MISSING, *, kind: Kind = "maths", help: str) -> Any:
    """A field of a recipe's section; `help` gives unit, meaning and source, and is what `fer-scale keys` prints."""
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help})


def require(*rules: tuple[bool, str]) -> None:
    """For a section's __post_init__: raise one error with the text of every rule that does not hold."""
    broken = [text for holds, text in rules if not holds]
    if broken:
        raise ConfigError("\n".join(broken))


def at_least(section: Any, least: int, *names: str) -> list[tuple[bool, str]]:
    """Rules for `require`: each of these fields of a section is `least` or more, where it is given."""
    values = [(name, getattr(section, name)) for name in names]
    return [(v is None or v >= least, f"{name}: must be {least} or more, not {v}") for name, v in values]


def above_0(section: Any, *names: str) -> list[tuple[bool, str]]:
    """Rules for `require`: each of these fields of a section, or all of its numbers, are above 0, where given."""
    rules = []
    for name in names:
        value = getattr(section, name)
        numbers = value if isinstance(value, tuple) else [] if value is None else [value]
        rules.append((all(number > 0 for number in numbers), f"{name}: must be above 0, not {as_toml(value)}"))
    return rules


def in_0_to_1(section: Any, *names: str) -> list[tuple[bool, str]]:
    """Rules for `require`: each of these fields of a section, or all of its numbers, lie in 0..1."""
    rules = []
    for name in names:
        value = getattr(section, name)
        numbers = value if isinstance(value, tuple) else [value]
        rules.append((all(0 <= number <= 1 for number in numbers), f"{name}: must lie in 0..1, not {as_toml(value)}"))
    return rules


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a mistake's line: the option that was probably meant, or nothing."""
    near = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def load(schema: type[Recipe], path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Build `schema` from the TOML at `path`; later overrides win over earlier ones and the file."""
    try:
        return parse(schema, path.read_bytes(), str(path), overrides)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{path}: no such recipe; {shipped.meant(path)}") from None


def parse(schema: type[Recipe], text: bytes, name: str, overrides: Iterable[str] = ()) -> Recipe:
    """The same of TOML that comes from elsewhere, as out of a checkpoint; `name` says whence."""
    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}; `fer-scale recipes` lists examples") from None

    mistakes: list[str] = []
    for override in overrides:
        _apply(override, values, mistakes)
    recipe = _build(schema, values, "", mistakes)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ConfigError(f"{name}: {count}\n" + "\n".join(f"  {line}" for line in mistakes))
    return recipe


def dump(recipe: Any) -> str:
    """The recipe with every default written out, as TOML that `load` reads back to an equal one."""
    lines: list[str] = []
    for section in dataclasses.fields(recipe):
        lines.append(f"[{section.name}]")
        body = getattr(recipe, section.name)
        for field in dataclasses.fields(body):
            value = getattr(body, field.name)
            if value is not None:
                lines.append(f"{field.name} = {as_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def of_checkpoint(progress: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The sections of the recipe in a checkpoint's progress.json; ConfigError where that is no TOML."""
    try:
        return tomllib.loads(progress["recipe"])
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{folder}: the recipe in its progress.json cannot be read ({error}): an older fer_scale wrote texts of "
            "several lines so; `fer-scale checkpoint extract --weights` still has the weights"
        ) from None


def keys(schema: type) -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every `section.key` of a recipe with its field, in order."""
    for name, section in typing.get_type_hints(schema).items():
        for field in dataclasses.fields(section):
            yield f"{name}.{field.name}", field


def values(recipe: Any) -> dict[str, str]:
    """Every `section.key` of a recipe, with its value as text."""
    return {key: str(getattr(getattr(recipe, key.split(".")[0]), field.name)) for key, field in keys(type(recipe))}


def describe(schema: type) -> list[tuple[str, str, str, str]]:
    """(key, default, kind, help) of every key of a recipe, as `fer-scale keys` prints them."""
    rows = []
    for name, field in keys(schema):
        if field.default is _MISSING:
            default = "must be given"
        else:
            default = "-" if field.default is None else as_toml(field.default)
        options = " | ".join(map(str, _options(schema, name)))
        rows.append((name, default, field.metadata["kind"], field.metadata["help"] + (options and f" [{options}]")))
    return rows


def _options(schema: type, name: str) -> tuple[Any, ...]:
    """The values that a key may have, where they are named; else none."""
    section, key = name.split(".")
    hint = typing.get_type_hints(typing.get_type_hints(schema)[section])[key]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def differences(old: Any, new: Any, kind: Kind = "maths") -> list[str]:
    """The keys of `kind` whose values differ between two recipes of one schema, each as `key: old -> new`."""
    found = []
    for name, field in keys(type(new)):
        section, key = name.split(".")
        was, now = getattr(getattr(old, section), key), getattr(getattr(new, section), key)
        if field.metadata["kind"] == kind and was != now:
            found.append(f"{name}: {as_toml(was)} -> {as_toml(now)}")
    return found


def refuse_another(old_file: Path, new: Any, changes: Iterable[str], moved_from: str = "") -> None:
    """ConfigError where the recipe that a run was started with says otherwise in a `maths` key not in `changes`.

    `moved_from`: where that run lies, if it is another one, which this one is to go on from.
    """
    try:
        old = load(type(new), old_file)
    except ConfigError as error:
        raise ConfigError(
            f"{old_file}: damaged? every checkpoint's progress.json holds the recipe, put back a copy; of another "
            f"version of fer_scale? use another run.out\n{error}"
        ) from None
    allowed = {change.partition("=")[0] for change in changes}
    differ = [line for line in differences(old, new) if line.partition(":")[0] not in allowed]
    if differ:
        lines = "\n".join(f"  {line}" for line in differ)
        raise ConfigError(
            f"{moved_from or old_file.parent}: holds a run with another recipe:\n{lines}\n"
            f"{'' if moved_from else 'use another run.out, or '}go on with the change by "
            f"--change {differ[0].partition(':')[0]}=..."
        )


def _apply(override: str, values: dict[str, Any], mistakes: list[str]) -> None:
    """Write one `section.key=value` into `values`; a value that is not TOML is a plain string."""
    dotted, equals, text = override.partition("=")
    section, dot, key = dotted.partition(".")
    if not (equals and dot and section and key):
        mistakes.append(f"{override!r}: an override is written section.key=value, as optim.base_lr=1e-4")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    body = values.setdefault(section, {})
    if isinstance(body, dict):
        body[key] = value
    else:
        mistakes.append(f"{section}: is a section, written [{section}], not a single value")


def _build(schema: type, values: dict[str, Any], prefix: str, mistakes: list[str]) -> Any:
    types_of = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    kind = "key" if prefix else "section"
    before = len(mistakes)

    for name in [name for name in values if name not in fields]:
        near = difflib.get_close_matches(name, fields, n=1)
        other = "" if prefix else "; is this a recipe of the other stage?"
        hint = f"did you mean {prefix}{near[0]}?" if near else f"{kind}s here: {', '.join(fields)}{other}"
        mistakes.append(f"{prefix}{name}: unknown {kind}; {hint}")

    chosen: dict[str, Any] = {}
    for name, field in fields.items():
        where, wanted = prefix + name, types_of[name]
        if dataclasses.is_dataclass(wanted):
            body = values.get(name, {})
            if isinstance(body, dict):
                chosen[name] = _build(typing.cast(type, wanted), body, f"{where}.", mistakes)
            else:
                mistakes.append(f"{where}: is a section, written [{where}], not a single value")
        elif name in values:
            is_default = isinstance(field.default, str) and values[name] == field.default  # then ~/ stays, as in there
            chosen[name] = values[name] if is_default else _convert(values[name], wanted, where, mistakes)
        elif field.default is _MISSING and field.default_factory is _MISSING:
            mistakes.append(f"{where}: missing; it has no default")
    if len(mistakes) > before:
        return None
    try:
        return schema(**chosen)
    except UserError as error:  # raised by the section's own __post_init__, one line a mistake
        mistakes.extend(f"{prefix}{line}" for line in str(error).splitlines())
        return None


def _convert(value: Any, wanted: Any, where: str, mistakes: list[str]) -> Any:
    """`value` as the type `wanted`, or a mistake. A whole number may stand for a float, not the reverse.

    What begins with ~/ is a path in the home folder, also where it might be an address: a shell leaves run.out=~/x as
    it is.
    """
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if isinstance(value, str) and value.startswith("~/"):
        value = os.path.expanduser(value)
    if origin is Literal:
        if value in options:
            return value
        hint = did_you_mean(str(value), map(str, options))
        mistakes.append(f"{where}: must be one of {', '.join(map(repr, options))}, not {value!r}{hint}")
    elif origin in (typing.Union, types.UnionType) and type(None) in options:  # X | None
        return None if value == "none" else _convert(value, options[0], where, mistakes)
    elif origin in (typing.Union, types.UnionType):  # number | list, whose one value is no number; or bool | str
        wanted = options[0] if type(value) in (bool, int, float) else options[1]
        return _convert(value, wanted, where, mistakes)
    elif origin is tuple and options[-1] is Ellipsis:  # one value stands for a list of one
        return tuple(_convert(v, options[0], where, mistakes) for v in (value if isinstance(value, list) else [value]))
    elif origin is tuple:
        if isinstance(value, list) and len(value) == len(options):
            pairs = zip(value, options, strict=True)
            return tuple(_convert(item, option, where, mistakes) for item, option in pairs)
        mistakes.append(f"{where}: must be a list of {len(options)} values, not {value!r}")
    elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif wanted is Path and isinstance(value, str) and value:
        return Path(value)
    elif type(value) is wanted and not (wanted is float and not math.isfinite(value)):
        return value
    else:
        mistakes.append(f"{where}: must be {_NAMES[wanted]}, not {value!r}")
    return None


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


def as_override(key: str, value: Any) -> str:
    """A key and its value as `load` takes them."""
    return f"{key}={as_toml(value)}"


def as_toml(value: Any) -> str:
    """A value as it stands in a recipe."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str | Path):
        # TOML has JSON's escapes, and does not take DEL, which JSON leaves as it is.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
