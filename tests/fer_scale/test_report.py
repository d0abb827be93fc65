"""The page of `fer-scale report`: what it holds of which runs, and what it makes of odd and hostile ones.

How it looks is tested in a browser: test_report_in_a_browser.py.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import reported
from reported import HOSTILE, NOW

from fer_scale.__main__ import main
from fer_scale.finetune import worst
from fer_scale.finetune.pool import Pool
from fer_scale.report import charts, gather, page, scale, style
from shards.index import ShardSet
from shards.remote import open_set

_ELEMENTS = set(
    "html head meta title style body a header h1 h2 h3 p time nav ul li main section article div b span dl dt dd table "
    "caption thead tbody tr th td figure figcaption svg g line path polygon rect text details summary code "
    "footer".split()
)  # fmt: skip


def text(*folders: Path) -> str:
    return page.text(*gather.gather(folders, NOW), NOW)


def parsed(html: str) -> Element:
    """Well-formed as XML, so nothing stands open and nothing is quoted wrongly."""
    return ElementTree.fromstring(html)


def words(element: Element) -> str:
    """All text of an element, and of what lies in it."""
    return " ".join(" ".join(element.itertext()).split())


def cells(root: Element, caption: str) -> dict[str, list[str]]:
    """The rows of the table with this caption, by their headings."""
    for table in root.iter("table"):
        if (found := table.find("caption")) is not None and words(found) == caption:
            rows = [[words(cell) for cell in row] for row in table.iter("tr")]
            return {row[0]: row[1:] for row in rows}
    raise AssertionError(f"no table {caption!r} in {[words(c) for c in root.iter('caption')]}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of pre-training, two of fine-tuning."""
    place = tmp_path_factory.mktemp("runs")
    pre = [reported.pretrain(place / "base"), reported.pretrain(place / "higher", lr=4e-3, steps=300)]
    return [
        *pre,
        reported.finetune(place / "few"),
        reported.finetune(place / "more", shift=0.05, names=reported.NAMES[::-1]),
    ]


