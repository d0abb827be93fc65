"""What the verbs of a finished model do: photos and pictures for people, and files for other programs."""

import sys
from argparse import Namespace

from fer_scale.verbs import PROBLEM, imports


def _predict(args: Namespace) -> int:
    with imports():
        from fer_scale import log, predict

    found, problems = predict.predict(args.model, args.images, box=tuple(args.box) if args.box else None, key=args.key)
    if args.json:
        log.print_json(found)
    else:
        for said in found:
            print(f"{said['image']}  {said['label']}  {said['confidence']:.2f}")
    for problem in problems:
        print(f"fer-scale {args.verb}: {problem}", file=sys.stderr)
    return PROBLEM if problems else 0
