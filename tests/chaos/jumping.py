"""fer-scale on a machine whose clock jumps by up to a month at each look, forwards and back."""

import os
import random
import sys
import time

from disturbed import as_a_driver

from fer_scale.__main__ import main

clock, draw = time.time, random.Random(os.environ["RANK"])


def jumping() -> float:
    return clock() + draw.uniform(-1, 1) * 30 * 86400


if __name__ == "__main__":
    as_a_driver()
    time.time = jumping
    sys.exit(main())
