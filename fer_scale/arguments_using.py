"""What one may type after the verbs of a finished model. No heavy import up here."""

from pathlib import Path

from fer_scale.arguments import MODEL, Verb, as_json, key


def _predict(verb: Verb) -> None:
    """Find the faces in photos and say which expressions they show.

    Example: fer-scale predict hf://ORG/expressions photo.jpg --json
    """
    verb.add_argument("model", help=MODEL)
    _photos(verb)
    _faces(verb, "largest")
    verb.add_argument(
        "--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"),
        help="the face in each photo, in pixels of the upright photo: look for none",
    )  # fmt: skip
    verb.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="X",
        help="no label for faces of which the model is less sure than X, from 0 to 1 (0)",
    )  # fmt: skip
    verb.add_argument("--csv", type=Path, metavar="FILE", help="also write a table: a row a face, and a photo without")
    verb.add_argument("--draw", type=Path, metavar="DIR", help="also write each photo with boxes and labels")
    key(verb)
    verb.add_argument("--json", action="store_true", help="a JSON object a photo on stdout, each on its line")


def _explain(verb: Verb) -> None:
    """Draw what in a face a model goes by; of an encoder with a decoder, or of a pre-training run, what it paints.

    Example: fer-scale explain hf://ORG/expressions photo.jpg --out explained
    """
    verb.add_argument("model", help=f"{MODEL}; or a run of pre-training, or one of its checkpoints")
    _photos(verb)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pictures, which show faces")
    _faces(verb, "largest")
    key(verb)
    as_json(verb)


def _export(verb: Verb) -> None:
    """Write a model as one file, pre-processing inside: ONNX, or torch.export's .pt2; checked against the model.

    Example: fer-scale export hf://ORG/expressions --onnx expressions.onnx
    """
    verb.add_argument("model", help=f"{MODEL}; of expressions, or an encoder")
    verb.add_argument("--onnx", type=Path, metavar="FILE", help="(extra onnx)")
    verb.add_argument("--torch", type=Path, metavar="FILE.pt2", help="a program for torch.export.load")
    verb.add_argument("--px", type=int, metavar="N", help="for crops of another size than the model's")
    verb.add_argument(
        "--opset", type=int, default=18, metavar="N", help="of ONNX (18, which most runtimes read; up to 25)"
    )
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


def _app(verb: Verb) -> None:
    """Serve a page in the browser that finds the faces in pictures and says their expressions, on this machine alone.

    Example: fer-scale app hf://ORG/expressions --open
    """
    verb.add_argument("model", help=MODEL)
    verb.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1); 0.0.0.0 lets others in")
    verb.add_argument("--port", type=int, default=7860, metavar="N", help="0 is any free one (7860)")
    verb.add_argument("--open", action="store_true", help="open it in this machine's browser")
    _faces(verb, "all")
    verb.add_argument(
        "--min-confidence", type=float, default=0.5, metavar="P",
        help="no expression is named of which the model is less sure (0.5)",
    )  # fmt: skip
    key(verb)


def _photos(verb: Verb) -> None:
    verb.add_argument(
        "photos", nargs="+", metavar="photo",
        help="a file, a folder with all below it, or a quoted glob; one without a face is no mistake, and is told",
    )  # fmt: skip


def _faces(verb: Verb, default: str) -> None:
    """Which faces of a picture, and what finds them."""
    verb.add_argument(
        "--faces", choices=("all", "largest", "whole"), default=default,
        help=f"all that are found, or the largest ({default}); whole: the pictures are face crops, look for none",
    )  # fmt: skip
    verb.add_argument(
        "--detector", metavar="FILE",
        help="what finds faces (extra faces): hf://opencv/face_detection_yunet, fetched once, or that file, "
        "face_detection_yunet_2023mar.onnx; or haar, which OpenCV brings along (default: YuNet where it was fetched "
        "or, with a model of the Hub, can be; else haar)",
    )  # fmt: skip
