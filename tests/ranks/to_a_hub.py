"""fer-scale, for which the loopback Hub at HUB is the Hub. What it starts learns that from its environment.

With ONE_BY_ONE, each step waits until no publication is under way. With SPOILED, the state is as spoiled.py says.
"""

import os
import sys
import tempfile
import time

import spoiled
from huggingface_hub import constants

from fer_scale.__main__ import main
from fer_scale.pretrain import publishing
from fer_scale.pretrain.publishing import Publisher
from fer_scale.pretrain.saving import Saver

look = Publisher.look


def patient_look(self: Publisher) -> None:
    look(self)
    while self._running:
        time.sleep(0.02)
        look(self)


if __name__ == "__main__":  # readers import this file again
    assert publishing._NICE == 19
    publishing._NICE = 0  # tests run beside one another, and wait for it
    tempfile.tempdir = None  # TMPDIR is read again
    constants.ENDPOINT = os.environ["HF_ENDPOINT"] = os.environ["HUB"]
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": os.environ["CACHE"], "HF_TOKEN": "hf_alicewritestolab"}
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_CACHE = os.path.join(os.environ["CACHE"], "hub")
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    if "ONE_BY_ONE" in os.environ:
        Publisher.look = patient_look  # type: ignore[method-assign]
    if "SPOILED" in os.environ:
        Saver.begin = spoiled.spoiled  # type: ignore[method-assign]
    sys.exit(main())
