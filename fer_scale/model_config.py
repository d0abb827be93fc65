"""What a config.json may say: lists of what is allowed, for it may be a stranger's.

A config chooses what timm builds, how pictures are normalised, and texts that are shown and printed. Here stand the
architectures, arguments, kinds and ranges that any of ours has ever had a use for; the rest is refused before timm sees
it. Nothing here reads a file or builds a model: a dict in, what is wrong with it out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm.models

from shards.boxes import box_from

# The modules of timm whose architectures may be named; all others are refused, from scratch too (finetune/start.py).
FAMILIES = (
    "beit", "convnext", "deit", "densenet", "efficientnet", "eva", "mobilenetv3", "regnet", "resnet", "resnetv2",
    "swin_transformer", "swin_transformer_v2", "vgg", "vision_transformer",
)  # fmt: skip
MOST_CLASSES = 100_000  # ImageNet-21k has 21,843
MOST_PX = 1024
MOST_SETS = 64  # that a model was trained on, as its block lists them
MOST_PATCHES = 4096  # of a picture: what attention costs grows with their square


@dataclass(frozen=True, slots=True)
class Rule:
    """A value that is allowed: in words, and as a test."""

    says: str
    holds: Callable[[Any], bool]


def _whole(least: int, most: int) -> Rule:
    return Rule(f"a whole number of {least:,} to {most:,}", lambda v: type(v) is int and least <= v <= most)


def _number(least: float, most: float) -> Rule:
    return Rule(f"a number of {least:g} to {most:g}", lambda v: type(v) in (int, float) and least <= v <= most)


def _one_of(*values: Any) -> Rule:
    named = ", ".join(map(repr, values))
    return Rule(f"one of {named}", lambda v: any(type(v) is type(one) and v == one for one in values))


def _or_none(rule: Rule) -> Rule:
    return Rule(f"{rule.says}, or null", lambda v: v is None or rule.holds(v))


def _or_two(rule: Rule) -> Rule:
    """The same once, or for height and width."""
    return Rule(f"{rule.says}, or two", lambda v: rule.holds(v) or (_is_list(v, 2) and all(map(rule.holds, v))))


def _three(rule: Rule) -> Rule:
    return Rule(f"three times {rule.says}", lambda v: _is_list(v, 3) and all(map(rule.holds, v)))


def _text(most: int) -> Rule:
    """Without control characters, which could rewrite a terminal, and without those that turn the reading direction."""
    return Rule(
        f"a printable text of 1 to {most} characters",
        lambda v: isinstance(v, str) and 0 < len(v) <= most and v.isprintable(),
    )


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


_FLAG = Rule("true or false", lambda v: isinstance(v, bool))
_SHARE = _number(0, 0.99)
_PX = _whole(1, MOST_PX)
_INPUT = Rule(
    f"[3, px, px] with px of 1 to {MOST_PX}",
    lambda v: _is_list(v, 3) and _whole(3, 3).holds(v[0]) and _PX.holds(v[1]) and _PX.holds(v[2]) and v[1] == v[2],
)
_NAME = _text(200)
_POOL = _one_of("", "avg", "token", "max", "avgmax", "catavgmax", "map", "fast")

_TOP = {
    "architecture": _text(100),
    "num_classes": _whole(0, MOST_CLASSES),
    "num_features": _whole(1, 100_000),
    "global_pool": _POOL,
    "model_args": Rule("an object", lambda v: isinstance(v, dict)),
    "pretrained_cfg": Rule("an object", lambda v: isinstance(v, dict)),
    "fer_scale": Rule("an object", lambda v: isinstance(v, dict)),
    "label_names": Rule(
        f"a list of at most {MOST_CLASSES:,} different printable texts, none beginning with = + - @ (CSV formulas)",
        lambda v: isinstance(v, list) and len(v) <= MOST_CLASSES and all(map(_is_label, v)) and len(set(v)) == len(v),
    ),
}
_ARGS = {  # of model_args: all that may stand there
    "img_size": _or_two(_PX),
    "patch_size": _or_two(_whole(1, 256)),
    "in_chans": _whole(3, 3),
    "num_classes": _whole(0, MOST_CLASSES),  # timm's save_for_hf writes it there
    "embed_dim": _whole(4, 8192),
    "depth": _whole(1, 100),
    "num_heads": _whole(1, 128),
    "mlp_ratio": _number(0.25, 16),
    "global_pool": _POOL,
    "class_token": _FLAG,
    "reg_tokens": _whole(0, 64),
    "pos_embed": _one_of("", "none", "learn"),
    "no_embed_class": _FLAG,
    "init_values": _or_none(_number(0, 10)),
    "qkv_bias": _FLAG,
    "qk_norm": _FLAG,
    "proj_bias": _FLAG,
    "pre_norm": _FLAG,
    "final_norm": _FLAG,
    "fc_norm": _or_none(_FLAG),
    "dynamic_img_size": _FLAG,
    "dynamic_img_pad": _FLAG,
    "act_layer": _or_none(_one_of("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "swish", "hard_swish")),
    "norm_layer": _or_none(_one_of("layernorm", "layernorm2d", "rmsnorm", "batchnorm2d")),
    **dict.fromkeys(
        ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"), _SHARE
    ),
}
_PRETRAINED = {  # of pretrained_cfg: what is read of it; the rest is for timm, and means nothing here
    "input_size": _INPUT,
    "mean": _three(_number(0, 1)),
    "std": _three(_number(0.001, 10)),
    "crop_pct": _number(0.1, 1),
    "num_classes": _or_none(_whole(0, MOST_CLASSES)),
    "license": _or_none(_text(200)),
}
_DECODER = {  # of the block's decoder: the keys of decoder.py, all of them
    "decoder_width": _whole(4, 8192),
    "decoder_depth": _whole(0, 100),
    "decoder_heads": _whole(1, 128),
    "patch_px": _whole(1, 256),
    "norm_pixels": _FLAG,
}
_BLOCK = {  # of our own block, what is read of it
    "format": _whole(0, 1000),
    "face_box": Rule("[x1, y1, x2, y2] in shares, x1 < x2, y1 < y2", lambda v: is_box(v)),
    "face_boxes": Rule(
        "at most 16 boxes by detector, x1, y1, x2, y2 of -1 to 2 in shares of the crop, a tenth wide and high at least "
        "and with the middle in the crop",
        lambda v: isinstance(v, dict) and len(v) <= 16 and all(map(_NAME.holds, v)) and all(map(_is_place, v.values())),
    ),
    "decoder": Rule(
        f"an object with {', '.join(_DECODER)}, the width a multiple of 4 and of the heads", lambda v: _is_decoder(v)
    ),
    "base_model": _or_none(_text(500)),
    "base_licence": _or_none(_text(500)),
    "base_adapted": _or_none(_text(500)),
    "folded_temperature": _number(0.01, 100),
    "temperature_from": _one_of("valid", "given", "none"),
    "trained_on": Rule("an object", lambda v: isinstance(v, dict)),
    **dict.fromkeys(
        ("data", "base_data"),
        Rule(
            f"a list of at most {MOST_SETS} data sets, each with name and licence",
            lambda v: isinstance(v, list) and len(v) <= MOST_SETS and all(map(_is_set, v)),
        ),
    ),
}


def data_of(config: dict[str, Any]) -> list[dict[str, str]]:
    """Name and licence of each set that a model was trained on, and before it what it began with."""
    block = config.get("fer_scale", {})
    return [*block.get("data", ()), *block.get("base_data", ())][:MOST_SETS]


def faults(config: Any) -> list[str]:
    """What in a config.json may not stand there, or not so; each in a few words, none where all is well."""
    if not isinstance(config, dict):
        return ["it is no object"]
    if "architecture" not in config:
        return ["it names no architecture"]
    found = list(_broken(config, _TOP))
    if found:
        return found
    args = config.get("model_args", {})
    if strange := [name for name in args if name not in _ARGS]:
        found.append(f"model_args may not hold {', '.join(repr(name)[1:-1][:40] for name in strange[:5])}")
    found += _broken(args, _ARGS, "model_args.")
    found += _broken(config.get("pretrained_cfg", {}), _PRETRAINED, "pretrained_cfg.")
    found += _broken(config.get("fer_scale", {}), _BLOCK, "fer_scale.")
    found += [f"fer_scale holds {what}" for what in _unprintable(config.get("fer_scale", {}))][:1]
    if (names := config.get("label_names")) and len(names) != config.get("num_classes", 0):
        found.append(f"{len(names)} label_names for num_classes {config.get('num_classes', 0)}")
    return found or _not_allowed(config["architecture"])


def _not_allowed(architecture: str) -> list[str]:
    if not timm.is_model(architecture):
        return [f"timm {timm.__version__} knows no architecture {architecture!r}"]
    return [] if is_allowed(architecture) else [f"the architecture {architecture!r} is of no family that may be loaded"]


def is_allowed(architecture: str) -> bool:
    """Whether a name of timm's is of one of the FAMILIES."""
    return timm.models.is_model_in_modules(architecture.partition(".")[0], FAMILIES)


