"""fer-scale as somebody types it in a folder, with the Hub on loopback: typed.py FOLDER HUB WORDS...

Set here and not by whoever starts it: a process whose environment differs in HF_... is started anew instead of forked.
"""

import os
import sys
from pathlib import Path

from huggingface_hub import constants

from fer_scale import hub_client
from fer_scale.__main__ import main

if __name__ == "__main__":
    folder, endpoint, *sys.argv[1:] = sys.argv[1:]
    os.chdir(folder)
    endpoint = os.environ.setdefault("HF_ENDPOINT", endpoint)
    constants.ENDPOINT = endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH = str(Path("cache").absolute()), str(Path("no token").absolute())
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_OFFLINE = "HF_HUB_OFFLINE" in os.environ
    hub_client.WAIT_S, hub_client.SILENCE_S, hub_client.PATIENCE_S = 0.01, 0.5, 1.0
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # to take apart all that was imported is half of such a short life
