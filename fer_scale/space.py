"""A Space of the Hugging Face Hub for an expression model: what `fer-scale publish MODEL TO --space` writes.

    app.py              serves the page of `fer-scale app`
    README.md           how the Hub is to run it, the model that it uses, and its limits
    requirements.txt    the packages that the page needs, in the versions that run here
    fer_scale/ shards/  this program
    model/              the model, if it lay in a folder

A model on the Hub stays there, and the Space names its commit; it says where its results come from, and a new version
is a decision. The same model and the same installation give the same bytes.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fer_scale import __version__, app_page, artifact, card_reading, disk, encoder, front_matter, hub, log, scratch
from fer_scale.card_reading import CardSaid
from fer_scale.markdown import code, inline, one_line
from shards.detector import ON_THE_HUB
from shards.errors import UserError

SPACE = "hf://spaces/"
_PACKAGES = Path(__file__).parents[1]
_OURS = ("fer_scale", "shards")
_NEEDED = (  # by the page; Pillow, PyYAML and the server come with these
    "gradio", "huggingface-hub", "numpy", "opencv-python-headless", "rich", "safetensors", "simplejpeg", "timm",
    "torch", "torchvision",
)  # fmt: skip
_LONGEST_TITLE = 80
_APP = '''\
"""The page of an expression model as a Space of the Hugging Face Hub; `python app.py` serves it on this machine."""

import os
{more}
from fer_scale import app

MODEL = {model}

app.serve(
    MODEL,{detector}
    host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),  # which the Hub sets
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
)
'''
_README = """\
# {title}

Finds the faces in a picture and says which expression each shows, with the model {model}.

{feeling} It is here to show what the model does, and no service to judge people by.

{privacy}

## Run it here

```
pip install -r requirements.txt
python app.py
```

{private}The program is fer_scale {version} (Apache-2.0), whose files lie in `fer_scale` and `shards`.

## Licence

Of the model: {licence}.

## Limits

{limits}
"""  # what a card says is last: nothing that it leaves open swallows more
_PRIVATE = "If the model is private, give the Space a secret HF_TOKEN that may read it. "


class SpaceError(UserError):
    """A Space that cannot be made of this model, or not there."""


def publish(model: str, to: str, *, title: str | None = None, private: bool = False) -> str:
    """Write the Space of the model in a folder or at an hf:// address to a folder, or push it to hf://spaces/ORG/NAME.

    Returns the address. A folder must be new or empty; it is there whole or not at all.
    """
    if hub.is_remote(to) and not to.startswith(SPACE):
        raise SpaceError(f"{to}: is no Space; one on the Hub is {SPACE}ORG/NAME")
    folder = None if to.startswith(SPACE) else Path(to)
    if folder:
        _refuse_taken(folder)
    with log.progress(f"pulling {model}", "bytes") as tick:
        pulled = hub.pull(model, progress=tick)
    with scratch.folder() as made:
        space = made / "space"
        _write(space, pulled, title)
        if folder is None:
            files = {str(path.relative_to(space)): path for path in sorted(space.rglob("*")) if path.is_file()}
            with log.progress(f"publishing to {to}", "bytes") as tick:
                return hub.push_files(
                    files, to, message="Publish a page with fer_scale", private=private, progress=tick
                )
        with artifact.disk_errors(folder), disk.alone(folder), artifact.in_place(folder, _refuse_taken) as beside:
            shutil.copytree(space, beside, dirs_exist_ok=True)
    return str(folder)


def _refuse_taken(folder: Path) -> None:
    artifact.refuse_fixed(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SpaceError(f"{folder}: is there already, and a Space is written anew; remove it, or name another folder")


def _write(space: Path, pulled: hub.Pulled, title: str | None) -> None:
    config, card = encoder.config_of(pulled.folder), card_reading.read(pulled.folder)
    if not config.get("label_names"):
        raise SpaceError(f"{pulled.address}: is an encoder without expressions; fine-tune it first")
    if not artifact.published(pulled.folder):
        raise SpaceError(f"{pulled.address}: has no card; publish it first: fer-scale publish RUN FOLDER --licence ...")
    for package in _OURS:
        for file in sorted((_PACKAGES / package).rglob("*.py")):
            copy = space / file.relative_to(_PACKAGES)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    if (pulled.folder / "LICENSE").is_file():  # to which the front matter leads
        shutil.copyfile(pulled.folder / "LICENSE", space / "LICENSE")
    remote = hub.is_remote(pulled.address)
    if not remote:
        (space / "model").mkdir()
        for name, file in artifact.files(pulled.folder).items():
            shutil.copyfile(file, space / "model" / name)
    app = _APP.format(
        more="" if remote else "from pathlib import Path\n",
        model=f'"{pulled.address}"' if remote else 'str(Path(__file__).parent / "model")',
        # Beside a model of the Hub it is the default; SPACE_ID is set there, and at home nobody is asked.
        detector="" if remote else f'\n    detector="{ON_THE_HUB}" if "SPACE_ID" in os.environ else None,',
    )
    texts = {"app.py": app, "requirements.txt": "".join(f"{line}\n" for line in _pinned())}
    texts["README.md"] = _readme(pulled, config, card, title)
    for name, text in texts.items():
        (space / name).write_text(text, encoding="utf-8")


def _pinned() -> Iterator[str]:
    """The packages with the versions that run here, without what a build added to them, as torch's +cpu."""
    for name in _NEEDED:
        try:
            yield f"{name}=={metadata.version(name).partition('+')[0]}"
        except metadata.PackageNotFoundError:
            raise SpaceError(
                f"{name} is not installed, and a Space names the versions that run here: pip install 'fer_scale[app]'"
            ) from None


def _readme(pulled: hub.Pulled, config: dict[str, Any], card: CardSaid, title: str | None) -> str:
    remote = hub.is_remote(pulled.address)
    title = one_line(title or card.title or "Facial expressions")
    front: dict[str, Any] = {
        "title": title[:_LONGEST_TITLE],
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        **front_matter.licence(config["pretrained_cfg"].get("license") or "unknown"),
    }
    if remote:
        front["models"] = [re.sub(r"hf://|@.*", "", pulled.address)]
    text = front_matter.written(front) + "\n" + _README.format(
        title=inline(title),
        feeling=app_page.FEELING,
        privacy=app_page.SERVED,
        model=code(pulled.address) if remote else "in `model`, whose card is beside it",
        private=_PRIVATE if remote else "",
        version=__version__,
        limits=card.limits(),
        licence=inline(artifact.licence(pulled.folder, config)),
    )  # fmt: skip
    front_matter.check(text)
    return text
