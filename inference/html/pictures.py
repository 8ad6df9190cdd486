"""Figures of a run as data URLs inside a page, within a number of bytes."""

import base64
import io
import math
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from inference.backend.files import read_regular
from inference.errors import UserError

MAX_BYTES, MAX_PIXELS = 2**25, 40_000_000  # of a file that is read
LOSSLESS = {"lossless": True, "method": 4}  # of Pillow's WebP; a method is from 0, quick, to 6, small


def embedded(path: Path, most: int) -> tuple[str, int, int]:
    """Returns an image as a data URL, and its width and height.

    The image is encoded without loss if it fits, else with 256 colours, else also at a smaller size.

    Args:
        path: a PNG file.
        most: maximum size in bytes, before base64.

    Raises:
        UserError: the file is not a PNG, or too large.
    """
    image = _open(path, 2_400)
    size, content = image.size, _webp(image, **LOSSLESS)
    while len(content) > most and max(image.size) > 32:
        content = _webp(image.quantize(256).convert("RGB"), **LOSSLESS)
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
    return _data_url(content), *size


def thumbnail(path: Path, most: int) -> str:
    """Returns a small image as a data URL of at most `most` bytes before base64.

    Raises:
        UserError: the file is not a PNG, or too large.
    """
    image = _open(path, 600)
    content = _webp(image, quality=75)
    while len(content) > most and max(image.size) > 32:
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
        content = _webp(image, quality=75)
    return _data_url(content)


def _open(path: Path, width: int) -> Image.Image:
    """Returns a PNG in colour, at most `width` pixels wide. Raises UserError if it cannot be shown."""
    try:
        content = read_regular(path, MAX_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
                if math.prod(opened.size) > MAX_PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels")
                image = opened.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for invalid files
        reason = str(error)[:100] or type(error).__name__
        raise UserError(f"{path} cannot be shown ({reason}). Move it away, or make it again.") from None
    if image.width <= width:
        return image
    return image.resize((width, max(round(image.height * width / image.width), 1)))


def _webp(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **options)
    return file.getvalue()


def _data_url(content: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
