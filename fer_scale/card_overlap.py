"""What a card says of test faces that lie in the data of training: from reports of `fer-scale overlap`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_scale.markdown import inline
from shards.errors import UserError

NOT_EXAMINED = (
    "Whether faces that this model may be tested on lie in these data was not examined (`fer-scale overlap` does it)."
)


class OverlapReportError(UserError):
    """A report that says nothing about this model's data."""


def sentences(files: Sequence[Path], data: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each report.json, which must be of a set in `data`, the rows of the run's data.json."""
    trained_on = {row.get("fingerprint"): str(row.get("name")) for row in data}
    said = []
    for file in files:
        try:
            report = json.loads(file.read_text())
            fingerprint, within = report["a"]["fingerprint"], report["within"]
            text = _sentence(report)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise OverlapReportError(
                f"{file}: no report of `fer-scale overlap` ({why}); give its report.json"
            ) from None
        if within:
            raise OverlapReportError(
                f"{file}: compares a set with itself; name what is tested on with --split and --list"
            )
        if fingerprint not in trained_on:
            sets = ", ".join(trained_on.values()) or "unknown sets"
            raise OverlapReportError(
                f"{file}: is of the set {report['a']['set']!r} ({str(fingerprint)[:12]}), but the model was trained on "
                f"{sets}; compare the set that it was trained on"
            )
        said.append(text)
    return said


def _sentence(report: dict[str, Any]) -> str:
    a, b, found = report["a"], report["b"], report["b"]["with_copies"]
    tested = f"{b['faces']:,} faces of {inline(str(b['set']))}" + (f" (list {b['list']['name']})" if b["list"] else "")
    where = f"the {a['faces']:,} {'other faces' if a['fingerprint'] == b['fingerprint'] else 'faces'} of "
    kinds = f"{found['exact']:,} exact, {found['near']:,} near by perceptual hashes"
    if seen := report["encoder"]:
        kinds += f", {found['similar']:,} more by an encoder's features (cosine of {seen['cosine']:.2f} or more)"
    return (
        f"Of {tested}, {found['any']:,} ({100 * found['share']:.2f} %) have a near copy among {where}"
        f"{inline(str(a['set']))}: {kinds}. Faces that were left out of the training are counted too."
    )
