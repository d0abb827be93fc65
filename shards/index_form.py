"""What each fact of index.json must be: a set at hf:// is a stranger's, and whoever reads its index goes by this."""

from collections.abc import Callable
from typing import Any

from shards.boxes import box_from

Form = Callable[[Any], bool]


def faults(index: dict[str, Any]) -> list[str]:
    """What an index lacks, or says as none of ours does; keys that we do not know are passed over."""
    missing = [f"has no {key}" for key in _ALWAYS if key not in index]
    there = {key: form for key, form in (_ALWAYS | _SOMETIMES).items() if key in index}
    return missing + [f"says {index[key]!r:.80} for {key}" for key, form in there.items() if not form(index[key])]


def whole(said: Any) -> bool:
    """Whether it is a number to count with, and no True."""
    return type(said) is int and said >= 0


def _text(said: Any) -> bool:
    return isinstance(said, str)


def _number(said: Any) -> bool:
    return type(said) in (int, float) and abs(said) < 1e9  # no NaN, either


def _pixels(said: Any) -> bool:
    return _number(said) and said > 0


def _box(said: Any) -> bool:
    try:
        return bool(box_from(said))
    except ValueError:
        return False


def _list(form: Form, length: int | None = None) -> Form:
    return lambda said: isinstance(said, list) and length in (None, len(said)) and all(map(form, said))


def _dict(form: Form, *keys: str) -> Form:
    return lambda said: isinstance(said, dict) and {*keys} <= {*said} and all(map(form, said.values()))


def _or_none(form: Form) -> Form:
    return lambda said: said is None or form(said)


_ALWAYS: dict[str, Form] = {
    "name": _text,
    "shards": _list(lambda row: isinstance(row, dict)),  # index.check_rows looks into these
    "samples": whole,
    "bytes": whole,
    "image_px": _dict(_list(_pixels, 2), "min", "max", "mean"),
    "order": _text,
    "source": _or_none(_text),
    "protocol": _or_none(_text),
    "licence": _or_none(_text),
    "expressions": _dict(whole),
    "template_box": _box,
}
_SOMETIMES: dict[str, Form] = {  # there is cause for it, or it came later than the format
    "split": _or_none(_text),
    "identities": _or_none(whole),
    "detector": _text,
    "hashes": lambda said: isinstance(said, bool),
    "mean": _list(_number, 3),
    "std": _list(_number, 3),
    "boxes": _dict(whole),
    "made": _dict(whole),
    "left_out": _dict(whole),
    "files": _dict(_text),
}
