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


def _report(verb: Verb) -> None:
    """Write one HTML page about runs, side by side: what ran on what, curves, evaluation, events and cost.

    Example: fer-scale report runs/base runs/few --out report.html
    """
    verb.add_argument("runs", type=Path, nargs="+", metavar="run", help="folder of a run, or of a sweep")
    verb.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)")
    verb.add_argument(
        "--faces", action="store_true",
        help="with reconstructions and the worst mistakes, which show faces: for your own eyes",
    )  # fmt: skip
    as_json(verb)
