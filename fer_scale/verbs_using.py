"""What the verbs of a finished model do: photos and pictures for people, and files for other programs."""

import sys
from argparse import Namespace

from fer_scale.verbs import PROBLEM, imports, result


def _predict(args: Namespace) -> int:
    with imports():
        from fer_scale import drawn, log, photos, predict, predicted

    files, unread, taken = photos.listed(args.photos), 0, set[str]()
    which: predict.Faces = "whole" if args.box else args.faces
    model = predict.load(args.model, faces=which, key=args.key, detector=args.detector)
    box = tuple(args.box) if args.box else None
    with predicted.table(args.csv, model.names) as add, log.progress("photos", "photos") as tick:
        for number, photo in enumerate(model.stream(files, box=box, min_confidence=args.min_confidence), 1):
            add(photo)
            if args.draw and photo.is_read:
                drawn.write(photo, args.draw, taken)
            for line in [predicted.as_json(photo)] if args.json else predicted.as_text(photo):
                print(line, flush=True)
            if photo.problem:
                print(f"fer-scale {args.verb}: {photo.problem}", file=sys.stderr)
            unread += not photo.is_read
            tick(number, len(files))
    return PROBLEM if unread else 0


def _export(args: Namespace) -> None:
    with imports():
        from fer_scale import export, log

    log.say(f"exporting {args.model}: a quarter of a minute, or more for a large model")
    made = export.export(args.model, args.onnx, args.torch, px=args.px, opset=args.opset, key=args.key)
    result(args, made)


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


def _app(args: Namespace) -> None:
    with imports():
        from fer_scale import app

    app.serve(
        args.model, host=args.host, port=args.port, faces=args.faces, min_confidence=args.min_confidence,
        detector=args.detector, key=args.key, show=args.open,
    )  # fmt: skip
