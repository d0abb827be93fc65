"""fer-scale, but rank 1 has something else than rank 0: OTHER is a key of the recipe, or a version that it has."""

import os
import sys

from fer_scale.__main__ import main
from fer_scale.pretrain import begin

versions = begin.versions


def others() -> dict[str, str]:
    return versions() | {"torch": "2.0"}


if __name__ == "__main__":
    other = os.environ["OTHER"]
    if os.environ["RANK"] == "1" and "=" in other:
        sys.argv.append(other)
    elif os.environ["RANK"] == "1":
        begin.versions = others
    sys.exit(main())