def _broken(values: dict[str, Any], rules: dict[str, Rule], where: str = "") -> Iterator[str]:
    for name, rule in rules.items():
        if name in values and not rule.holds(values[name]):
            shown = repr(values[name])
            yield f"{where}{name} is {shown if len(shown) <= 40 else shown[:37] + '...'}, not {rule.says}"


def is_box(value: Any) -> bool:
    """Whether a value is a face's box in shares of the crop."""
    try:
        box_from(value)
    except ValueError:
        return False
    return True


def _is_place(value: Any) -> bool:
    """Whether a value is where a detector's box lies in a crop: it may stick out."""
    if not _is_list(value, 4) or not all(map(_number(-1, 2).holds, value)):
        return False
    x1, y1, x2, y2 = value
    return x2 - x1 >= 0.1 and y2 - y1 >= 0.1 and 0 <= x1 + x2 <= 2 and 0 <= y1 + y2 <= 2


def _is_decoder(value: Any) -> bool:
    """Whether a value holds the sizes of a decoder that can be built; what is no object tells of none."""
    if not isinstance(value, dict):
        return True
    if not value.keys() >= _DECODER.keys():
        return False
    width, heads = value["decoder_width"], value["decoder_heads"]
    return not list(_broken(value, _DECODER)) and width % 4 == 0 and width % heads == 0


def _is_label(value: Any) -> bool:
    return _NAME.holds(value) and value[0] not in "=+-@"


def _is_set(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"name", "licence"} and all(map(_NAME.holds, value.values()))


def _unprintable(value: Any) -> Iterator[str]:
    """The texts in a value, however deep, that hold control characters: they end in cards and on terminals."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str) and not one.isprintable():
            yield repr(one)[:40]
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            left += one
