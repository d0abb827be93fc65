"""The names of the expressions, and how each dataset writes them.

Classes are mapped by name everywhere: two datasets never agree on numbers.
"""

import difflib
from collections.abc import Mapping

EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")

# The ten vote columns of fer2013new.csv (microsoft/FERPlus); NF is "no face".
FERPLUS_COLUMNS = (*EXPRESSIONS, "unknown", "NF")

# The numbers and codes that the other datasets write.
RAFDB = {1: "surprise", 2: "fear", 3: "disgust", 4: "happiness", 5: "sadness", 6: "anger", 7: "neutral"}
FER2013 = {0: "anger", 1: "disgust", 2: "fear", 3: "happiness", 4: "sadness", 5: "surprise", 6: "neutral"}
AFFECTNET = {0: "neutral", 1: "happiness", 2: "sadness", 3: "surprise", 4: "fear", 5: "disgust", 6: "anger"}
AFFECTNET |= {7: "contempt"}
AFFECTNET_OTHERS = {8: "none", 9: "uncertain", 10: "no face"}  # no expression of a face
JAFFE = {"NE": "neutral", "HA": "happiness", "SU": "surprise", "SA": "sadness", "AN": "anger", "DI": "disgust"}
JAFFE |= {"FE": "fear"}

# What folders of classes are called besides the names above; "suprise" is in some copies of FER2013.
_WORDS = {"happy": "happiness", "sad": "sadness", "angry": "anger", "surprised": "surprise", "suprise": "surprise"}
_WORDS |= {"disgusted": "disgust", "fearful": "fear", "contemptuous": "contempt"}


def expression_from(name: object) -> str:
    """The expression that a name out of a file says; ValueError tells what is wrong with it."""
    if name in EXPRESSIONS:
        return str(name)
    close = difflib.get_close_matches(str(name), EXPRESSIONS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"the expressions are {', '.join(EXPRESSIONS)}"
    raise ValueError(f"unknown expression {name!r}; {hint}")


def expression_called(word: str) -> str:
    """The expression that a dataset calls so, as Happy or ANGER; ValueError tells what is wrong with it."""
    return expression_from(_WORDS.get(word.lower(), word.lower()))


def expression_numbered(number: object, numbers: Mapping[int, str]) -> str:
    """What a dataset's number, or the text of it, stands for in `numbers`; ValueError where there is no such number."""
    try:
        return numbers[int(number) if isinstance(number, str) else number]  # type: ignore[index]  # 3.0 finds 3
    except (KeyError, TypeError, ValueError):
        known = ", ".join(f"{n} {name}" for n, name in numbers.items())
        raise ValueError(f"unknown class {number!r}; the classes are {known}") from None