def test_the_page_needs_nothing_but_itself(runs: list[Path]) -> None:
    html = text(*runs)
    root = parsed(html)
    elements = {element.tag for element in root.iter()}
    assert elements <= _ELEMENTS
    for element in root.iter():
        assert not any(name.startswith("on") or name == "style" for name in element.attrib)
        for name in ("src", "href"):
            assert element.get(name, "#").startswith(("#", "data:image/png;base64,"))
    [policy] = [meta.get("content", "") for meta in root.iter("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r"url\(|@import|https?:", html)


def test_whatever_comes_of_a_run_is_text(tmp_path: Path) -> None:
    root = parsed(text(reported.hostile(tmp_path)))
    assert {element.tag for element in root.iter()} <= _ELEMENTS
    said = words(root)
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    assert said.count("<script>hacked=1</script>") > 20 and shown in said
    assert "\u202e" not in said and "\x07" not in said  # nothing is turned round or hidden


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xfe run"
    run = reported.pretrain(tmp_path / "run").rename(Path(os.fsdecode(folder)))
    assert main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 0
    assert "\ufffd\ufffd run" in (tmp_path / "r.html").read_text()


def test_what_differs_between_runs_stands_out_and_what_is_alike_does_not(runs: list[Path]) -> None:
    root = parsed(text(*runs))
    differ = cells(root, "Recipe of pre-training: keys that differ")
    assert differ == {"": ["A base", "B higher"], "optim.lr": ["0.002", "0.004"]}
    whole = cells(root, "Recipe of pre-training, resolved")
    assert whole["optim.lr differs"] == ["0.002", "0.004"] and whole["model.mask_ratio"] == ["0.75", "0.75"]
    assert cells(root, "Conditions")["device"] == ["NVIDIA H100", "NVIDIA H100", "cpu", "cpu"]
    assert cells(root, "Data sets")["A"] == ["lfw", "13,233", "cc0-1.0", "abababababab"]


def test_one_run_is_compared_with_nothing(runs: list[Path]) -> None:
    said = words(parsed(text(runs[0])))
    assert "differ" not in said and "All 11 keys of the recipe of pre-training" in said


def test_runs_of_a_kind_share_axes_and_each_picture_says_what_it_shows(runs: list[Path]) -> None:
    root = parsed(text(*runs))
    said = [svg.get("aria-label", "") for svg in root.iter("svg") if svg.get("role") == "img"]
    [pre, fine] = [label for label in said if label.startswith("Loss. ")]
    assert pre == (
        "Loss. A: 0.583 at step 400, from 0.944 at step 10, between 0.583 and 0.944. "
        "B: 0.605 at step 300, from 0.944 at step 10, between 0.605 and 0.944."
    )
    assert "C: 0.667 at step 200" in fine and "D: " in fine
    assert (
        cells(root, "Curves of fine-tuning in numbers: last (least to greatest)")["Pseudo-labels that count"]
        == ["60 % (60 % to 60 %)"] * 2
    )
    marks = [words(mark) for mark in root.iter("title") if "step" in words(mark)]
    assert "A: went on after a stop, step 200" in marks and "C: stage 3 begins, step 120" in marks


def test_figures_of_evaluations_have_their_intervals_and_classes_are_met_by_name(runs: list[Path]) -> None:
    root = parsed(text(*runs))
    measures = cells(root, "Measures, with 95 % bootstrap intervals")
    assert measures["accuracy"] == ["61.2 % (59.0 to 63.0)", "66.2 % (59.0 to 63.0)"]
    assert measures["measured on"][0] == "500 faces of ferplus, list test of the split efefefefefef"
    assert measures["left out"] == ["3 unknown expression"] * 2
    [recall] = [s.get("aria-label", "") for s in root.iter("svg") if s.get("aria-label", "").startswith("Recall by")]
    assert "neutral, C: 95.0 % (88.8 to 97.8); neutral, D: 55.6 % (" in recall  # Wilson's interval of 95 in 100
    assert cells(root, "Confusions of C few")["happiness"][:2] == ["7 12", "·"]
    shades = {td.get("class") for td in root.iter("td")} - {None, "long"}
    assert shades >= {f"h{level}" for level in (0, 1, 2, 4, 5, 6, 10)}


def test_several_evaluations_of_a_run_are_told_apart(tmp_path: Path) -> None:
    run = reported.finetune(tmp_path / "few")
    other = run / "evaluation-valid" / "metrics.json"
    other.parent.mkdir()
    other.write_text(json.dumps(reported.evaluation(reported.NAMES, shift=0.1)))
    head = cells(parsed(text(run)), "Measures, with 95 % bootstrap intervals")[""]
    assert head == ["Aa few: evaluation", "Ab few: evaluation-valid"]


def test_what_a_rival_reaches_is_not_told_as_the_runs_own(tmp_path: Path) -> None:
    run = reported.finetune(tmp_path / "few")
    own = run / "evaluation" / "metrics.json"
    (run / "pixels").mkdir()

    def card() -> str:
        [found] = [article for article in parsed(text(run)).iter("article") if "few" in words(article)]
        return words(found)

    assert "accuracy" in card()
    own.write_text(json.dumps(json.loads(own.read_text()) | {"model": "baseline:pixels"}))
    assert "accuracy" not in card()
    own.rename(run / "pixels" / "metrics.json")
    root = parsed(text(run))
    measures = cells(root, "Measures, with 95 % bootstrap intervals")
    assert measures[""] == ["A few: pixels"] and measures["model"] == ["baseline:pixels"]
    assert "accuracy" not in card()


def test_a_run_that_still_trains_is_told_as_such(tmp_path: Path) -> None:
    run = reported.pretrain(tmp_path / "run")
    now = run.joinpath("metrics.jsonl").stat().st_mtime + 5
    root = parsed(page.text(*gather.gather([run], now), now))
    said = words(root)
    assert "▶ running" in said and "400 of 1,000 (40%)" in said and "to stop it with everything saved: touch" in said
    cost = cells(root, "Time and device time")
    assert cost["steps lost"] == ["50 steps"]  # of the start that died: not those since the last checkpoint of this one
    assert float(cost["device-hours in training steps"][0]) == pytest.approx((400 + 50) * 0.1 * 2 / 3600, rel=0.01)


def test_a_run_with_nothing_but_a_start_has_a_page(tmp_path: Path) -> None:
    reported.lines(tmp_path / "run/attempts/0001/claim.json", [{"time": reported.when(0), "host": "node7"}])
    said = words(parsed(text(tmp_path / "run")))
    assert "No step of A run has been logged yet." in said and "node7" in said and "0 steps" not in said


def test_lines_that_a_kill_cut_short_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = reported.pretrain(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 410, "lo')
    assert main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 0
    assert "cut short" in capsys.readouterr().err
    assert "a line of its .jsonl files was cut short, and is left out" in words(
        parsed((tmp_path / "r.html").read_text())
    )


def test_what_watch_found_is_drawn_over_the_images_seen(tmp_path: Path) -> None:
    run = reported.pretrain(tmp_path / "run")
    rows = [{"step": s, "images": 64 * s, "accuracy": 0.3 + s / 2000, "uar": 0.2} for s in (200, 400)]
    reported.lines(run / "watch.jsonl", [*rows, {"step": 600, "problem": "damaged"}])
    root = parsed(text(run))
    shown = [svg.get("aria-label", "") for svg in root.iter("svg")]
    assert any("A: 50 % at images seen 25.6k, from 40 % at images seen 12.8k" in label for label in shown)
    table = next(t for t in root.iter("table") if words(t).startswith("Checkpoints that fer-scale watch measured"))
    assert "600 – – – damaged" in words(table)


def test_a_sweep_shows_its_table(tmp_path: Path) -> None:
    root = parsed(text(reported.sweep(tmp_path / "ladder")))
    rows = cells(root, "Sweep ladder: accuracy / uar, %")
    assert rows[""] == ["5% (1,064 labels)", "25/class (200 labels)"]
    assert rows["2 few_labels"] == ["62.0 ± 2.0 / 52.0 ± 2.0", "– / –"]


def test_faces_are_shown_to_who_asks_only(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reconstructions and the surest mistakes; the set is read again for these."""
    run, shard_set = reported.finetune(tmp_path / "few"), open_set(faces)
    reported.picture(run / "reconstructions.png")
    recipe = (run / "recipe.toml").read_text().replace("/data/ferplus", str(faces))
    (run / "recipe.toml").write_text(recipe)
    said = json.loads((run / "evaluation" / "metrics.json").read_text())
    (run / "evaluation" / "metrics.json").write_text(json.dumps(said | {"fingerprint": shard_set.fingerprint}))
    with (run / "evaluation" / "predictions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "expression", "predicted", "confidence", "anger", "fear"])
        for number, key in enumerate(sorted(shard_set.keys(0) + shard_set.keys(1))[::-1][:6]):
            table.writerow([key, "anger", ["fear", "anger"][number % 2], 0.5 + number / 20, 0.3, 0.7])
    out = tmp_path / "r.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "data:image/png" not in out.read_text() and f"fer-scale report {run} --faces" in words(
        parsed(out.read_text())
    )
    assert main(["report", str(run), "--out", str(out), "--faces"]) == 0
    assert "do not publish" in capsys.readouterr().out
    root = parsed(out.read_text())
    pictures = [img.get("src", "") for img in root.iter("img")]
    assert len(pictures) == 1 + 3 and all(uri.startswith("data:image/png;base64,") for uri in pictures)
    assert all(img.get("alt") for img in root.iter("img"))
    assert "3 of 3 mistakes, the surest first. fear 0.70" in words(root)


def test_faces_that_the_page_would_not_show_are_not_offered(tmp_path: Path) -> None:
    run, out = reported.finetune(tmp_path / "few"), tmp_path / "r.html"
    (run / "evaluation").rename(run / "evaluation-valid")
    (run / "evaluation-valid" / "predictions.csv").touch()
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "--faces" not in words(parsed(out.read_text()))


def test_a_page_on_which_no_face_is_says_nothing_of_publishing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = reported.finetune(tmp_path / "few"), tmp_path / "r.html"
    shutil.rmtree(run / "evaluation")
    assert main(["report", str(run), "--out", str(out), "--faces"]) == 0
    said = words(parsed(out.read_text()))
    assert "There are no pictures of faces." in said and "publish it" not in said + capsys.readouterr().out


def test_mistakes_are_those_of_whoever_was_evaluated_on_the_set_that_it_was_evaluated_on(
    faces: Path, tmp_path: Path
) -> None:
    """The run's own set may be another, or named from another folder."""
    run, shard_set = reported.finetune(tmp_path / "few"), open_set(faces)
    said = json.loads((run / "evaluation" / "metrics.json").read_text())
    said |= {"model": "baseline:pixels", "shards": str(faces), "fingerprint": shard_set.fingerprint}
    (run / "evaluation" / "metrics.json").write_text(json.dumps(said))
    row = f"{shard_set.keys(0)[0]},anger,fear,0.9,0.1,0.9"
    (run / "evaluation" / "predictions.csv").write_text(f"key,expression,predicted,confidence,anger,fear\n{row}\n")
    assert main(["report", str(run), "--out", str(tmp_path / "r.html"), "--faces"]) == 0
    said = words(parsed((tmp_path / "r.html").read_text()))
    assert "1 of 1 mistakes of baseline:pixels, the surest first. fear 0.90" in said


def test_faces_of_another_set_are_not_shown(faces: Path, tmp_path: Path) -> None:
    run = reported.finetune(tmp_path / "few")
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text().replace("/data/ferplus", str(faces)))
    rows = "key,expression,predicted,confidence,anger,fear\n0,anger,fear,0.9,0.1,0.9\n"
    (run / "evaluation" / "predictions.csv").write_text(rows)
    assert main(["report", str(run), "--out", str(tmp_path / "r.html"), "--faces"]) == 0
    said = words(parsed((tmp_path / "r.html").read_text()))
    assert "not shown" in said and "is not the set that was evaluated on" in said


@pytest.mark.parametrize(
    "rows",
    [
        b"key,expression,predicted,confidence,anger,fear\n0,anger,fear,0.9,0.1,0.9\n1,anger,fe",
        b"key,expression,predicted,confidence,anger,fear\n0,anger,fear,much,0.1,0.9\n",
        b"key,expression,predicted,confidence,anger\n0,fear,anger,0.9,0.9\n",
        b"\xff\n0\n",
    ],
)
def test_predictions_that_were_cut_are_told_of_and_the_rest_of_the_page_stands(tmp_path: Path, rows: bytes) -> None:
    run = reported.finetune(tmp_path / "few")
    (run / "evaluation" / "predictions.csv").write_bytes(rows)
    assert main(["report", str(run), "--out", str(tmp_path / "r.html"), "--faces"]) == 0
    said = words(parsed((tmp_path / "r.html").read_text()))
    assert "not shown" in said and "predictions.csv: is damaged; run `fer-scale evaluate` again" in said


def test_nobody_elses_face_stands_for_one_that_cannot_be_read(faces: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(faces, tmp_path / "faces"))
    shard_set = ShardSet.open(copy)
    pool = Pool(shard_set, shard_set.keys(0)[:4], slot_px=64)
    span, _ = shard_set.span(0, 1)
    [tar] = [file for file in copy.glob("*.tar") if bytes(span) in file.read_bytes()]
    middle = bytes(span[:700]) + bytes(64) + bytes(span[764:])
    tar.write_bytes(tar.read_bytes().replace(bytes(span), middle))
    shown = worst.pictures(Pool(ShardSet.open(copy), pool.keys, slot_px=64), np.arange(4))
    assert [picture is None for picture in shown] == [False, True, False, False]


def test_a_script_reads_what_the_page_holds(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder" / "r.html"
    assert main(["report", *map(str, runs), "--out", str(out), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert [run["letter"] for run in held["runs"]] == ["A", "B", "C", "D"] and held["page"] == str(out)
    assert held["runs"][0]["last"]["step"] == 400 and held["runs"][2]["evaluations"]["evaluation"]["uar"] == 0.5
    assert out.read_text().startswith("<!DOCTYPE html>")


def _broken(run: Path, name: str, line: str | bytes) -> Path:
    with (run / name).open("ab") as file:
        file.write((line.encode() if isinstance(line, str) else line) + b"\n")
    return run


def test_mistakes_are_told_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was given, and what is said: where and what on the first line, what to do on the second."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "many").mkdir()
    (tmp_path / "unbegun").mkdir()
    (tmp_path / "unbegun" / "recipe.toml").write_text("[run]\nsteps = 9\n")
    good, out = reported.pretrain(tmp_path / "many" / "run"), tmp_path / "r.html"
    (tmp_path / "notes.txt").write_text("mine")
    few = reported.finetune(tmp_path / "few")
    mixed = reported.finetune(tmp_path / "mixed")
    (mixed / "evaluation" / "metrics.json").write_text(
        json.dumps({"confusion": 7, "label_names": "x", "samples": "many"})
    )
    cases = [
        (tmp_path / "nowhere", out, "no such folder", "give the folder of a run"),
        (good / "recipe.toml", out, "is a file", "give the folder of a run"),
        (tmp_path / "empty", out, "no run", "give the folder of a run"),
        (tmp_path / "many", out, "no run", "there are runs in it: run"),
        (few / "evaluation", out, "no run", f"give its run: {few}"),
        (tmp_path / "unbegun", out, "has not begun", "start it"),
        (_broken(reported.pretrain(tmp_path / "a"), "metrics.jsonl", "[1, 2]"), out, "line 41 is not of a run", "mend"),
        (_broken(reported.pretrain(tmp_path / "b"), "events.jsonl", '{"step": 3}'), out, "line 6", "mend that line"),
        (_broken(reported.pretrain(tmp_path / "c"), "metrics.jsonl", b"\xff\xfe"), out, "line 41 is not text", "mend"),
        (
            _broken(reported.pretrain(tmp_path / "d"), "events.jsonl", '{"event": "start"}'),
            out,
            "what no run",
            "put back",
        ),
        (_broken(reported.pretrain(tmp_path / "e"), "recipe.toml", "[oops"), out, "recipe.toml", ""),
        (mixed, out, "what no run writes", "put back"),
        (good, tmp_path / "empty", "is a folder", "--out"),
        (good, tmp_path / "notes.txt", "no page of HTML", "--out"),
        (good, tmp_path / "notes.txt" / "r.html", "cannot be written", "--out"),
    ]
    for folder, target, what, to_do in cases:
        assert main(["report", str(folder), "--out", str(target)]) == 2, folder
        said = capsys.readouterr().err
        first, _, second = said.strip().partition("\n")
        assert first.startswith("fer-scale report: ") and what in first and to_do in second, said
        assert "Traceback" not in said and "\n" not in second
    assert not out.exists() and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_page_is_replaced_by_a_newer_one_whole(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    for folder in runs[:2]:
        assert main(["report", str(folder), "--out", str(out)]) == 0
    assert "Report: higher" in out.read_text() and sorted(tmp_path.iterdir()) == [out]


def test_a_page_goes_down_a_pipe_and_into_a_device(runs: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs[0]), "--out", "/dev/null"]) == 0
    assert "any browser shows it" in capfd.readouterr().err
    words = [sys.executable, "-m", "fer_scale", "report", str(runs[0]), "--out", "/dev/stdout"]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.stdout.lower().startswith("<!doctype html>") and done.stdout.rstrip().endswith("</html>")
    assert "any browser shows it" in done.stderr
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=120, cwd=root)
    assert (done.returncode, done.stdout) == (2, "") and "would both write into stdout" in done.stderr


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    run = reported.pretrain(tmp_path / "run")
    rows = [{"step": s, "loss": 1 / s, "lr": 1e-3, "images_per_s": 640.0, "grad_norm": s % 9} for s in range(1, 20_001)]
    reported.lines(run / "metrics.jsonl", rows)
    html = text(run)
    assert len(html) < 100_000
    assert "A: 5e-5 at step 20k, from 1 at step 1, between 5e-5 and 1" in html  # the words are of all steps


def test_points_that_are_put_together_keep_their_extremes_and_gaps() -> None:
    points = [(float(x), None if 40 <= x < 80 else float(x == 7)) for x in range(100)]
    thin = scale.thinned(points, most=10)
    assert thin[0] == (5.0, 0.1, 0.0, 1.0) and thin[4:8] == [None] * 4 and len(thin) == 10
    assert scale.thinned([(1.0, 2.0)]) == [(1.0, 2.0, 2.0, 2.0)] and scale.thinned([]) == []


def test_ticks_are_round_and_within_the_axis() -> None:
    assert scale.steps(0.03, 0.97) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert scale.steps(-1, 1) == [-1, -0.5, 0, 0.5, 1]
    assert scale.decades(1e-11, 1e-2) == pytest.approx([1e-11, 1e-9, 1e-7, 1e-5, 1e-3])
    axis = scale.around([3.0, 3.0], 0, 100)
    assert axis.low < 3 < axis.high and axis.at(3.0) == pytest.approx(50)
    assert scale.around([0.02, 30.0], 0, 100, log=True).ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(0, "", "0"), (0.4891, "", "0.489"), (2e-3, "", "0.002"), (1.74e-9, "", "1.7e-9"), (1800, "", "1,800"),
     (999.6, "", "1,000"), (999_600, "", "1M"), (999_999_000, "", "1G"), (5e12, "", "5T"),
     (12_345, "", "12.3k"), (2.5e6, "", "2.5M"), (0.7275, "%", "72.8 %"), (-0.5, "", "-0.5")],
)  # fmt: skip
def test_numbers_are_short(value: float, unit: str, said: str) -> None:
    assert scale.short(value, unit) == said


def test_values_of_other_kinds_are_no_points() -> None:
    assert [gather.number(v) for v in (True, "1", None, float("nan"), float("inf"), 10**400, [1], 2)] == [None] * 7 + [
        2.0
    ]


def test_letters_of_lines_that_end_together_do_not_cover_each_other() -> None:
    series = [charts.Series(n, letter, [(0, 1.0), (1, 1.0)]) for n, letter in enumerate("ABCDE")]
    root = ElementTree.fromstring(charts.lines(charts.Panel("Loss", series)))
    heights = [float(t.get("y", "")) for t in root.iter("text") if t.get("class") == "letter"]
    assert len(heights) == 5 and min(b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)) >= 11


def _luminance(colour: str) -> float:
    """Of #rgb or #rrggbb, as WCAG 2.2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("declared", [style._LIGHT, style._DARK])
def test_colours_can_be_told_from_what_they_stand_on(declared: str) -> None:
    """axe sees no text in pictures: text there and elsewhere 4.5:1, lines and bars 3:1, and each on each ground."""
    c = dict(re.findall(r"--(\w+): (#\w+);", declared))
    grounds = [("ink", "paper"), ("ink", "raised"), ("ink", "warm"), ("soft", "paper"), ("soft", "raised")]
    grounds += [("accent", "paper"), ("bad", "raised"), *(("on", f"c{n}") for n in range(8)), ("on", "ink")]
    grounds += [("ink" if level < 6 else "most", f"h{level}") for level in range(11)]
    weak = [(text, on) for text, on in grounds if _contrast(c[text], c[on]) < 4.5]
    weak += [(f"c{n}", "paper") for n in range(8) if _contrast(c[f"c{n}"], c["paper"]) < 3]
    assert not weak
