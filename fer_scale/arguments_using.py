"""What one may type after the verbs of a finished model. No heavy import up here."""

from pathlib import Path

from fer_scale.arguments import MODEL, Verb, as_json, key


def _predict(verb: Verb) -> None:
    """Say which expression face crops show.

    Example: fer-scale predict hf://ORG/expressions photo.jpg --json
    """
    verb.add_argument("model", help=MODEL)
    verb.add_argument("images", type=Path, nargs="+", help="pictures of one face each")
    verb.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="the face, in pixels")
    key(verb)
    as_json(verb)
