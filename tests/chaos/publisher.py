"""Publishes a model folder, as `fer-scale publish` and training do it, and then says the address: FOLDER ADDRESS."""

import sys
from pathlib import Path

from fer_scale import hub, hub_xet

hub_xet.CHUNKS_AT = "local://.+"  # where the Hub of the tests has them
print(hub.push(Path(sys.argv[1]), sys.argv[2], message="release"))
