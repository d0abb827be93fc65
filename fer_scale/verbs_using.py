"""What the verbs of a finished model do: photos and pictures for people, and files for other programs."""

import itertools
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_scale.verbs import PROBLEM, imports, result
from shards.boxes import WHOLE
from shards.errors import UserError

if TYPE_CHECKING:
    from fer_scale.cuts import Cut


def _predict(args: Namespace) -> int:
    which = _looked_for(args, args.box)
    with imports():
        from fer_scale import drawn, log, photos, predict, predicted

    files, failed = photos.listed(args.photos), 0
    # No drawing takes the place of a photo.
    taken = {file.name: 1 for file in files if args.draw and file.resolve().parent == args.draw.resolve()}
    model = predict.load(args.model, faces=which, key=args.key, detector=args.detector)
    box = tuple(args.box) if args.box else None
    answers = model.stream(files, box=box, min_confidence=args.min_confidence)
    quiet = args.json and sys.stdout and sys.stdout.isatty()  # a bar there breaks long lines, and so the JSON
    with predicted.table(args.csv, model.names) as add, log.progress("photos", "photos", shown=not quiet) as tick:
        for number, photo in enumerate(answers, 1):
            add(photo)
            for line in [predicted.as_json(photo)] if args.json else predicted.as_text(photo):
                print(line, flush=True)
            problems = [photo.problem] if photo.problem else []
            failed += not photo.is_answered
            if args.draw and photo.is_read:
                try:
                    drawn.write(photo, args.draw, taken)
                except photos.PhotoError as error:  # read once more: it may be gone by now, and a pipe is empty
                    problems.append(f"{error}; it is not drawn")
                    failed += 1
            for problem in problems:
                print(f"fer-scale {args.verb}: {problem}", file=sys.stderr)
            tick(number, len(files))
    return PROBLEM if failed else 0


def _looked_for(args: Namespace, box: object = None) -> Any:
    """Which faces of a photo are looked for; UserError for an option that would do nothing."""
    if box and args.faces == "all":
        raise UserError("--box is the one face in each photo, and --faces all are more; leave one of them out")
    which = "whole" if box else args.faces
    if which == "whole" and args.detector:
        raise UserError("--detector finds faces, and with --box or --faces whole none are looked for; leave it out")
    return which


def _explain(args: Namespace) -> int:
    _looked_for(args)
    with imports():
        from fer_scale import explain, log, photos
        from fer_scale.pretrain import painted

    files = photos.listed(args.photos)
    args.out.mkdir(parents=True, exist_ok=True)
    paints = painted.is_run(args.model) or not explain.has_labels(args.model, args.key)
    found, without = list[dict[str, Any]](), list["Cut"]()
    for row in _painted(args, files, without) if paints else _explained(args, files, without):
        found.append(row)
        if not args.json:
            print(explain.line(row), flush=True)
    if args.json:
        log.print_json(found)
    elif found:
        print("These pictures show faces; of real people, do not publish them.")
    for cut in without:
        print(f"fer-scale {args.verb}: {cut.problem}", file=sys.stderr)
    return 0 if all(cut.is_answered for cut in without) else PROBLEM


def _explained(args: Namespace, files: list[Path], without: list["Cut"]) -> Iterator[dict[str, Any]]:
    """Maps of what an expression model goes by, a picture a face."""
    from fer_scale import explain, log, predict

    model = predict.load(args.model, faces=args.faces, key=args.key, detector=args.detector)
    name = explain.namer(args.out, files)
    with log.progress("explaining", "photos") as tick:
        for number, file in enumerate(files, 1):
            for crop in explain.crops(
                [file], model.px, model.finder, model.place,
                largest=model.largest, crop_pct=model.crop_pct, without=without,
            ):  # fmt: skip
                yield explain.explain(model, crop, name(crop))
            tick(number, len(files))


def _painted(args: Namespace, files: list[Path], without: list["Cut"]) -> Iterator[dict[str, Any]]:
    """What a masked autoencoder makes of faces, some to a picture, which is drawn before the next are cut out."""
    from fer_scale import explain, faces, hub
    from fer_scale.pretrain import painted

    painter = painted.load(args.model, args.key)
    finder = None if args.faces == "whole" else faces.finder(args.detector, remote=hub.is_remote(args.model))
    place = faces.place_of(finder.name, painter.block) if finder else WHOLE
    largest, theirs, before = args.faces == "largest", {file.resolve() for file in files}, 0
    crops = explain.crops(files, painter.px, finder, place, largest=largest, crop_pct=1.0, without=without)
    numbered = (args.out / f"reconstructions-{number:03d}.png" for number in itertools.count(1))
    free = (file for file in numbered if file.resolve() not in theirs)  # none as one of the photos
    while some := list(itertools.islice(crops, painted.ROWS)):
        file = next(free)
        names = [f"{Path(crop.photo).name} {crop.number}" for crop in some]
        errors = painted.paint(painter, [crop.pixels for crop in some], names, before, file)
        for crop, error in zip(some, errors, strict=True):
            box = [round(edge, 1) for edge in crop.box]
            yield {"photo": crop.photo, "box": box, "error": error, "picture": str(file)}
        before += len(some)


def _export(args: Namespace) -> None:
    with imports():
        from fer_scale import export, log

    log.say(f"exporting {args.model}: a quarter of a minute, or more for a large model")
    made = export.export(args.model, args.onnx, args.torch, px=args.px, opset=args.opset, key=args.key)
    result(args, made)


def _report(args: Namespace) -> None:
    import time

    from fer_scale import disk, log
    from fer_scale.report import gather, page

    if args.json and disk.straight(args.out) == 1:
        raise UserError(f"--json and --out {args.out} would both write into stdout; leave one of them out")
    now = time.time()
    runs, sweeps = gather.gather(args.runs, now)
    faces = None
    if args.faces:
        with imports():
            from fer_scale.report import faces as pictures
        faces = pictures.section(runs)
    written = page.text(runs, sweeps, now, faces=faces)
    page.write(args.out, written)
    for run in runs:
        for problem in run.problems:
            log.say(f"{run.folder}: {problem}")
    if args.json:
        log.print_json(gather.held(runs, sweeps) | {"page": str(args.out)})
        return
    what = ", ".join(log.plural(len(all_), noun) for all_, noun in ((runs, "run"), (sweeps, "sweep")) if all_)
    say = log.say if disk.straight(args.out) else print  # not behind the page
    say(f"{args.out}: {what}, {log.size(len(written.encode()))}; any browser shows it")
    if page.shows_people(faces):
        say("It shows faces of real people: do not publish it.")


def _app(args: Namespace) -> None:
    _looked_for(args)
    with imports():
        from fer_scale import app

    app.serve(
        args.model, host=args.host, port=args.port, faces=args.faces, min_confidence=args.min_confidence,
        detector=args.detector, key=args.key, show=args.open,
    )  # fmt: skip
