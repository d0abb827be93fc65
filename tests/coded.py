"""Pictures as the files that tests need."""

import io
from typing import Any

from PIL import Image


def coded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    """The file of a picture, of the kind that Pillow calls so."""
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()
