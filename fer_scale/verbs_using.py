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


def _report(args: Namespace) -> None:
    import time

    from fer_scale import log
    from fer_scale.report import gather, page

    now = time.time()
    runs, sweeps = gather.gather(args.runs, now)
    faces = None
    if args.faces:
        with imports():
            from fer_scale.report import faces as pictures
        faces = pictures.section(runs)
    page.write(args.out, page.text(runs, sweeps, now, faces=faces))
    for run in runs:
        for problem in run.problems:
            log.say(f"{run.folder}: {problem}")
    if args.json:
        log.print_json(gather.held(runs, sweeps) | {"page": str(args.out)})
        return
    what = ", ".join(log.plural(len(all_), noun) for all_, noun in ((runs, "run"), (sweeps, "sweep")) if all_)
    print(f"{args.out}: {what}, {log.size(args.out.stat().st_size)}; any browser shows it")
    if args.faces:
        print("It shows faces of real people: do not publish it.")
