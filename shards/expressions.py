"""The names of the expressions, and how each dataset writes them.

Classes are mapped by name everywhere: two datasets never agree on numbers.
"""

import difflib

EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")

# The ten vote columns of fer2013new.csv (microsoft/FERPlus); NF is "no face".
FERPLUS_COLUMNS = (*EXPRESSIONS, "unknown", "NF")


def expression_from(name: object) -> str:
    """The expression that a name out of a file says; ValueError tells what is wrong with it."""
    if name in EXPRESSIONS:
        return str(name)
    close = difflib.get_close_matches(str(name), EXPRESSIONS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"the expressions are {', '.join(EXPRESSIONS)}"
    raise ValueError(f"unknown expression {name!r}; {hint}")
